"""Approvals: what a person is asked, by which rule, and what they said. Data and the one pure decision: ask or not."""

from collections.abc import Mapping, Sequence
from datetime import datetime
from fnmatch import fnmatchcase
from typing import Literal

from pydantic import Field

from devtools_platform.core.tasks import Frozen

Kind = Literal["tool", "plan", "publish", "question", "budget"]
"""`question`: the orchestrator does not know what is wanted; the reason given with the approval is the answer.
`budget`: a limit would be passed; the argument `raise_by_usd` is what approving adds to it."""
Risk = Literal["low", "medium", "high"]
ApprovalStatus = Literal["pending", "approved", "denied", "expired", "cancelled"]
Environment = Literal["production", "staging", "development", "test"]

RISKS: Sequence[Risk] = ("low", "medium", "high")
MAX_REASON = 4000


class Action(Frozen):
    """Something about to be done, as the rules see it."""

    kind: Kind
    agent: str
    environment: Environment
    tool: str | None = None
    """Full name (`server_tool`), for kind `tool`."""
    risk: Risk = "low"
    cost_usd: float | None = None
    """What the task has cost so far; None when that is unknown."""


class ApprovalRule(Frozen):
    """Ask a person when every condition given here holds. What is not given does not matter."""

    name: str = Field(min_length=1, max_length=100)
    kind: Kind
    tools: tuple[str, ...] = ()
    """Globs over full tool names."""
    agents: tuple[str, ...] = ()
    environments: tuple[Environment, ...] = ()
    min_risk: Risk = "low"
    min_cost_usd: float | None = Field(default=None, ge=0)
    """From this cost of the task on. An unknown cost is asked about: it may be any."""
    expires_after_s: float = Field(default=7 * 24 * 3600.0, gt=0, le=90 * 24 * 3600.0)

    def applies_to(self, action: Action) -> bool:
        """Whether a person must be asked before `action`."""
        return (
            self.kind == action.kind
            and (not self.tools or any(fnmatchcase(action.tool or "", pattern) for pattern in self.tools))
            and (not self.agents or action.agent in self.agents)
            and (not self.environments or action.environment in self.environments)
            and RISKS.index(action.risk) >= RISKS.index(self.min_risk)
            and (self.min_cost_usd is None or action.cost_usd is None or action.cost_usd >= self.min_cost_usd)
        )


class ApprovalRules(Frozen):
    """The rules of a stack, in order; the first that applies names the approval."""

    rules: tuple[ApprovalRule, ...] = ()

    def find(self, action: Action) -> ApprovalRule | None:
        """The rule by which a person must be asked; None when nobody must."""
        return next((rule for rule in self.rules if rule.applies_to(action)), None)


class ApprovalRequest(Frozen):
    """What is asked for. `id` is derived from the asking step, so a replay asks once."""

    id: str
    task_id: str
    workflow_id: str
    """The workflow that waits for the answer, on the topic `id`."""
    kind: Kind
    agent: str
    tool: str | None = None
    arguments: Mapping[str, object] = Field(default_factory=dict[str, object])
    """Exactly what will be done if approved; secrets redacted."""
    preview: str = ""
    """A diff or a plan, as text."""
    rule: str
    risk: Risk
    cost_usd: float | None
    environment: Environment
    expires_after_s: float


class Approval(Frozen):
    """An approval as it stands."""

    id: str
    task_id: str
    kind: Kind
    agent: str
    tool: str | None
    arguments: Mapping[str, object]
    preview: str
    rule: str
    risk: Risk
    cost_usd: float | None
    environment: str
    status: ApprovalStatus
    version: int
    """Grows with every change; send it as `If-Match` to decide only what you have seen."""
    decided_by: str | None
    decided_at: datetime | None
    reason: str
    edited_arguments: Mapping[str, object] | None
    """What the person put in place of `arguments`; None when they left them."""
    expires_at: datetime
    created_at: datetime

    @property
    def effective_arguments(self) -> Mapping[str, object]:
        """The arguments that were approved."""
        return self.arguments if self.edited_arguments is None else self.edited_arguments


class Verdict(Frozen):
    """What a person decides. `arguments` replaces those that were asked about (tools and budgets only)."""

    decision: Literal["approve", "deny"]
    reason: str = Field(default="", max_length=MAX_REASON)
    arguments: Mapping[str, object] | None = None
