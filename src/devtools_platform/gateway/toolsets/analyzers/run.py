"""Runs the analyzers a change concerns, all at once within bounds, and turns what they say into findings."""

import asyncio
import re
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from fnmatch import fnmatchcase
from json import JSONDecodeError, JSONDecoder
from pathlib import Path
from typing import Any

from devtools_platform.core.errors import NoSandbox, ToolFailed
from devtools_platform.core.redact import redact_text
from devtools_platform.core.tasks import Degradation, Finding
from devtools_platform.gateway.toolsets import files
from devtools_platform.gateway.toolsets.analyzers.catalogue import ANALYZERS
from devtools_platform.gateway.toolsets.analyzers.config import OwnAnalyzer, ReviewConfig
from devtools_platform.gateway.toolsets.analyzers.dependencies import NAME as PIP_AUDIT
from devtools_platform.gateway.toolsets.analyzers.dependencies import Audit, audit
from devtools_platform.gateway.toolsets.analyzers.policy import Policy, load_policy
from devtools_platform.gateway.toolsets.analyzers.python import configured_type_checkers, type_checker
from devtools_platform.gateway.toolsets.analyzers.sarif import parse_sarif
from devtools_platform.gateway.toolsets.analyzers.secrets import find_added_secrets
from devtools_platform.gateway.toolsets.analyzers.types import AddedLines, Analysis, Analyzer, Program, Raw, Report
from devtools_platform.kit import git
from devtools_platform.kit.sandbox import WORKSPACE, Bubblewrap, CommandResult, Limits, Sandbox, run_sandboxed

MAX_DIFF_BYTES = 20_000_000
MAX_FINDINGS = 100
OUTPUT_BYTES = 20_000_000
AT_ONCE = 3
MAX_EVIDENCE_CHARS = 300

_SILENCED = re.compile(
    r"#\s*(?:noqa\b|nosec\b|type:\s*ignore|pyright:\s*ignore|zizmor:\s*ignore|hadolint\s+ignore|shellcheck\s+disable"
    r"|yamllint\s+disable|pragma:\s*allowlist)"
)


@dataclass(frozen=True)
class Review:
    """What one analysis goes by: the workspace, how commands run in it, and the rules."""

    workspace: Path
    base: str
    limits: Limits
    isolate: bool = True
    sandbox: Sandbox = field(default_factory=Bubblewrap)
    """What isolates analyzers; they see this machine's system."""
    python: Path | None = None
    """The project's interpreter."""
    config: ReviewConfig = field(default_factory=ReviewConfig)
    policy: Policy = field(default_factory=load_policy)
    audit: Audit = field(default_factory=Audit)

    @property
    def root(self) -> str:
        """What paths begin with, as commands see them."""
        return f"{WORKSPACE if self.isolate else self.workspace}/"


@dataclass(frozen=True)
class Outcome:
    source: str
    report: Report = field(default_factory=Report)
    has_run: bool = False
    why_not: str | None = None


async def analyze(review: Review) -> Analysis:
    """Analyze what the workspace adds to its base."""
    added = await git.added_lines(review.workspace, review.base, MAX_DIFF_BYTES)
    if added is None:
        why = f"The difference is larger than {MAX_DIFF_BYTES} bytes."
        names = ("secrets", *(analyzer.name for analyzer in ANALYZERS))
        return Analysis((), (), tuple(Degradation(what=name, why=why) for name in names))
    present = [path for path in await git.list_files(review.workspace) if path in added]
    outcomes = [Outcome("secrets", Report(find_added_secrets(added)), has_run=True)]
    outcomes += await _run_all(review, present, added)
    audited = await audit(added, review.audit)
    why = audited.not_run.why if audited.not_run else None
    outcomes.append(Outcome(PIP_AUDIT, Report(audited.remarks), audited.has_run, why))
    outcomes.append(Outcome("silenced", Report(tuple(_find_silenced(added)))))
    return _judge(review, outcomes, added)


async def _run_all(review: Review, present: Sequence[str], added: AddedLines) -> list[Outcome]:
    analyzers = [*ANALYZERS, *await asyncio.to_thread(_checkers, review), *map(_own, review.config.analyzers)]
    slots = asyncio.Semaphore(AT_ONCE)

    async def one(analyzer: Analyzer) -> Outcome | None:
        wanted = [path for path in present if analyzer.wants(path)]
        if not wanted:
            return None
        async with slots:
            outcome = await _run(review, analyzer, wanted)
        return replace(outcome, report=_refined(analyzer, outcome.report, added))

    return [outcome for outcome in await asyncio.gather(*map(one, analyzers)) if outcome is not None]


def _refined(analyzer: Analyzer, report: Report, added: AddedLines) -> Report:
    if analyzer.refine is None:
        return report
    refined = (analyzer.refine(raw, added.get(raw.path, {}).get(raw.line or 0, "")) for raw in report.remarks)
    return replace(report, remarks=tuple(raw for raw in refined if raw is not None))


