"""What agents are and what they hand back. Outputs are pydantic models: a model's answer is validated, not trusted."""

from collections.abc import Sequence
from typing import Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, create_model, model_validator

from devtools_platform.core.agents import AgentName
from devtools_platform.core.approvals import Risk
from devtools_platform.core.tasks import Degradation, DiffStat, Reason, Severity


class Definition(BaseModel):
    """One agent as data: the front matter and the text of `definitions/NAME.md`."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: AgentName
    role: str
    output: Literal["plan", "report", "judgement"]
    max_turns: int = Field(ge=1, le=500)
    toolsets: tuple[str, ...] = ()
    """Names of the gateway's toolsets, for an agent the gateway's own policy does not list."""
    instructions: str


class PlannedStep(BaseModel):
    agent: AgentName
    goal: str = Field(min_length=1, max_length=4000)
    needs: list[int] | None = Field(
        default=None,
        max_length=8,
        description="Numbers (from 1) of earlier steps that must be done first; [] when it needs none of them. "
        "Leave it out to have it wait for all of them.",
    )
    acceptance: str = Field(default="", max_length=1000, description="By what one sees that it is done.")
    risk: Risk = "low"


class PlanDraft(BaseModel):
    """The plan: the fewest steps that fulfil the request. Or, where it cannot be understood, one question."""

    steps: list[PlannedStep] = Field(default_factory=list[PlannedStep], max_length=8)
    question: str = Field(default="", max_length=2000, description="Only instead of steps.")

    @model_validator(mode="after")
    def _is_a_plan_or_a_question(self) -> Self:
        if bool(self.steps) == bool(self.question.strip()):
            raise ValueError("give either steps or a question")
        for number, step in enumerate(self.steps, 1):
            if wrong := [need for need in step.needs or () if not 1 <= need < number]:
                raise ValueError(f"step {number} needs step {wrong[0]}, which is not before it")
        return self


def plan_type(agents: Sequence[AgentName]) -> type[PlanDraft]:
    """`PlanDraft` as a model is asked for it: only these agents can be named."""
    names: Any = Literal[tuple(agents)]  # pyright: ignore[reportInvalidTypeForm, reportInvalidTypeArguments]
    step: Any = create_model("PlannedStep", __base__=PlannedStep, agent=(names, ...))
    steps: Any = (list[step], Field(default_factory=list, max_length=8))
    return create_model("PlanDraft", __base__=PlanDraft, __doc__=PlanDraft.__doc__, steps=steps)


class AgentReport(BaseModel):
    """How a step ended."""

    outcome: Literal["done", "cannot"]
    summary: str = Field(max_length=8000)
    commit_message: str = Field(default="", max_length=4000)


class Remark(BaseModel):
    path: str
    line: int | None = None
    severity: Severity
    message: str = Field(max_length=4000)


class Judgement(BaseModel):
    """The reviewer's verdict and the findings it stands on."""

    verdict: Literal["approve", "request_changes"]
    remark: str = Field(default="", max_length=4000)
    findings: list[Remark] = Field(default_factory=list[Remark], max_length=50)


class Workspace(BaseModel):
    """A task's private clone."""

    model_config = ConfigDict(frozen=True)

    task_id: str
    repo: str
    base_commit: str
    branch: str
    was_dirty: bool


class Diff(BaseModel):
    """What a task changed so far, against the commit it started from."""

    stat: DiffStat
    text: str


class Merge(BaseModel):
    """What became of bringing a step's files into the task's: empty when they went together."""

    conflicts: list[str] = Field(default_factory=list[str])
    """Files that the step and another one changed in the same place. Then nothing was brought in."""


class RunCost(BaseModel):
    """What a run of an agent has cost on average, in US dollars; None when no price is known, or there was no run."""

    cost_usd: float | None = None
    runs: int = 0


class Refusal(BaseModel):
    """Why a task cannot even begin; empty when it can."""

    reason: Reason | None = None
    message: str = ""


class Question(BaseModel):
    """A tool call that waits: for a person's approval, or for a paused task to go on."""

    model_config = ConfigDict(frozen=True)

    tool_call_id: str
    tool: str
    arguments: dict[str, Any]
    is_paused: bool
    """True: nobody is asked, the task is paused."""
    approval: str | None = None
    """The approval a paused call had already."""
    rule: str = ""
    risk: Risk = "low"
    expires_after_s: float = 0.0


class Answer(BaseModel):
    """What became of a question. `arguments` replaces those of the call, None leaves them."""

    model_config = ConfigDict(frozen=True)

    tool_call_id: str
    is_approved: bool
    approval: str | None = None
    reason: str = ""
    arguments: dict[str, Any] | None = None


class BudgetStop(BaseModel):
    """The budget that did not cover the next model call."""

    model_config = ConfigDict(frozen=True)

    key: str
    limit_usd: float
    spent_usd: float
    held_usd: float
    needed_usd: float


class Suspended(BaseModel):
    """An agent's run that stopped in the middle: what was said so far, and the calls that wait."""

    messages: str
    """The conversation as pydantic-ai's JSON; empty where the run begins anew."""
    questions: list[Question]
    budget: BudgetStop | None = None
    """What has to be raised before the next model call; then no tool call waits."""


class RunOutcome(BaseModel):
    """What a child workflow hands its parent: the output, or what it waits for, or why there is none."""

    output: dict[str, object] | None = None
    suspended: Suspended | None = None
    reason: Reason | None = None
    message: str = ""
    degraded: list[Degradation] = Field(default_factory=list[Degradation])


class OutOfBudget(Exception):
    """A run stopped before a model call that a budget does not cover, and people may raise it."""

    def __init__(self, budget: BudgetStop, messages: str) -> None:
        super().__init__(budget, messages)
        self.budget = budget
        self.messages = messages


class TaskEnded(Exception):
    """Ends a task without a branch, with the reason a person will read."""

    def __init__(self, reason: Reason, message: str) -> None:
        super().__init__(reason, message)
        self.reason: Reason = reason
        self.message = message
