"""A task and everything that can be said about it: plan, tests, review, usage, summary.

These models cross every border (HTTP, database, command line, model output), so they are pydantic and frozen.
Unknown is `None`, never 0 and never "": a figure here was computed by a program or it is not there.
"""

from datetime import datetime
from typing import Generic, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field

from devtools_platform.core.agents import AgentName

T = TypeVar("T")

Status = Literal["queued", "working", "input_required", "paused", "completed", "failed", "cancelled"]
"""A task's status: MCP's `TaskStatus` plus `queued` and `paused`. `input_required`: an approval waits for a person."""

FINAL: frozenset[Status] = frozenset({"completed", "failed", "cancelled"})

Reason = Literal[
    "tests_failed",  # the project's tests fail with the change
    "review_blocked",  # the review's verdict is against the change
    "no_change",  # the agents ended without changing anything
    "not_solved",  # the agent says, or its limits say, that it could not do it
    "needs_model",  # a step needs a model and none is there
    "model_refused",  # the endpoint refuses: key, model name or quota
    "over_budget",  # a budget is used up, or a call's price is not known, and nobody raised the limit
    "model_failed",  # the endpoint kept failing: timeouts, 5xx, broken answers
    "no_sandbox",
    "disk_full",
    "cancelled",
    "denied",  # a person denied the plan or the change
    "expired",  # nobody decided in time
    "workspace_lost",  # the task's private clone is gone, so it cannot go on from where it was
    "internal",  # a bug of ours: the event log holds the traceback, unless the workflow ended without a word
]
"""Why a task ended without a branch."""

AskBefore = Literal["plan", "publish"]
"""Points of a task at which its author wants to be asked, beside what the approval rules say."""

MAX_TASK_TEXT = 20_000
"""Longest task text in characters. Longer input is a file for the repository, not a request."""


class Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class TaskRequest(Frozen):
    """What a person asks for."""

    text: str = Field(min_length=1, max_length=MAX_TASK_TEXT)
    repo: str
    """Absolute path of a git repository on the machine the stack runs on."""
    start_at: str | None = Field(default=None, pattern=r"^[0-9a-f]{40}([0-9a-f]{24})?$")
    """The commit the work starts from, which the repository has; None: its HEAD."""
    agent: AgentName | None = None
    """Give the whole task to one agent instead of letting the orchestrator plan."""
    without_sandbox: bool = False
    """Run the repository's commands without isolation. Recorded in the result as degraded."""
    ask_before: tuple[AskBefore, ...] = ()
    priority: int = Field(default=100, ge=1, le=1000)
    """Among waiting runs the lowest number goes first."""


class PlanStep(Frozen):
    """One agent's share of a task."""

    id: str
    agent: AgentName
    goal: str
    needs: tuple[str, ...] | None = None
    """Ids of the steps that must be done before it; None: all before it. Steps that wait for nobody run at once."""
    acceptance: str = ""
    """By what one sees that it is done."""
    risk: Literal["low", "medium", "high"] = "low"
    cost_usd: float | None = None
    """What a run of its agent, on the model it has now, has cost on average; None when that is unknown."""
    cost_runs: int = 0
    """How many earlier runs that average rests on."""

    @property
    def cost_words(self) -> str:
        """The estimate as people read it."""
        if self.cost_usd is None:
            return "cost unknown"
        return f"about ${self.cost_usd:.4f} a run, from {self.cost_runs}"


class Plan(Frozen):
    steps: tuple[PlanStep, ...]
    source: Literal["request", "rules", "model"]
    """Who decided: the person (`--agent`), our routing rules, or the model."""


class TestRun(Frozen):
    """One run of the project's own test command in the sandbox."""

    __test__ = False

    stage: Literal["baseline", "check", "final"]
    command: tuple[str, ...]
    exit_code: int | None
    """None when the run was ended by its limits; then `ended_by` says which."""
    duration_s: float
    ended_by: Literal["timeout", "output", "memory", "disk"] | None = None
    output: str = ""
    """Head and tail of what the tests printed, secrets redacted."""

    @property
    def is_passing(self) -> bool:
        return self.exit_code == 0


Severity = Literal["info", "low", "medium", "high"]


