"""Analyzers for Python: ruff, bandit, and the type checker a repository configures."""

import re
import tomllib
from collections.abc import Callable, Collection, Sequence
from json import loads
from pathlib import Path
from typing import Any, cast

from devtools_platform.core.tasks import Severity
from devtools_platform.gateway.toolsets.analyzers.types import Analyzer, Confidence, Program, Raw, Report

_RUFF = (
    *("check", "--isolated", "--no-cache", "--quiet", "--exit-zero", "--ignore-noqa", "--output-format", "json"),
    *("--select", "E9,F,B"),  # security is bandit's: the same rules under ruff's names would only say it twice
    *("--target-version", "py314"),  # the newest syntax: what the project's own Python refuses, its tests show
    *("--config", 'builtins = ["_"]'),  # gettext installs it
)
_BANDIT = ("--quiet", "--format", "json", "--exit-zero", "--ignore-nosec", "--exclude", "/nothing")
_BROKEN = ("E9", "F82", "invalid-syntax")
"""Ruff's rules for code that cannot run: syntax errors and undefined names."""


def _is_python(path: str) -> bool:
    return path.endswith((".py", ".pyi"))


def parse_ruff(report: Any, root: str) -> Report:
    """Ruff's JSON."""
    return Report(tuple(_ruff_remark(entry, root) for entry in report))


def _ruff_remark(entry: Any, root: str) -> Raw:
    rule = entry["code"] or entry["name"]
    first, last = entry["location"]["row"], entry["end_location"]["row"]
    severity: Severity = "high" if rule.startswith(_BROKEN) else "medium" if rule.startswith("B") else "low"
    # The parser stumbles at the wrong line or after it, never before.
    span = (1, first) if rule == "invalid-syntax" else (first, last)
    fix: dict[str, Any] = entry.get("fix") or {}
    path = entry["filename"].removeprefix(root)
    return Raw(rule, severity, path, first, entry["message"], span, suggestion=fix.get("message"))


def parse_bandit(report: Any, root: str) -> Report:
    """Bandit's JSON."""
    remarks: list[Raw] = []
    for entry in report["results"]:
        lines = [entry["line_number"], *entry["line_range"]]
        confidence = cast("Confidence", entry["issue_confidence"].lower())
        raw = Raw(
            entry["test_id"],
            cast("Severity", entry["issue_severity"].lower()),
            entry["filename"].removeprefix(root),
            entry["line_number"],
            f"{entry['issue_text']} (confidence: {confidence})",
            (min(lines), max(lines)),
            suggestion=f"See {entry['more_info']}" if entry.get("more_info") else None,
            confidence=confidence,
        )
        remarks.append(raw)
    unread = tuple(f"{error['filename'].removeprefix(root)}: {error['reason']}" for error in report["errors"])
    return Report(tuple(remarks), unread)


RUFF = Analyzer("ruff", Program("ruff", "module"), _is_python, lambda files: (*_RUFF, "--", *files), parse_ruff)
BANDIT = Analyzer(
    "bandit", Program("bandit", "module"), _is_python, lambda files: (*_BANDIT, "--", *files), parse_bandit
)


def configured_type_checkers(files: Collection[str], read: Callable[[str], str | None]) -> tuple[str, ...]:
    """The type checkers a repository has a configuration for: `mypy`, `pyright`."""
    tools = _tool_sections(read("pyproject.toml") if "pyproject.toml" in files else None)
    setup = read("setup.cfg") if "setup.cfg" in files else None
    has_mypy = "mypy" in tools or {"mypy.ini", ".mypy.ini"} & set(files) or "[mypy" in (setup or "")
    has_pyright = "pyright" in tools or "pyrightconfig.json" in files
    return tuple(name for name, is_there in (("mypy", has_mypy), ("pyright", has_pyright)) if is_there)


def type_checker(name: str, project: Path | None) -> Analyzer:
    """The checker of the project's own environment if it has one, else ours.

    Its configuration is the repository's: that is what it is run for.
    """
    own = project.parent / name if project else None
    program = Program(str(own)) if own and own.is_file() else Program(name)
    if name == "mypy":
        options = ("--output", "json", "--no-incremental", "--cache-dir", "/dev/null", "--no-error-summary")
        return Analyzer(
            name, program, _is_python, _after(options), parse_mypy, exits=frozenset({0, 1}), reads=_json_lines
        )
    return Analyzer(name, program, _is_python, _after(("--outputjson",)), parse_pyright, exits=frozenset({0, 1}))


def parse_mypy(report: Any, root: str) -> Report:
    """Mypy's JSON lines."""
    return Report(
        tuple(
            Raw(
                entry.get("code") or "mypy",
                "high" if entry["severity"] == "error" else "info",
                entry["file"].removeprefix(root),
                entry["line"],
                entry["message"],
                suggestion=entry.get("hint"),
            )
            for entry in report
        )
    )


def parse_pyright(report: Any, root: str) -> Report:
    """Pyright's JSON."""
    levels: dict[str, Severity] = {"error": "high", "warning": "low", "information": "info"}
    return Report(
        tuple(
            Raw(
                entry.get("rule", "syntax"),
                levels[entry["severity"]],
                entry["file"].removeprefix(root),
                entry["range"]["start"]["line"] + 1,
                entry["message"],
                (entry["range"]["start"]["line"] + 1, entry["range"]["end"]["line"] + 1),
            )
            for entry in report["generalDiagnostics"]
        )
    )


def _after(options: Sequence[str]) -> Callable[[Sequence[str]], Sequence[str]]:
    return lambda files: (*options, *files)


def _json_lines(output: str) -> Any:
    return [loads(line) for line in re.findall(r"^\{.*\}$", output, re.MULTILINE)]


def _tool_sections(text: str | None) -> set[str]:
    try:
        tools: object = tomllib.loads(text or "").get("tool", {})
    except tomllib.TOMLDecodeError:
        return set()
    return set(cast("dict[str, object]", tools)) if isinstance(tools, dict) else set()
