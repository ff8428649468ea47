"""Finds out how a repository runs its own tests, from the files it has. Pure: reads through what it is given.

The repository's own word comes first: `dev-tools.toml` with `[test] command = ["..."]`. Callers read that
file from the commit a task started from, so that no task chooses how it is judged.
"""

import json
import re
import tomllib
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import PurePosixPath
from typing import Any, Literal, Protocol, cast

from devtools_platform.core.errors import ToolFailed

CONFIG_FILE = "dev-tools.toml"
HOW_TO_CONFIGURE = (
    f"No test command was found. Add {CONFIG_FILE} to the repository with a section `[test]` and the line "
    '`command = ["make", "test"]`, and commit it before the task starts.'
)
MAX_TEST_FILES_READ = 200

Read = Callable[[str], str | None]
Runner = Literal["configured", "pytest", "unittest", "npm", "go", "cargo", "make"]

_TEST_FILE = re.compile(r"(?:test_.*|.*_test|tests)\.py")
_PYTEST_STYLE = re.compile(r"^(?:import pytest\b|from pytest\b|(?:async )?def test_)", re.MULTILINE)
_MAKE_TEST = re.compile(r"^test\s*:(?!=)", re.MULTILINE)
_PYTEST_SECTION = {"setup.cfg": "[tool:pytest]", "tox.ini": "[pytest]", "pyproject.toml": "[tool.pytest"}
_PYTEST_FILES = {"pytest.ini", ".pytest.ini", "pytest.toml", ".pytest.toml"}


@dataclass(frozen=True)
class TestConfig:
    """What `dev-tools.toml` says about tests, and about where the repository's commands run."""

    __test__ = False

    command: tuple[str, ...] | None = None
    python: str | None = None
    """The project's interpreter, relative to the person's repository, such as `.venv/bin/python`."""
    image: str | None = None
    """`[sandbox] image`: whose system its commands see, where the stack's sandbox is Docker."""


@dataclass(frozen=True)
class TestCommand:
    """How to run the tests. `env` comes on top of the sandbox's own."""

    __test__ = False

    argv: tuple[str, ...]
    runner: Runner
    env: Mapping[str, str] = field(default_factory=dict[str, str])

    def on(self, paths: Sequence[str]) -> tuple[str, ...]:
        """The command line for these test files only; for all of them when there are none."""
        if not paths:
            return self.argv
        if self.runner in ("configured", "pytest"):
            return (*self.argv, *paths)
        if self.runner == "unittest":
            return (*self.argv[:3], *paths)
        if self.runner == "npm":
            return (*self.argv, "--", *paths)
        if self.runner == "go":
            return ("go", "test", *(f"./{path}" for path in paths))
        raise ToolFailed(f"`{' '.join(self.argv)}` cannot be given paths; call run_tests without them.")


class TestCommandDetector(Protocol):
    """Decides how a repository's tests are run."""

    __test__ = False

    def __call__(
        self, files: Collection[str], read: Read, *, config: TestConfig, python: str, root: str
    ) -> TestCommand | None: ...


def parse_config(text: str | None) -> TestConfig:
    """What a `dev-tools.toml` says; raises `ToolFailed` naming what is wrong with it."""
    try:
        document: dict[str, object] = tomllib.loads(text or "")
    except tomllib.TOMLDecodeError as error:
        raise ToolFailed(f"{CONFIG_FILE} is not valid TOML: {error}.") from None
    table, sandbox = _section(document, "test"), _section(document, "sandbox")
    command, python, image = table.get("command"), table.get("python"), sandbox.get("image")
    if command is not None and not _is_words(command):
        raise ToolFailed(f'{CONFIG_FILE}: `[test] command` must be a list of words, as ["make", "test"].')
    if python is not None and not _is_inside(python):
        raise ToolFailed(f"{CONFIG_FILE}: `[test] python` must be a path inside the repository.")
    if image is not None and not (isinstance(image, str) and image):
        raise ToolFailed(f'{CONFIG_FILE}: `[sandbox] image` must be the name of an image, as "python:3.12-slim".')
    return TestConfig(tuple(cast("list[str]", command)) if command else None, cast("str | None", python), image)


def _section(document: dict[str, object], name: str) -> dict[str, object]:
    section = document.get(name, {})
    if not isinstance(section, dict):
        raise ToolFailed(f"{CONFIG_FILE}: `{name}` must be a section, `[{name}]`.")
    return cast("dict[str, object]", section)


