"""`dev-tools review`: what the analyzers say of a branch. Needs no stack and no model."""

import asyncio
import json
from pathlib import Path
from typing import Annotated

import typer

from devtools_platform.cli.connection import AsJson, running_stack
from devtools_platform.cli.output import err, out, print_json, write_file
from devtools_platform.cli.stack import DataDir
from devtools_platform.config import load_settings
from devtools_platform.core.errors import NotFound
from devtools_platform.core.sarif import to_sarif
from devtools_platform.core.tasks import Finding, Review

BLOCKED = 20


def review(
    repo: Annotated[Path, typer.Option(help="A git repository on this machine.")] = Path(),
    base: Annotated[str, typer.Option(help="What to compare HEAD with: a branch, tag or commit.")] = "main",
    sarif: Annotated[Path | None, typer.Option(help="Write the findings to this file as SARIF 2.1.0.")] = None,
    as_json: AsJson = False,
) -> None:
    """Review what HEAD adds to another branch, by analyzers alone. Ends with 20 when something blocks."""
    from devtools_platform.app.reviewing import review_branch  # takes a second to import: only where it is run

    done = asyncio.run(review_branch(load_settings(), repo.absolute(), base))
    if sarif is not None:
        write_file(sarif, json.dumps(to_sarif(done.review), indent=2) + "\n")
    if as_json:
        missing = [entry.model_dump() for entry in done.not_run]
        commits = {"base_commit": done.base_commit, "head": done.head}
        print_json({"review": done.review.model_dump(mode="json"), "not_run": missing, **commits})
    else:
        show_review(done.review)
        for entry in done.not_run:
            err.print(f"  not looked at: {entry.what}: {entry.why}", markup=False)
        err.print("  judged by analyzers only: `dev-tools task run` adds a model's judgement")
    if done.review.verdict != "approve":
        raise typer.Exit(BLOCKED)


def task_review(
    task_id: str,
    sarif: Annotated[Path | None, typer.Option(help="Write the findings to this file as SARIF 2.1.0.")] = None,
    data_dir: DataDir = None,
    as_json: AsJson = False,
) -> None:
    """The review of a task: verdict, findings, evidence."""
    task = asyncio.run(running_stack(data_dir).get_task(task_id))
    if task.review is None:
        raise NotFound(
            f"Task {task_id!r} has no review.", hint=f"Look how far it came: `dev-tools task show {task_id}`."
        )
    if sarif is not None:
        write_file(sarif, json.dumps(to_sarif(task.review), indent=2) + "\n")
    if as_json:
        print_json(task.review.model_dump(mode="json"))
    else:
        show_review(task.review)


def show_review(review: Review) -> None:
    """The verdict, who judged, and the findings, blocking ones first."""
    for finding in sorted(review.findings, key=lambda f: not f.is_blocking):
        out.print(_line(finding), markup=False)
        if finding.evidence:
            out.print(f"      {finding.evidence}", markup=False)
        if finding.suggestion:
            out.print(f"      -> {finding.suggestion}", markup=False)
    blocking = sum(finding.is_blocking for finding in review.findings)
    verdict = "approve" if review.verdict == "approve" else f"request changes ({blocking} blocking)"
    out.print(f"verdict: {verdict}; judged by {', '.join(review.judged_by) or 'nobody'}", markup=False)


def _line(finding: Finding) -> str:
    where = finding.path if finding.line is None else f"{finding.path}:{finding.line}"
    weight = "BLOCKING" if finding.is_blocking else finding.severity
    return f"{weight:<8} {where}  {finding.message} [{finding.source} {finding.rule}]"
