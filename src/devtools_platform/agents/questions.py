"""Where a task waits for people: approvals of the plan, the change and single tool calls, and pauses.

The workflow waits on a topic and holds nothing meanwhile but its place in memory. What woke it says nothing; what
was decided is read from where it was written.
"""

import json
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from decimal import Decimal
from functools import partial
from typing import Literal

from devtools_platform.agents.interfaces import Approvals, ModelLedger, TaskLog
from devtools_platform.agents.types import Answer, BudgetStop, Question, TaskEnded
from devtools_platform.core.approvals import (
    Action,
    Approval,
    ApprovalRequest,
    ApprovalRule,
    ApprovalRules,
    Environment,
    Kind,
    Risk,
)
from devtools_platform.core.interfaces import Durable
from devtools_platform.core.tasks import AskBefore, Plan, TaskRequest

CONTROL_TOPIC = "control"
UNCLEAR = "the request is unclear"
ANSWER_WITHIN_S = 7 * 24 * 3600.0
LOOK_AGAIN_S = 24 * 3600.0
"""A paused task looks once a day whether it was resumed without being told."""

BUDGET_EXPIRES_S = 7 * 24 * 3600.0

#: What these agents make runs later, outside the task, with rights of its own.
RISKY_AGENTS = frozenset({"infrastructure", "cicd"})


@dataclass(frozen=True)
class People:
    """The way to people, and the rules by which they are asked."""

    approvals: Approvals
    log: TaskLog
    ledger: ModelLedger
    rules: ApprovalRules
    environment: Environment


