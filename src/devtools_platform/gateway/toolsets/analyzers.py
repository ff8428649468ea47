"""Judges what a change added with programs that do not guess: ruff, bandit and the shapes of secrets.

Analyzers read the workspace from inside the sandbox, with our own interpreter in isolated mode (a `ruff.py`
or `json.py` in the workspace must not be imported) and heed neither its settings nor silencing comments.
One that did not run is named with the reason: nothing here approves by saying nothing.
"""

import re
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from json import JSONDecodeError, JSONDecoder
from pathlib import Path, PurePosixPath
from typing import Any, cast

from devtools_platform.core.redact import find_secrets, redact_text
from devtools_platform.core.tasks import Degradation, Finding, Severity
from devtools_platform.kit import git
from devtools_platform.kit.sandbox import WORKSPACE, CommandResult, Limits, run_sandboxed

MAX_DIFF_BYTES = 20_000_000
MAX_FINDINGS = 100
OUTPUT_BYTES = 20_000_000

AddedLines = Mapping[str, Mapping[int, str]]

_RUFF = (
    *(
        "check",
        "--isolated",
        "--no-cache",
        "--quiet",
        "--exit-zero",
        "--ignore-noqa",
        "--output-format",
        "json",
    ),
    *(
        "--select",
        "E9,F,B",
    ),  # security is bandit's: the same rules under ruff's names would only say it twice
    *(
        "--target-version",
        "py314",
    ),  # the newest syntax: what the project's own Python refuses, its tests show
    *("--config", 'builtins = ["_"]'),  # gettext installs it
)
_BANDIT = ("--quiet", "--format", "json", "--exit-zero", "--ignore-nosec", "--exclude", "/nothing")

_BROKEN = ("E9", "F82", "invalid-syntax")
"""Ruff's rules for code that cannot run: syntax errors and undefined names."""
_AUDIT_ONLY = {"B310", *(f"B{number}" for number in range(313, 321))}
"""Bandit's reminders to look at every call of `urlopen` and the XML parsers, whatever is passed to them."""


@dataclass(frozen=True)
class Analysis:
    """`ran` and `not_run` name the analyzers; one that had nothing to look at is in neither."""

    findings: tuple[Finding, ...]
    ran: tuple[str, ...]
    not_run: tuple[Degradation, ...]
    omitted: int = 0
    """Findings over `MAX_FINDINGS`; blocking ones are never among them."""


async def analyze(
    workspace: Path, base: str, *, limits: Limits, isolate: bool, program: Path | None = None
) -> Analysis:
    """Analyze what the workspace adds to `base`."""
    added = await git.added_lines(workspace, base, MAX_DIFF_BYTES)
    if added is None:
        why = f"The difference is larger than {MAX_DIFF_BYTES} bytes."
        return Analysis((), (), tuple(Degradation(what=name, why=why) for name in ("secrets", "ruff", "bandit")))
    analyses = [Analysis(find_added_secrets(added), ("secrets",), ())]
    sources = [path for path in await git.list_files(workspace) if path in added and path.endswith(".py")]
    if sources:
        limits = replace(limits, output_bytes=OUTPUT_BYTES)
        root = WORKSPACE if isolate else str(workspace)
        for name, options, parse in (("ruff", _RUFF, parse_ruff), ("bandit", _BANDIT, parse_bandit)):
            targets = [f"{root}/{path}" for path in sources]
            command = [sys.executable, "-I", "-m", name, *options, "--", *targets]
            done = await run_sandboxed(
                command,
                workspace=workspace,
                limits=limits,
                program=program,
                writable=False,
                isolate=isolate,
                is_redacted=False,
            )
            analyses.append(judge_report(name, done, partial(parse, added=added, root=f"{root}/")))
    return _together(analyses)


def find_added_secrets(added: AddedLines) -> tuple[Finding, ...]:
    """A finding for everything among the added lines that has the shape of a secret."""
    findings: list[Finding] = []
    for path, lines in added.items():
        numbers = list(lines)
        for place, looks_like in find_secrets("\n".join(lines.values())):
            message = f"Looks like a secret ({looks_like}); it must not be committed."
            secret = Finding(
                source="secrets",
                rule="secret",
                severity="high",
                path=path,
                line=numbers[place - 1],
                message=message,
                is_blocking=True,
            )
            findings.append(secret)
    return tuple(findings)


