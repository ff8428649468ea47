"""Analyzers for pipelines: actionlint and zizmor for GitHub's workflows. Their schemas are `containers.SCHEMA`'s."""

import re
from pathlib import PurePosixPath
from typing import Any, cast

from devtools_platform.core.tasks import Severity
from devtools_platform.gateway.toolsets.analyzers.containers import PROGRAMS
from devtools_platform.gateway.toolsets.analyzers.types import Analyzer, Confidence, Program, Raw, Report

_WORKFLOW = re.compile(r"\.github/workflows/[^/]+\.ya?ml")
#: What actionlint only passes on: style of shell scripts, ages of actions and runners.
_MINOR_KINDS = frozenset({"shellcheck", "pyflakes", "ruff", "action", "runner-label", "deprecated-commands"})
_SHELL_ERROR = re.compile(r"SC\d+:error")


def is_workflow(path: str) -> bool:
    return _WORKFLOW.fullmatch(path) is not None


def is_action(path: str) -> bool:
    return PurePosixPath(path).name in {"action.yml", "action.yaml"}


def parse_actionlint(report: Any, root: str) -> Report:
    """Actionlint's JSON."""
    return Report(
        tuple(
            Raw(
                entry["kind"],
                "low" if entry["kind"] in _MINOR_KINDS and not _SHELL_ERROR.search(entry["message"]) else "high",
                entry["filepath"].removeprefix(root),
                entry["line"],
                entry["message"],
            )
            for entry in report or ()
        )
    )


def parse_zizmor(report: Any, root: str) -> Report:
    """Zizmor's JSON: the primary place of each finding, and what it marks as related."""
    severities: dict[str, Severity] = {"Informational": "info", "Low": "low", "Medium": "medium", "High": "high"}
    remarks: list[Raw] = []
    for entry in report:
        place = next(p for p in entry["locations"] if p["symbolic"]["kind"] == "Primary")
        where = place["concrete"]["location"]
        first, last = (where[end]["row"] + 1 for end in ("start_point", "end_point"))
        path = next(iter(place["symbolic"]["key"].values()))["verbatim_path"].removeprefix(root)
        fixes = [fix["title"] for fix in entry.get("fixes") or ()]
        raw = Raw(
            entry["ident"],
            severities[entry["determinations"]["severity"]],
            path,
            first,
            f"{entry['desc']}: {place['symbolic']['annotation']}",
            (first, last),
            suggestion=f"{fixes[0].capitalize()}." if fixes else f"See {entry['url']}",
            confidence=cast("Confidence", entry["determinations"]["confidence"].lower()),
        )
        remarks.append(raw)
    return Report(tuple(remarks))


ACTIONLINT = Analyzer(
    "actionlint",
    Program("actionlint"),
    is_workflow,
    lambda files: (
        *("-config-file", str(PROGRAMS / "actionlint.yaml"), "-pyflakes=", "-no-color", "-format", "{{json .}}"),
        *files,
    ),
    parse_actionlint,
    exits=frozenset({0, 1}),
    read_only_paths=(PROGRAMS,),
)
ZIZMOR = Analyzer(
    "zizmor",
    Program("zizmor"),
    lambda path: is_workflow(path) or is_action(path),
    lambda files: (
        *("--offline", "--no-progress", "--no-config", "--no-ignores", "--no-exit-codes", "--quiet"),
        *("--format", "json-v1", *files),
    ),
    parse_zizmor,
)