@dataclass
class Questions:
    """What one task asks. Numbers its questions, so that a replay asks nothing twice."""

    durable: Durable
    people: People
    task_id: str
    workflow_id: str
    request: TaskRequest
    _asked: int = field(default=0, repr=False)

    async def plan(self, plan: Plan) -> None:
        """Raises `TaskEnded` when the plan is not approved."""
        risk: Risk = "medium" if any(step.agent in RISKY_AGENTS for step in plan.steps) else "low"
        steps = "\n".join(f"{step.id}. {step.agent}: {step.goal} ({step.cost_words})" for step in plan.steps)
        await self._about("plan", risk, steps, "The plan")

    async def clarify(self, question: str) -> str:
        """What the person says to a question about the request: the reason they approve with.

        Raises `TaskEnded` when they deny, or do not answer in time.
        """
        approval = await self._ask("question", "orchestrator", UNCLEAR, "low", None, ANSWER_WITHIN_S, preview=question)
        if approval.status != "approved":
            reason: Literal["expired", "denied"] = "expired" if approval.status == "expired" else "denied"
            raise TaskEnded(reason, f"The orchestrator asked and got no answer: {question}")
        return approval.reason

    async def publish(self, diff: str) -> None:
        """Raises `TaskEnded` when the change is not approved."""
        await self._about("publish", "low", diff, "The change")

    async def budget(self, agent: str, stop: BudgetStop) -> None:
        """Raise the limit as a person says. Raises `TaskEnded` when they say stop, or nobody says anything."""
        cost = await self.durable.step("cost", self._read_cost, float | None)  # pyright: ignore[reportArgumentType]
        suggested = max(stop.limit_usd, 2 * stop.needed_usd)
        text = (
            f"The budget {stop.key} of ${stop.limit_usd:.4f} has ${stop.spent_usd:.4f} spent and "
            f"${stop.held_usd:.4f} reserved. The next model call of {agent} may cost ${stop.needed_usd:.4f}.\n"
            "Approving adds `raise_by_usd` to the limit; denying ends the task."
        )
        approval = await self._ask(
            "budget",
            agent,
            f"budget {stop.key}",
            "medium",
            cost,
            BUDGET_EXPIRES_S,
            preview=text,
            arguments={"budget": stop.key, "raise_by_usd": suggested},
        )
        if approval.status != "approved":
            by = f" {approval.decided_by} said stop." if approval.decided_by else " Nobody decided in time."
            raise TaskEnded("over_budget", f"{text.splitlines()[0]}{by} {approval.reason}".rstrip())
        amount = Decimal(str(approval.effective_arguments["raise_by_usd"]))
        await self.durable.step(
            "raise_limit", lambda: self.people.ledger.raise_limit(approval.id, stop.key, amount), type(None)
        )

    async def _about(self, kind: AskBefore, risk: Risk, preview: str, what: str) -> None:
        cost = await self.durable.step("cost", self._read_cost, float | None)  # pyright: ignore[reportArgumentType]
        action = Action(kind=kind, agent="orchestrator", environment=self.people.environment, risk=risk, cost_usd=cost)
        rule = self.people.rules.find(action)
        if rule is None and kind in self.request.ask_before:
            rule = ApprovalRule(name="asked for by the request", kind=kind)
        found = await self.durable.step("rule", _always(rule), ApprovalRule | None)  # pyright: ignore[reportArgumentType]
        if found is None:
            return
        approval = await self._ask(kind, "orchestrator", found.name, risk, cost, found.expires_after_s, preview=preview)
        if approval.status != "approved":
            reason: Literal["expired", "denied"] = "expired" if approval.status == "expired" else "denied"
            by = f" by {approval.decided_by}" if approval.decided_by else ""
            raise TaskEnded(
                reason,
                f"{what} was {'not decided in time' if reason == 'expired' else f'denied{by}'}."
                f" {approval.reason}".rstrip(),
            )

    async def answer(self, agent: str, question: Question) -> Answer:
        """What becomes of a tool call that waits."""
        if question.is_paused:
            await self.hold()
            return Answer(
                tool_call_id=question.tool_call_id,
                is_approved=True,
                approval=question.approval,
                arguments=question.arguments,
            )
        cost = await self.durable.step("cost", self._read_cost, float | None)  # pyright: ignore[reportArgumentType]
        approval = await self._ask(
            "tool",
            agent,
            question.rule,
            question.risk,
            cost,
            question.expires_after_s,
            tool=question.tool,
            arguments=question.arguments,
            preview=f"{question.tool} {json.dumps(question.arguments, indent=2, ensure_ascii=False)}",
        )
        is_edited = approval.edited_arguments is not None
        return Answer(
            tool_call_id=question.tool_call_id,
            is_approved=approval.status == "approved",
            approval=approval.id,
            reason=approval.reason,
            arguments=dict(approval.edited_arguments or {}) if is_edited else None,
        )

    async def hold(self) -> None:
        """Stand still while the task is paused."""
        while await self.durable.step("paused", lambda: self.people.log.is_paused(self.task_id), bool):
            self._asked += 1
            key = f"{self.workflow_id}:paused:{self._asked}"
            is_paused = await self.durable.step(
                "hold", partial(self.people.log.mark_paused, self.task_id, self.workflow_id, key), bool
            )
            if is_paused:
                await self.durable.receive(CONTROL_TOPIC, LOOK_AGAIN_S)

    async def _ask(
        self,
        kind: Kind,
        agent: str,
        rule: str,
        risk: Risk,
        cost: float | None,
        expires_after_s: float,
        *,
        preview: str,
        tool: str | None = None,
        arguments: dict[str, object] | None = None,
    ) -> Approval:
        self._asked += 1
        request = ApprovalRequest(
            id=f"{self.workflow_id}-{self._asked}",
            task_id=self.task_id,
            workflow_id=self.workflow_id,
            kind=kind,
            agent=agent,
            tool=tool,
            arguments=arguments or {},
            preview=preview,
            rule=rule,
            risk=risk,
            cost_usd=cost,
            environment=self.people.environment,
            expires_after_s=expires_after_s,
        )
        await self.durable.step("ask", lambda: self.people.approvals.ask(request), Approval)
        await self.durable.receive(request.id, expires_after_s)
        return await self.durable.step("settle", lambda: self.people.approvals.settle(request.id), Approval)

    async def _read_cost(self) -> float | None:
        return (await self.people.ledger.usage(self.task_id)).cost_usd


def _always(rule: ApprovalRule | None) -> Callable[[], Awaitable[ApprovalRule | None]]:
    """As a step: the rules may be others after a restart, and a replay must go the way it went."""

    async def give() -> ApprovalRule | None:
        return rule

    return give