def parse_ruff(report: Any, added: AddedLines, root: str) -> Analysis:
    """Findings of ruff's JSON report: all on added lines, and elsewhere only what cannot run."""
    findings: list[Finding] = []
    for entry in report:
        path, rule = entry["filename"].removeprefix(root), entry["code"] or entry["name"]
        first, last = entry["location"]["row"], entry["end_location"]["row"]
        is_broken = rule.startswith(_BROKEN)
        is_added = _touches(added, path, first, last)
        if rule == "invalid-syntax":
            # The parser stumbles at the wrong line or after it, never before.
            is_added = any(line <= first for line in added.get(path, ()))
        severity: Severity = "high" if is_broken else "medium" if rule.startswith("B") else "low"
        if is_added or is_broken:
            finding = Finding(
                source="ruff",
                rule=rule,
                severity=severity,
                path=path,
                line=first,
                message=redact_text(entry["message"]),
                is_blocking=is_added and is_broken,
            )
            findings.append(finding)
    return Analysis(tuple(findings), ("ruff",), ())


def parse_bandit(report: Any, added: AddedLines, root: str) -> Analysis:
    """Findings of bandit's JSON report, likewise. Tests may do what products must not."""
    findings: list[Finding] = []
    for entry in report["results"]:
        path, rule = entry["filename"].removeprefix(root), entry["test_id"]
        severity = cast("Severity", entry["issue_severity"].lower())
        lines = [entry["line_number"], *entry["line_range"]]
        is_added = _touches(added, path, min(lines), max(lines))
        is_dangerous = _is_dangerous(rule, severity, entry["issue_confidence"]) and not _is_test(path)
        if (is_added and (severity != "low" or not _is_test(path))) or severity == "high":
            finding = Finding(
                source="bandit",
                rule=rule,
                severity=severity,
                path=path,
                line=entry["line_number"],
                message=redact_text(f"{entry['issue_text']} (confidence: {entry['issue_confidence'].lower()})"),
                is_blocking=is_added and is_dangerous,
            )
            findings.append(finding)
    unread = tuple(
        Degradation(what="bandit", why=f"{error['filename'].removeprefix(root)}: {error['reason']}")
        for error in report["errors"]
    )
    return Analysis(tuple(findings), ("bandit",), unread)


def _is_dangerous(rule: str, severity: Severity, confidence: str) -> bool:
    if rule == "B608":  # SQL made of strings: bandit is never more than moderately sure of it
        return confidence != "LOW"
    return severity == "high" or (severity == "medium" and confidence == "HIGH" and rule not in _AUDIT_ONLY)


def judge_report(name: str, done: CommandResult, parse: Callable[[Any], Analysis]) -> Analysis:
    """The parsed report, or the analyzer named as not run."""
    if done.exit_code == 0:
        try:
            return parse(_report_in(done.output))
        except (JSONDecodeError, KeyError, TypeError, AttributeError) as error:
            why = f"Its report cannot be read ({error!r})."
    else:
        ending = f"was ended by its {done.ended_by} limit" if done.ended_by else f"failed with exit {done.exit_code}"
        why = f"It {ending}."
    return Analysis((), (), (Degradation(what=name, why=redact_text(f"{why} {done.output[-500:].strip()}")),))


def _report_in(output: str) -> Any:
    """The JSON document in `output`, past any warnings before it."""
    start = re.search(r"^[\[{]", output, re.MULTILINE)
    if start is None:
        raise JSONDecodeError("no JSON document", output[:200], 0)
    return JSONDecoder().raw_decode(output, start.start())[0]


def _together(analyses: Sequence[Analysis]) -> Analysis:
    findings = sorted(
        (finding for analysis in analyses for finding in analysis.findings),
        key=lambda finding: (not finding.is_blocking, finding.path, finding.line or 0, finding.rule),
    )
    keep = max(MAX_FINDINGS, sum(finding.is_blocking for finding in findings))
    return Analysis(
        findings=tuple(findings[:keep]),
        ran=tuple(name for analysis in analyses for name in analysis.ran),
        not_run=tuple(missing for analysis in analyses for missing in analysis.not_run),
        omitted=len(findings[keep:]),
    )


def _touches(added: AddedLines, path: str, first: int, last: int) -> bool:
    return any(first <= line <= last for line in added.get(path, ()))


def _is_test(path: str) -> bool:
    pure = PurePosixPath(path)
    if pure.name == "conftest.py" or pure.name.startswith("test_") or pure.stem.endswith("_test"):
        return True
    return any(folder in ("tests", "test") for folder in pure.parts[:-1])