class Finding(Frozen):
    """One remark of the review, with its evidence."""

    source: str
    """The analyzer that says so (`ruff`, `hadolint`, `secrets`), `repository:NAME`, or `model`."""
    rule: str
    severity: Severity
    path: str
    line: int | None
    message: str
    is_blocking: bool
    evidence: str = ""
    """The line itself, secrets redacted; empty when there is none, or when it would show a secret."""
    suggestion: str | None = None
    """What to do about it, as its source says; None when it says nothing."""


class Review(Frozen):
    verdict: Literal["approve", "request_changes"]
    judged_by: tuple[str, ...]
    """The analyzers that ran, and the model if it judged."""
    findings: tuple[Finding, ...]
    remark: str = ""


class DiffStat(Frozen):
    files: int
    insertions: int
    deletions: int


class Usage(Frozen):
    """What the model calls of a task used. Counted by the endpoint, added up by us."""

    model_calls: int = 0
    tool_calls: int = 0
    input_tokens: int = 0
    output_tokens: int = 0
    cost_usd: float | None = 0.0
    """None as soon as one call had no known price."""


class Degradation(Frozen):
    """Something that was done in a lesser way than configured, and why."""

    what: str
    why: str


class ModelInfo(Frozen):
    """Which model served the task."""

    name: str
    provider: str
    """`openai-compatible`, `gradient`, `ollama`, `embedded`, `scripted`."""
    tier: Literal["standard", "small"]
    """`standard` calls tools by itself; `small` is carried by the schema adapter and the guided loop."""
    sha256: str | None = None


class TaskResult(Frozen):
    """What a task came to. The shape of `dev-tools task run --json` and of `GET /tasks/{id}`."""

    id: str
    status: Status
    reason: Reason | None
    message: str
    text: str
    repo: str
    plan: Plan | None
    branch: str | None
    base_commit: str | None
    commits: tuple[str, ...]
    diff: DiffStat | None
    tests: tuple[TestRun, ...]
    review: Review | None
    tokens: dict[str, int]
    cost_usd: float | None
    trace_id: str
    model: ModelInfo | None
    degraded: tuple[Degradation, ...]
    attempt: int
    """1, and one more for each retry from a step."""
    forked_from: str | None
    version: int
    """Grows with every change a person makes; send it as `If-Match` to change only what you have seen."""
    created_at: datetime
    ended_at: datetime | None


class Page(Frozen, Generic[T]):
    """One page of a list. `next` is the cursor of the page after it, None on the last."""

    items: tuple[T, ...]
    next: str | None


class Run(Frozen):
    """One execution of one agent: the child workflow `{task}/{agent}/{n}`."""

    id: str
    task_id: str
    agent: str
    n: int
    status: Literal["queued", "working", "suspended", "completed", "failed", "cancelled"]
    """`suspended`: it stopped to let a person decide; what comes after is a run of its own."""
    message: str
    worker: str | None
    """Which worker carried it; None before one has taken it."""
    started_at: datetime
    ended_at: datetime | None


class Step(Frozen):
    """One stored step of a task's workflow. `number` is what `retry` and `fork` take."""

    number: int
    name: str
    run: str | None
    """The run this step started, if it started one."""
    error: str | None
    started_at: datetime | None
    ended_at: datetime | None


class Artifact(Frozen):
    """A file a task made for people to read: its diff, the output of its tests."""

    id: str
    task_id: str
    kind: Literal["diff", "test_output"]
    name: str
    media_type: str
    size: int
    """Bytes."""
    sha256: str
    created_at: datetime


class Worker(Frozen):
    """A process that carries work out."""

    id: str
    host: str
    pid: int
    queues: tuple[str, ...]
    status: Literal["alive", "stopped", "dead"]
    holds: tuple[str, ...]
    """Ids of the workflows it is working on."""
    started_at: datetime
    heartbeat_at: datetime
    silent_s: float
    """Seconds since its last heartbeat, by the database's clock."""


class Event(Frozen):
    """One thing that happened to a task; `seq` grows by one per task and is the SSE id."""

    seq: int
    task_id: str
    kind: str
    at: datetime
    agent: str | None
    data: dict[str, object]
