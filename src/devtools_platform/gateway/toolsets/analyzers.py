"""What real analyzers say about a change: ruff and bandit in the sandbox, secret shapes on added lines.

A finding blocks only when it lies on a line the change added and is serious: secrets, code that cannot run, and
what bandit rates high, or medium with high confidence. Everything else is shown.
"""

import json
import re
import sys
from collections.abc import Mapping, Sequence
from typing import Any

from devtools_platform.core.redact import find_secrets
from devtools_platform.core.tasks import Finding, Severity

RUFF = (sys.executable, "-m", "ruff", "check", "--isolated", "--no-cache", "--exit-zero", "--output-format", "json")
RUFF_RULES = "E9,F,B,PLE"
BANDIT = (sys.executable, "-m", "bandit", "-q", "-f", "json", "--exit-zero")

_BROKEN = re.compile(r"^(E9|F82|PLE|invalid-syntax|syntax-error)")
_TEST_PATH = re.compile(r"(^|/)(tests?|testing)/|(^|/)(test_[^/]*|[^/]*_test|conftest)\.py$")
_HUNK = re.compile(r"^@@ -\S+ \+(\d+)(?:,\d+)? @@")
_SEVERITIES: Mapping[str, Severity] = {"LOW": "low", "MEDIUM": "medium", "HIGH": "high"}


def added_lines(diff: str) -> dict[str, dict[int, str]]:
    """Path -> line number in the new file -> text, for every line a unified diff adds."""
    found: dict[str, dict[int, str]] = {}
    path, number = "", 0
    for line in diff.splitlines():
        if line.startswith("+++ "):
            path = line[4:].removeprefix("b/").split("\t")[0]
            number = 0
        elif hunk := _HUNK.match(line):
            number = int(hunk[1])
        elif number and line.startswith("+"):
            found.setdefault(path, {})[number] = line[1:]
            number += 1
        elif number and not line.startswith(("-", "\\")):
            number += 1
    return found


def from_ruff(output: str, added: Mapping[str, Mapping[int, str]]) -> list[Finding]:
    """Raises ValueError when `output` is not ruff's."""
    return [_ruff_finding(row, added) for row in _rows(output)]


def _ruff_finding(row: Mapping[str, Any], added: Mapping[str, Mapping[int, str]]) -> Finding:
    path = _relative(row["filename"])
    line = int(row["location"]["row"])
    rule = str(row["code"] or "invalid-syntax")
    is_broken = _BROKEN.match(rule) is not None
    return Finding(
        source="ruff",
        rule=rule,
        severity="high" if is_broken else "low",
        path=path,
        line=line,
        message=str(row["message"]),
        # Broken syntax is reported where the parser gave up, often a line the change did not touch.
        is_blocking=is_broken and (line in added.get(path, {}) or "syntax" in rule),
    )


def from_bandit(output: str, added: Mapping[str, Mapping[int, str]]) -> list[Finding]:
    """Raises ValueError when `output` is not bandit's."""
    start = output.find("{")
    report: dict[str, Any] = json.loads(output[start:]) if start >= 0 else {}
    if "results" not in report:
        raise ValueError("no results in it")
    return [_bandit_finding(row, added) for row in report["results"]]


def _bandit_finding(row: Mapping[str, Any], added: Mapping[str, Mapping[int, str]]) -> Finding:
    path = _relative(row["filename"])
    severity = _SEVERITIES[row["issue_severity"]]
    is_serious = severity == "high" or (severity == "medium" and row["issue_confidence"] == "HIGH")
    lines = range(int(row["line_range"][0]), int(row["line_range"][-1]) + 1)
    is_added = any(line in added.get(path, {}) for line in lines)
    return Finding(
        source="bandit",
        rule=str(row["test_id"]),
        severity=severity,
        path=path,
        line=int(row["line_number"]),
        message=str(row["issue_text"]),
        is_blocking=is_serious and is_added and not _TEST_PATH.search(path),
    )


def from_secrets(added: Mapping[str, Mapping[int, str]]) -> list[Finding]:
    """A finding for each secret shape on an added line; the message does not repeat it."""
    return [
        Finding(
            source="secrets",
            rule="secret",
            severity="high",
            path=path,
            line=number,
            message=f"This line looks like it holds a secret ({shape}).",
            is_blocking=True,
        )
        for path, number, text in _in_blocks(added)
        for _, shape in find_secrets(text)
    ]


def _in_blocks(added: Mapping[str, Mapping[int, str]]) -> list[tuple[str, int, str]]:
    return [(path, number, text) for path, lines in added.items() for number, text in lines.items()]


def _rows(output: str) -> Sequence[Mapping[str, Any]]:
    start = output.find("[")
    rows = json.loads(output[start:]) if start >= 0 else None
    if rows is None:
        raise ValueError("no list in it")
    return rows


def _relative(path: str) -> str:
    return path.removeprefix("/workspace/").removeprefix("./")
