"""Files a program can write by itself from what a repository has: pipelines, a container file, an API reference.

Pure: reads through what it is given and returns texts. What cannot be told from the files is asked for by an error,
never guessed.
"""

import ast
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Literal

from devtools_platform.core.errors import ToolFailed
from devtools_platform.gateway.toolsets.test_command import TestCommand

Read = Callable[[str], str | None]
Kind = Literal["github-pipeline", "gitlab-pipeline", "container", "api-reference"]

MAX_MODULES = 300
NOT_PUBLIC = frozenset({"tests", "test", "docs", "examples", "bench"})


@dataclass(frozen=True)
class Stack:
    """What a project is built with. Versions are those of the day this was written (2026-11); nobody was asked."""

    language: str
    image: str
    setup: tuple[str, str]
    """GitHub's action that brings it, and the line under `with`."""
    install: tuple[str, ...]
    test: str


def scaffold(kind: Kind, files: Collection[str], read: Read, found: TestCommand | None) -> dict[str, str]:
    """The files to write, by path. Raises `ToolFailed` naming what is missing or in the way."""
    if kind == "api-reference":
        return {"docs/api.md": api_reference(files, read)}
    stack = find_stack(files, found)
    made = {
        "github-pipeline": lambda: {".github/workflows/ci.yml": _github(stack)},
        "gitlab-pipeline": lambda: {".gitlab-ci.yml": _gitlab(stack)},
        "container": lambda: {"Dockerfile": _dockerfile(stack, files), ".dockerignore": ".git\n.venv\nnode_modules\n"},
    }[kind]()
    if there := sorted(set(made) & set(files)):
        raise ToolFailed(f"{there[0]} is there already; a scaffold overwrites nothing.")
    return made


def find_stack(files: Collection[str], found: TestCommand | None) -> Stack:
    """Raises `ToolFailed` when the files do not tell."""
    if "package.json" in files:
        lock = "npm ci" if "package-lock.json" in files else "npm install"
        return Stack("node", "node:24-slim", ("actions/setup-node@v6", "node-version: 24"), (lock,), "npm test")
    if "go.mod" in files:
        setup = ("actions/setup-go@v6", "go-version-file: go.mod")
        return Stack("go", "golang:1.25", setup, ("go mod download",), "go test ./...")
    if "Cargo.toml" in files:
        return Stack("rust", "rust:1.90-slim", ("", ""), ("cargo fetch",), "cargo test")
    if any(path.endswith(".py") for path in files):
        setup = ("actions/setup-python@v6", 'python-version: "3.12"')
        return Stack("python", "python:3.12-slim", setup, _python_install(files, found), _python_test(found))
    raise ToolFailed("Nothing in the repository tells which language it is in.", hint="A model can be told what to do.")


def _python_install(files: Collection[str], found: TestCommand | None) -> tuple[str, ...]:
    pip = "python -m pip install --no-cache-dir"
    lines = [f"{pip} -r {name}" for name in ("requirements.txt", "requirements-dev.txt") if name in files]
    lines += [f"{pip} ."] if {"pyproject.toml", "setup.py"} & set(files) else []
    lines += [f"{pip} pytest"] if found is not None and found.runner == "pytest" else []
    return tuple(lines)


def _python_test(found: TestCommand | None) -> str:
    if found is None:
        raise ToolFailed("No test command was found, so there is nothing for a pipeline to run.")
    words = ("python", *found.argv[1:]) if found.runner in {"pytest", "unittest"} else found.argv
    return " ".join(words)


def _github(stack: Stack) -> str:
    action, option = stack.setup
    setup = f"      - uses: {action}\n        with:\n          {option}\n" if action else ""
    steps = "".join(f"      - run: {line}\n" for line in (*stack.install, stack.test))
    return (
        "name: ci\non:\n  push:\n    branches: [main]\n  pull_request:\npermissions:\n  contents: read\n"
        "concurrency:\n  group: ci-${{ github.ref }}\n  cancel-in-progress: true\n"
        "jobs:\n  test:\n    runs-on: ubuntu-24.04\n    timeout-minutes: 20\n    steps:\n"
        f"      - uses: actions/checkout@v5\n        with:\n          persist-credentials: false\n{setup}{steps}"
    )