def detect_test_command(
    files: Collection[str], read: Read, *, config: TestConfig, python: str, root: str
) -> TestCommand | None:
    """The test command of a repository with these `files`, or None when nothing says how.

    `python` runs Python projects; `root` is where the command will find the repository.
    """
    env = _python_path(files, root)
    if config.command:
        return TestCommand(config.command, "configured", env)
    tests = sorted(path for path in files if _TEST_FILE.fullmatch(PurePosixPath(path).name))
    if _uses_pytest(files, tests, read):
        return TestCommand((python, "-m", "pytest"), "pytest", env)
    if tests:
        return TestCommand((python, "-m", "unittest", *_discovery(tests, files)), "unittest", env)
    return _other_language(files, read)


def _other_language(files: Collection[str], read: Read) -> TestCommand | None:
    if "package.json" in files and _npm_test(read("package.json")):
        return TestCommand(("npm", "test"), "npm")
    if "go.mod" in files:
        return TestCommand(("go", "test", "./..."), "go")
    if "Cargo.toml" in files:
        return TestCommand(("cargo", "test"), "cargo")
    if any(_MAKE_TEST.search(read(name) or "") for name in ("GNUmakefile", "makefile", "Makefile") if name in files):
        return TestCommand(("make", "test"), "make")
    return None


def _uses_pytest(files: Collection[str], tests: Sequence[str], read: Read) -> bool:
    if any(PurePosixPath(path).name == "conftest.py" or path in _PYTEST_FILES for path in files):
        return True
    if any(name in files and section in (read(name) or "") for name, section in _PYTEST_SECTION.items()):
        return True
    return any(_PYTEST_STYLE.search(read(path) or "") for path in tests[:MAX_TEST_FILES_READ])


def _discovery(tests: Sequence[str], files: Collection[str]) -> tuple[str, ...]:
    """Arguments that make unittest find all of `tests`.

    Its discovery only descends into packages and looks for `test*.py`, silent on what it passes over.
    Where that would miss a file, the files are named one by one.
    """
    start = _common_folder(tests)
    inside = {folder for path in tests for folder in _folders_between(path, start)}
    is_found = all(f"{folder}/__init__.py" in files for folder in inside)
    if not is_found or not all(PurePosixPath(path).name.startswith("test") for path in tests):
        return tuple(tests)
    if start == ".":
        return ("discover",)
    outer = [start, *(str(folder) for folder in PurePosixPath(start).parents if str(folder) != ".")]
    is_package = all(f"{folder}/__init__.py" in files for folder in outer)
    return ("discover", "-s", start, *(("-t", ".") if is_package else ()))


def _common_folder(paths: Sequence[str]) -> str:
    parents = [PurePosixPath(path).parent for path in paths]
    for candidate in (parents[0], *parents[0].parents):
        if all(parent.is_relative_to(candidate) for parent in parents):
            return str(candidate)
    return "."


def _folders_between(path: str, start: str) -> list[str]:
    """The folders on the way from `start` (left out) to the file."""
    parents = [str(folder) for folder in PurePosixPath(path).parents]
    return parents[: parents.index(start)]


def _python_path(files: Collection[str], root: str) -> dict[str, str]:
    """Tests must import the task's own code, not a copy that is installed in the interpreter."""
    has_src = any(path.startswith("src/") and path.endswith(".py") for path in files)
    if has_src:
        return {"PYTHONPATH": f"{root}/src:{root}"}
    return {"PYTHONPATH": root} if any(path.endswith(".py") for path in files) else {}


def _npm_test(text: str | None) -> bool:
    try:
        scripts: Any = json.loads(text or "").get("scripts", {})
    except (ValueError, AttributeError):
        return False
    script: Any = scripts.get("test") if isinstance(scripts, dict) else None  # pyright: ignore[reportUnknownMemberType, reportUnknownVariableType]
    return isinstance(script, str) and "no test specified" not in script  # npm init's placeholder


def _is_words(value: object) -> bool:
    if not isinstance(value, list) or not value:
        return False
    return all(isinstance(word, str) and word for word in cast("list[object]", value))


def _is_inside(path: object) -> bool:
    return isinstance(path, str) and not path.startswith("/") and ".." not in path.split("/")
