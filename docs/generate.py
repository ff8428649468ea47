"""Writes the pages that come from code: the map of modules, and the reference of all that others build upon.

`make docs` runs it; `tests/docs` asserts that what stands here is what it writes.
"""

import ast
import sys
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import typer
from fastapi import FastAPI

from devtools_platform.agents.api import build_api as build_agents
from devtools_platform.cli.main import app
from devtools_platform.cli.rollout import ROLLED_BACK
from devtools_platform.cli.task import NO_BRANCH
from devtools_platform.config import Settings
from devtools_platform.context.api import build_api as build_context
from devtools_platform.core.errors import DevToolsError
from devtools_platform.gateway.api import build_api as build_gateway
from devtools_platform.observability.api import add_routes as add_observability
from devtools_platform.state.api import build_api as build_state

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
        "reference/http.md": NOTE + http(),
        "reference/metrics.md": NOTE + metrics(),
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


def http() -> str:
    """The routes of each service, as its own OpenAPI document has them."""
    lines = [
        "# HTTP\n",
        "Every call carries `Authorization: Bearer TOKEN`, but for `/health` and `/metrics`. Writes take an",
    ]
    lines += ["`Idempotency-Key`. Each service shows this with its schemas at `/openapi.json`. An error's body is"]
    lines += ["`{code, message, hint}`: [errors](errors.md).\n"]
    for service, port, api in _services():
        lines += [f"## {service} (:{port})\n", "| | path | what it does |", "|---|---|---|"]
        for path, methods in sorted(api.openapi()["paths"].items()):
            for method, route in methods.items():
                said = (route.get("description") or route["summary"].capitalize()).split("\n")[0].replace("|", "\\|")
                lines.append(f"| {method.upper()} | `{path}` | {said} |")
        lines.append("")
    lines += [
        "Beside these: `/mcp` (:8000) speaks MCP, and `/webhooks/github` and `/webhooks/linear` (:8009) take webhooks."
    ]
    return "\n".join(lines) + "\n"


def _services() -> Iterator[tuple[str, int, FastAPI]]:
    ports = {name: field.default for name, field in Settings.model_fields.items()}
    nobody: Any = _Nobody()
    gateway = build_gateway(nobody, token="", secret="", hub=nobody, search=nobody)
    yield "gateway", ports["gateway_port"], gateway.build_rest()
    yield "gateway: agents", ports["gateway_port"], build_agents(nobody, nobody, token="")
    yield "context", ports["context_port"], build_context(nobody, token="", remotes=nobody)
    state = build_state(nobody, admit=nobody, traces=nobody, token="")
    add_observability(state, nobody)
    yield "state", ports["state_port"], state


class _Nobody:
    """Stands where a service's parts would: its routes are looked at, and none is called."""

    def __getattr__(self, name: str) -> "_Nobody":
        return self

    def __call__(self, *_: Any, **__: Any) -> "_Nobody":
        return self

    def __iter__(self) -> Iterator[Any]:
        return iter(())


METRIC_KINDS = {"Counter": "counter", "Gauge": "gauge", "Histogram": "histogram"}


def metrics() -> str:
    lines = ["# Metrics\n", "At `/metrics` of each service. Durations are seconds; `le` marks a histogram's buckets.\n"]
    lines += ["| name | kind | labels | meaning |", "|---|---|---|---|"]
    return "\n".join([*lines, *sorted(row for path in SOURCE.rglob("*.py") for row in _metrics_in(path))]) + "\n"


def _metrics_in(path: Path) -> Iterator[str]:
    tree = ast.parse(path.read_text())
    named = {
        node.targets[0].id: node.value
        for node in tree.body
        if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name)
    }
    for node in ast.walk(tree):
        if not isinstance(node, ast.Call) or not isinstance(node.func, ast.Name):
            continue
        if node.func.id in METRIC_KINDS and "devtools_" in ast.unparse(node.args[0]):
            given = [*node.args[:3], *(word.value for word in node.keywords if word.arg == "labelnames")]
            read = [ast.literal_eval(named[one.id] if isinstance(one, ast.Name) else one) for one in given]
            name, meaning, labels = (*read, ())[:3]
            shown = ", ".join(f"`{label}`" for label in labels)
            yield f"| `{name}` | {METRIC_KINDS[node.func.id]} | {shown} | {meaning} |"


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