def _gitlab(stack: Stack) -> str:
    script = "".join(f"    - {line}\n" for line in (*stack.install, stack.test))
    return f"test:\n  image: {stack.image}\n  timeout: 20m\n  script:\n{script}"


def _dockerfile(stack: Stack, files: Collection[str]) -> str:
    if stack.language not in {"python", "node"}:
        raise ToolFailed(f"How a {stack.language} project is started cannot be told from its files.")
    if stack.language == "node":
        copy = "COPY package*.json ./\nRUN npm install --omit=dev\n"
        return f'FROM {stack.image}\nWORKDIR /app\n{copy}COPY . .\nUSER node\nCMD ["npm", "start"]\n'
    installs = [line for line in stack.install if not line.endswith((" pytest", "requirements-dev.txt"))]
    packages = sorted({str(PurePosixPath(p).parent) for p in files if p.endswith("__main__.py")})
    if not packages:
        raise ToolFailed("No package has a `__main__.py`, so how the project is started cannot be told.")
    module = packages[0].removeprefix("src/").replace("/", ".")
    run = "".join(f"RUN {line}\n" for line in installs)
    return (
        f"FROM {stack.image}\nWORKDIR /app\nCOPY . .\n{run}"
        f'RUN useradd --system --uid 10001 app\nUSER app\nCMD ["python", "-m", "{module}"]\n'
    )


def api_reference(files: Collection[str], read: Read) -> str:
    """Every public module, class and function of the Python code: its signature and the first line of its docstring."""
    modules = sorted(path for path in files if path.endswith(".py") and _is_public(path))[:MAX_MODULES]
    sections = [section for path in modules if (section := _module(path, read(path) or ""))]
    if not sections:
        raise ToolFailed("There is no public Python code to describe; other languages take a model.")
    return "# API reference\n\nWritten from the code; do not edit.\n\n" + "\n".join(sections)


def _is_public(path: str) -> bool:
    parts = PurePosixPath(path).with_suffix("").parts
    private = any(part.startswith(("_", "test_", "conftest", "setup")) and part != "__init__" for part in parts)
    return not private and not NOT_PUBLIC & set(parts)


def _module(path: str, text: str) -> str:
    try:
        tree = ast.parse(text)
    except SyntaxError:
        return ""
    name = ".".join(PurePosixPath(path.removeprefix("src/")).with_suffix("").parts).removesuffix(".__init__")
    entries = [entry for node in tree.body for entry in _entries(node, "")]
    if not entries:
        return ""
    summary = _summary(tree)
    return f"## {name}\n\n" + (f"{summary}\n\n" if summary else "") + "".join(entries)


def _entries(node: ast.stmt, owner: str) -> Sequence[str]:
    if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef) or node.name.startswith("_"):
        return []
    summary = _summary(node)
    if isinstance(node, ast.ClassDef):
        bases = ", ".join(ast.unparse(base) for base in node.bases)
        said = f"class {node.name}({bases})" if bases else f"class {node.name}"
        inner = [entry for child in node.body for entry in _entries(child, f"{node.name}.")]
        return [_entry(said, summary), *inner]
    returns = f" -> {ast.unparse(node.returns)}" if node.returns else ""
    prefix = "async " if isinstance(node, ast.AsyncFunctionDef) else ""
    return [_entry(f"{prefix}{owner}{node.name}({ast.unparse(node.args)}){returns}", summary)]


def _entry(signature: str, summary: str) -> str:
    return f"- `{signature}`" + (f": {summary}" if summary else "") + "\n"


def _summary(node: ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef) -> str:
    return (ast.get_docstring(node) or "").split("\n", 1)[0].strip()
