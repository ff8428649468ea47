"""Writes the pages that come from code: the map of modules, and the reference of commands, settings and errors.

`make docs` runs it; `tests/docs` asserts that what stands here is what it writes.
"""

import ast
import sys
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import typer

from devtools_platform.cli.main import app
from devtools_platform.cli.rollout import ROLLED_BACK
from devtools_platform.cli.task import NO_BRANCH
from devtools_platform.config import Settings
from devtools_platform.core.errors import DevToolsError

ROOT = Path(__file__).parents[1]
SOURCE = ROOT / "src" / "devtools_platform"
NOTE = "<!-- Written by docs/generate.py (`make docs`); do not edit. -->\n\n"


def pages() -> dict[str, str]:
    """Path below `docs/` -> text."""
    return {
        "map.md": NOTE + module_map(),
        "reference/cli.md": NOTE + cli(),
        "reference/settings.md": NOTE + settings(),
        "reference/errors.md": NOTE + errors(),
        "reference/exit-codes.md": NOTE + exit_codes(),
    }


def module_map() -> str:
    lines = ["# Map: what each module owns\n", "One line a module, the first of its own docstring.\n"]
    for path in sorted(SOURCE.rglob("*.py")):
        module = path.relative_to(SOURCE).as_posix()
        summary = (ast.get_docstring(ast.parse(path.read_text())) or "").split("\n\n")[0].replace("\n", " ")
        if module.endswith("/__init__.py") and module.count("/") == 1:
            lines.append(f"\n## {module.removesuffix('/__init__.py')}\n\n{summary}\n")
        else:
            lines.append(f"- `{module}`: {summary}")
    return "\n".join(lines) + "\n"


def cli() -> str:
    group = typer.main.get_command(app)
    return "# Commands\n\n" + "\n".join(_commands(group, "dev-tools"))


def _commands(command: object, name: str) -> Iterator[str]:
    subcommands = getattr(command, "commands", {})
    if subcommands:
        for sub, value in subcommands.items():
            yield from _commands(value, f"{name} {sub}")
        return
    yield f"## {name}\n\n{(getattr(command, 'help', '') or '').strip()}\n"
    for parameter in getattr(command, "params", []):
        names = ", ".join(parameter.opts + parameter.secondary_opts)
        text = (getattr(parameter, "help", None) or "").strip()
        yield f"- `{names}`" + (f": {text}" if text else "")
    yield ""


def settings() -> str:
    notes = _attribute_docs(SOURCE / "config" / "settings.py", "Settings")
    lines = ["# Settings\n", "Set them in the environment. Unknown names are refused.\n"]
    for name, field in Settings.model_fields.items():
        default = "" if field.default_factory or field.default is None else f" Default: `{field.default}`."
        lines.append(f"- `{_env_name(name)}`: {notes.get(name, name.replace('_', ' ').capitalize() + '.')}{default}")
    return "\n".join(lines) + "\n"


def _env_name(name: str) -> str:
    by_others = {"database_url", "gradient_model_access_key", "qdrant_url", "qdrant_api_key"}
    return name.upper() if name in by_others else f"DEV_TOOLS_{name.upper()}"


def _attribute_docs(path: Path, class_name: str) -> dict[str, str]:
    """The string that stands below each attribute."""
    tree = ast.parse(path.read_text())
    body = next(node.body for node in ast.walk(tree) if isinstance(node, ast.ClassDef) and node.name == class_name)
    found: dict[str, str] = {}
    for before, after in pairwise(body):
        is_text = isinstance(after, ast.Expr) and isinstance(after.value, ast.Constant)
        if is_text and isinstance(before, ast.AnnAssign) and isinstance(before.target, ast.Name):
            found[before.target.id] = " ".join(str(after.value.value).split())
    return found


def errors() -> str:
    lines = ["# Errors\n", "| code | HTTP status | exit code | meaning |", "|---|---|---|---|"]
    for error in _subclasses(DevToolsError):
        if "code" in vars(error) and error.__module__.endswith("core.errors"):
            meaning = (error.__doc__ or "").split("\n")[0]
            lines.append(f"| `{error.code}` | {error.status} | {error.exit_code} | {meaning} |")
    return "\n".join(lines) + "\n"


def exit_codes() -> str:
    """What a command's exit code says: its own outcomes, then the errors that share one."""
    by_code: dict[int, list[str]] = {}
    for error in _subclasses(DevToolsError):
        if "code" in vars(error) and error.__module__.endswith("core.errors"):
            by_code.setdefault(error.exit_code, []).append(f"`{error.code}`")
    own = {
        0: "done",
        1: "a check did not hold (`audit verify`, `traces validate`, `doctor`), or a program or a tool that failed",
        NO_BRANCH: "a task ended without a branch, or a review blocks",
        ROLLED_BACK: "a rollout did not make it; every host is on the release before",
        130: "interrupted (Ctrl-C)",
    }
    lines = ["# Exit codes\n", "With `--json` the error's `code` and `hint` are on standard output.\n"]
    lines += ["| exit code | meaning | errors |", "|---|---|---|"]
    for code in sorted({*own, *by_code}):
        lines.append(f"| {code} | {own.get(code, '')} | {', '.join(by_code.get(code, []))} |")
    return "\n".join(lines) + "\n"


def _subclasses(base: type[DevToolsError]) -> Iterator[type[DevToolsError]]:
    for child in base.__subclasses__():
        yield child
        yield from _subclasses(child)


def main() -> None:
    target = Path(sys.argv[1]) if len(sys.argv) > 1 else ROOT / "docs"
    for name, text in pages().items():
        path = target / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)


if __name__ == "__main__":
    main()
