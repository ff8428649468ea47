"""How a project runs its own tests, found out from its files. Pure: files in, command out."""

import json
import re
import sys
import tomllib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from importlib.util import find_spec
from typing import Any, cast

Read = Callable[[str], str]
"""The text of a file by its path; "" where it cannot be read."""

_TEST_FILE = re.compile(r"(^|/)(test_[^/]*|[^/]*_test|tests?)\.py$")
_USES_PYTEST = re.compile(r"^\s*(import pytest|from pytest|(async )?def test_)", re.MULTILINE)
_PYTEST_FILES = frozenset({"pytest.ini", "conftest.py", "tests/conftest.py", "testing/conftest.py"})
MAX_FILES_LOOKED_AT = 50


@dataclass(frozen=True)
class TestCommand:
    """A command and what it needs in its environment. `why` says how it was found."""

    __test__ = False

    command: tuple[str, ...]
    why: str
    env: dict[str, str] = field(default_factory=dict[str, str])


def detect(files: Sequence[str], read: Read) -> TestCommand | None:
    """The project's test command, or None when none can be told. `dev-tools.toml` decides where it is given."""
    known = frozenset(files)
    for rule in (_configured, _python, _node, _go, _rust, _make):
        found = rule(known, read)
        if found is not None:
            return found
    return None


def _configured(files: frozenset[str], read: Read) -> TestCommand | None:
    if "dev-tools.toml" not in files:
        return None
    command: Any = _toml(read("dev-tools.toml")).get("test", {}).get("command")
    if not isinstance(command, list) or not command:
        return None
    words = tuple(str(part) for part in cast("list[Any]", command))
    return TestCommand(words, "dev-tools.toml", _python_env(files))


def _python(files: frozenset[str], read: Read) -> TestCommand | None:
    tests = sorted(path for path in files if _TEST_FILE.search(path))
    if not tests and not files & _PYTEST_FILES:
        return None
    env = _python_env(files)
    python = sys.executable
    if _is_for_pytest(files, tests, read) and find_spec("pytest") is not None:
        return TestCommand((python, "-m", "pytest", "-q", "-p", "no:cacheprovider"), "pytest", env)
    if _is_for_pytest(files, tests, read):
        return TestCommand(("python3", "-m", "pytest", "-q", "-p", "no:cacheprovider"), "pytest", env)
    folder = tests[0].split("/", 1)[0] if tests and all("/" in path for path in tests) else "."
    where = ("-s", folder, "-t", ".") if f"{folder}/__init__.py" in files else ("-s", folder)
    return TestCommand((python, "-m", "unittest", "discover", *where), "unittest", env)


def _is_for_pytest(files: frozenset[str], tests: Sequence[str], read: Read) -> bool:
    if files & _PYTEST_FILES:
        return True
    if "pyproject.toml" in files and "pytest" in _toml(read("pyproject.toml")).get("tool", {}):
        return True
    if any(name in files and f"[{section}]" in read(name) for name, section in
           (("setup.cfg", "tool:pytest"), ("tox.ini", "pytest"))):  # fmt: skip
        return True
    return any(_USES_PYTEST.search(_top_level(read(path))) for path in tests[:MAX_FILES_LOOKED_AT])


def _top_level(text: str) -> str:
    """Imports anywhere and definitions at the margin: a method `test_x` belongs to unittest."""
    return "\n".join(line for line in text.splitlines() if not line.startswith((" ", "\t")) or "import" in line)


def _python_env(files: frozenset[str]) -> dict[str, str]:
    roots = ["/workspace/src", "/workspace"] if any(path.startswith("src/") for path in files) else ["/workspace"]
    return {"PYTHONPATH": ":".join(roots)}


def _node(files: frozenset[str], read: Read) -> TestCommand | None:
    if "package.json" not in files:
        return None
    try:
        script = json.loads(read("package.json")).get("scripts", {}).get("test", "")
    except (json.JSONDecodeError, AttributeError):
        return None
    is_real = bool(script) and "no test specified" not in script
    return TestCommand(("npm", "test", "--silent"), "package.json") if is_real else None


def _go(files: frozenset[str], _: Read) -> TestCommand | None:
    env = {"GOFLAGS": "-mod=mod", "GOCACHE": "/tmp/go-build"}  # noqa: S108 - inside the sandbox
    return TestCommand(("go", "test", "./..."), "go.mod", env) if "go.mod" in files else None


def _rust(files: frozenset[str], _: Read) -> TestCommand | None:
    return TestCommand(("cargo", "test", "--offline"), "Cargo.toml") if "Cargo.toml" in files else None


def _make(files: frozenset[str], read: Read) -> TestCommand | None:
    has_target = "Makefile" in files and re.search(r"^test:", read("Makefile"), re.MULTILINE)
    return TestCommand(("make", "test"), "Makefile") if has_target else None


def _toml(text: str) -> dict[str, Any]:
    try:
        return tomllib.loads(text)
    except tomllib.TOMLDecodeError:
        return {}