async def _run(review: Review, analyzer: Analyzer, wanted: Sequence[str]) -> Outcome:
    start = analyzer.program.argv()
    if start is None:
        why = "It is not installed; install devtools-platform[analyzers] or put it on the path."
        return Outcome(analyzer.name, why_not=why)
    try:
        done = await run_sandboxed(
            [*start, *analyzer.arguments([f"{review.root}{path}" for path in wanted])],
            workspace=review.workspace,
            limits=replace(review.limits, output_bytes=OUTPUT_BYTES),
            sandbox=review.sandbox,
            python=review.python,
            writable=False,
            isolate=review.isolate,
            read_only_paths=analyzer.read_only_paths,
            is_redacted=False,
        )
    except NoSandbox as error:
        return Outcome(analyzer.name, why_not=str(error))
    return read_report(analyzer, done, review.root)


def read_report(analyzer: Analyzer, done: CommandResult, root: str) -> Outcome:
    """What the run of an analyzer came to; one whose report cannot be read has not run."""
    if done.exit_code is None or done.exit_code not in analyzer.exits:
        ending = f"was ended by its {done.ended_by} limit" if done.ended_by else f"failed with exit {done.exit_code}"
        return Outcome(analyzer.name, why_not=f"It {ending}. {done.output[-500:].strip()}")
    if analyzer.judges is not None:
        return Outcome(analyzer.name, analyzer.judges(done), has_run=True)
    try:
        found = analyzer.reads(done.output) if analyzer.reads else _report_in(done.output)
        return Outcome(analyzer.name, analyzer.parse(found, root), has_run=True)
    except (JSONDecodeError, KeyError, TypeError, AttributeError, ValueError, StopIteration) as error:
        why = f"Its report cannot be read ({error!r}). {done.output[-500:].strip()}"
        return Outcome(analyzer.name, why_not=why)


def _report_in(output: str) -> Any:
    """The JSON document in `output`, past any warnings before it."""
    start = re.search(r"^[\[{]|^null$", output, re.MULTILINE)
    if start is None:
        raise JSONDecodeError("no JSON document", output[:200], 0)
    return JSONDecoder().raw_decode(output, start.start())[0]


def _checkers(review: Review) -> list[Analyzer]:
    def read(path: str) -> str | None:
        try:
            return files.read_text(review.workspace, path)
        except ToolFailed:
            return None

    names = ("pyproject.toml", "setup.cfg", "mypy.ini", ".mypy.ini", "pyrightconfig.json")
    there = [name for name in names if (review.workspace / name).is_file()]
    return [type_checker(name, review.python) for name in configured_type_checkers(there, read)]


def _own(own: OwnAnalyzer) -> Analyzer:
    """An analyzer of the repository's: its exit code is its report, unless it prints SARIF."""

    def arguments(targets: Sequence[str]) -> Sequence[str]:
        return [word for part in own.command[1:] for word in (targets if part == "{files}" else (part,))]

    def judge(done: CommandResult) -> Report:
        message = f"{' '.join(own.command)} ended with exit code {done.exit_code}: {done.output[-1500:].strip()}"
        return Report((Raw("exit", "high", "", None, message),) if done.exit_code else ())

    return Analyzer(
        f"repository:{own.name}",
        Program(own.command[0], "given"),
        lambda path: any(fnmatchcase(path, glob) for glob in own.files),
        arguments,
        parse_sarif,
        exits=frozenset(range(126)),  # from there on the shell's convention: it could not be started, or a signal
        judges=judge if own.report == "exit" else None,
    )


def _find_silenced(added: AddedLines) -> list[Raw]:
    message = "This line silences an analyzer. Ours do not listen where they can; look whether it is right."
    return [
        Raw("silenced", "low", path, number, message)
        for path, lines in added.items()
        for number, line in lines.items()
        if _SILENCED.search(line)
    ]


def _judge(review: Review, outcomes: Sequence[Outcome], added: AddedLines) -> Analysis:
    policy = review.policy.with_repository(review.config.block, review.config.show)
    judged = (_finding(policy, outcome.source, raw, added) for outcome in outcomes for raw in outcome.report.remarks)
    findings = [finding for finding in judged if finding is not None]
    findings.sort(key=lambda f: (not f.is_blocking, f.path, f.line or 0, f.rule))
    keep = max(MAX_FINDINGS, sum(finding.is_blocking for finding in findings))
    not_run = [(outcome.source, outcome.why_not) for outcome in outcomes if outcome.why_not is not None]
    not_run += [(outcome.source, line) for outcome in outcomes for line in outcome.report.unread]
    return Analysis(
        findings=tuple(findings[:keep]),
        ran=tuple(outcome.source for outcome in outcomes if outcome.has_run),
        not_run=tuple(Degradation(what=what, why=redact_text(why)) for what, why in not_run),
        omitted=len(findings[keep:]),
    )


def _finding(policy: Policy, source: str, raw: Raw, added: AddedLines) -> Finding | None:
    decision = policy.decide(source, raw, added)
    line = added.get(raw.path, {}).get(raw.line or 0)
    if decision == "drop":
        return None
    is_secret = source in {"secrets", "detect-secrets"}
    return Finding(
        source=source,
        rule=raw.rule,
        severity=raw.severity,
        path=raw.path,
        line=raw.line,
        message=redact_text(raw.message),
        is_blocking=decision == "block",
        # A secret's own line would show it to everybody who reads the review.
        evidence="" if is_secret or line is None else redact_text(line.strip()[:MAX_EVIDENCE_CHARS]),
        suggestion=redact_text(raw.suggestion) if raw.suggestion else None,
    )
