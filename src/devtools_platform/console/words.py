"""Figures and states in plain words, for the templates. Unknown is the word "unknown", never 0."""

import shlex
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Literal

from devtools_platform.console.delivery import Host, RolloutStatus
from devtools_platform.console.types import Budget, Spent
from devtools_platform.core.approvals import Approval, ApprovalStatus, Risk
from devtools_platform.core.tasks import FINAL, Reason, Status, TaskResult, TestRun

UNKNOWN = "unknown"

Tone = Literal["plain", "busy", "good", "warn", "bad"]
"""How something is coloured. Always beside a word, never instead of one."""

STATUS_WORDS: Mapping[Status, str] = {
    "queued": "Queued",
    "working": "Working",
    "input_required": "Needs you",
    "paused": "Paused",
    "completed": "Completed",
    "failed": "Failed",
    "cancelled": "Cancelled",
}

_STATUS_TONES: Mapping[Status, Tone] = {
    "working": "busy",
    "input_required": "warn",
    "paused": "warn",
    "completed": "good",
    "failed": "bad",
}

_REASONS: Mapping[Reason, str] = {
    "tests_failed": "The project's tests fail with the change, so no branch was made.",
    "review_blocked": "The review is against the change, so no branch was made.",
    "no_change": "The agents ended without changing anything.",
    "not_solved": "The agents could not do it within their limits.",
    "needs_model": "A step needs a language model and none is there. Run `dev-tools doctor` to get one.",
    "model_refused": "The model's endpoint refuses us: key, model name or quota. Run `dev-tools doctor`.",
    "over_budget": "A budget is used up, and nobody raised it. `dev-tools cost budgets` shows all of them.",
    "model_failed": "The model's endpoint kept failing. Try again later, or run `dev-tools doctor`.",
    "no_sandbox": "The repository's commands could not be isolated. `dev-tools doctor` says what is missing.",
    "disk_full": "Too little disk was left to work safely. Free some and start the task again.",
    "cancelled": "It was cancelled.",
    "denied": "A person denied the plan or the change.",
    "expired": "Nobody decided in time.",
    "workspace_lost": "Its private clone is gone, so it cannot go on from where it was.",
    "internal": "Something broke on our side. The last events say what.",
}

_RISK_TONES: Mapping[Risk, Tone] = {"low": "plain", "medium": "warn", "high": "bad"}

_DECISION_TONES: Mapping[ApprovalStatus, Tone] = {"pending": "warn", "approved": "good", "denied": "bad"}

_ROLLOUT_TONES: Mapping[RolloutStatus, Tone] = {
    "running": "busy",
    "committed": "good",
    "held": "warn",
    "reverted": "bad",
    "failed": "bad",
}

_STAGES: Mapping[str, str] = {
    "baseline": "Before the change",
    "check": "While working",
    "final": "With the change",
}


def status_tone(status: Status) -> Tone:
    return _STATUS_TONES.get(status, "plain")


def is_running(task: TaskResult) -> bool:
    return task.status not in FINAL


def reason_words(reason: Reason | None) -> str:
    return _REASONS[reason] if reason else ""


def stage_words(stage: str) -> str:
    return _STAGES.get(stage, stage)


def verdict_words(run: TestRun) -> tuple[str, Tone]:
    """What a test run came to."""
    if run.ended_by:
        return f"Stopped: {run.ended_by} limit", "bad"
    if run.exit_code is None:
        return "No exit code", "bad"
    return ("Passing", "good") if run.is_passing else (f"Failing, exit {run.exit_code}", "bad")


def money(usd: float | None) -> str:
    if usd is None:
        return UNKNOWN
    if 0 < usd < 0.0001:  # noqa: PLR2004 - the smallest sum four digits can show
        return "under $0.0001"
    return f"${usd:.4f}" if 0 < usd < 1 else f"${usd:.2f}"


def count(number: float | None) -> str:
    return UNKNOWN if number is None else f"{number:,.0f}"


def duration(seconds: float | None) -> str:
    if seconds is None:
        return UNKNOWN
    if seconds < 1:
        return f"{seconds * 1000:.0f} ms"
    if seconds < 10:  # noqa: PLR2004 - tenths matter only in small figures
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes == 0:
        return f"{rest} s"
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {rest} s"


def lasted(task: TaskResult) -> str:
    if task.ended_at is None:
        return "still running"
    return duration((task.ended_at - task.created_at).total_seconds())


def clock(at: datetime) -> str:
    return at.astimezone(UTC).strftime("%H:%M:%S")


def stamp(at: datetime) -> str:
    return at.astimezone(UTC).strftime("%Y-%m-%d %H:%M UTC")


def headline(text: str, width: int = 110) -> str:
    """The first line of a task's text, shortened."""
    first = next((line.strip() for line in text.splitlines() if line.strip()), "")
    return first if len(first) <= width else first[: width - 1].rstrip() + "…"


def command_line(command: tuple[str, ...]) -> str:
    return shlex.join(command)


def look_command(task: TaskResult) -> str | None:
    """The git command that shows the task's branch in the person's own repository."""
    if task.branch is None:
        return None
    if task.base_commit is None:
        return shlex.join(["git", "-C", task.repo, "show", task.branch])
    return shlex.join(["git", "-C", task.repo, "diff", f"{task.base_commit[:12]}...{task.branch}"])


def risk_tone(risk: Risk) -> Tone:
    return _RISK_TONES[risk]


def decision_tone(status: ApprovalStatus) -> Tone:
    return _DECISION_TONES.get(status, "plain")


def budget_words(budget: Budget) -> str:
    """`agent:cicd:2026-11` is `cicd in 2026-11`."""
    scope, _, rest = budget.key.partition(":")
    if scope == "task":
        return f"task {rest}"
    name, _, month = rest.rpartition(":")
    return f"{name} in {month}" if name else f"everything in {month}"


def rollout_tone(status: RolloutStatus) -> Tone:
    return _ROLLOUT_TONES[status]


def running_on(hosts: Sequence[Host], seq: int) -> list[str]:
    """The colours in which a release is, on any host."""
    return sorted({colour.name for host in hosts for colour in host.colours if colour.seq == seq and colour.is_up})


def ask_words(approval: Approval) -> str:
    """What is asked, as a sentence."""
    if approval.kind == "plan":
        return "Work by this plan?"
    if approval.kind == "publish":
        return "Make the branch with this change?"
    if approval.kind == "budget":
        return f"Raise a budget for {approval.agent}?"
    if approval.kind == "question":
        return f"{approval.agent} asks you something"
    return f"Let {approval.agent} call {approval.tool}?"


def spent_words(spent: Spent) -> str:
    """A sum with what it leaves out: a call without a known price makes it a lower bound, not a total."""
    if not spent.unpriced:
        return money(0.0 if spent.cost_usd is None else spent.cost_usd)
    return UNKNOWN if spent.cost_usd is None else f"at least {money(spent.cost_usd)}"


def ago(seconds: float) -> str:
    return f"{duration(seconds)} ago"
