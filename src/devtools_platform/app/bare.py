"""The crew without a stack: the real loop, tools, policy and sandbox, and nothing stored.

For measuring models on cases and on recorded tasks. What a stack adds (durability, people, search over code) is not
in it.
"""

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field, replace
from decimal import Decimal
from pathlib import Path
from typing import Any

from devtools_platform.agents.adapters import endpoints
from devtools_platform.agents.at_once import AtOnce
from devtools_platform.agents.definitions import load_definitions
from devtools_platform.agents.edit_formats import edit_format_of
from devtools_platform.agents.interfaces import TaskLog
from devtools_platform.agents.runner import AgentRunner
from devtools_platform.agents.runs import AgentRunWorkflow, Traits
from devtools_platform.agents.tool_calls import DurableTools
from devtools_platform.app.ledger import Pricing
from devtools_platform.app.models import ServedModel, build_model
from devtools_platform.app.reviewing import workspace_tools
from devtools_platform.config import Settings
from devtools_platform.core.approvals import ApprovalRules
from devtools_platform.core.errors import DevToolsError
from devtools_platform.core.tasks import Usage
from devtools_platform.core.tools import Caller, Tool, ToolResult
from devtools_platform.gateway.api import load_policy
from devtools_platform.gateway.service import Gateway
from devtools_platform.observability.prices import load_prices


@dataclass
class Meter:
    """The ledger: what answered calls used. What one of them does not say makes the sum unknown."""

    pricing: Pricing
    calls: int = 0
    input_tokens: int | None = 0
    output_tokens: int | None = 0
    cost_usd: Decimal | None = Decimal(0)
    max_output_tokens: int | None = None

    async def record_call(
        self,
        *,
        input_tokens: int | None,
        output_tokens: int | None,
        cached_tokens: int | None,
        error: str | None,
        may_be_charged: bool,
        **_: Any,
    ) -> Decimal | None:
        cost = None
        if input_tokens is not None and output_tokens is not None:
            cost, _source = self.pricing.price(input_tokens, output_tokens, cached_tokens or 0)
        if error is None:
            self.calls += 1
            self.input_tokens = _add(self.input_tokens, input_tokens)
            self.output_tokens = _add(self.output_tokens, output_tokens)
        if error is None or may_be_charged:
            self.cost_usd = None if self.cost_usd is None or cost is None else self.cost_usd + cost
        return cost

    async def usage(self, task_id: str) -> Usage:
        cost = None if self.cost_usd is None else float(self.cost_usd)
        return Usage(
            model_calls=self.calls,
            input_tokens=self.input_tokens or 0,
            output_tokens=self.output_tokens or 0,
            cost_usd=cost,
        )


def _add(total: int | None, more: int | None) -> int | None:
    return None if total is None or more is None else total + more


class NoLog:
    """Nobody looks: nothing is written down, nobody pauses or speaks, and every tool call is the first of its key."""

    def __getattr__(self, name: str) -> Callable[..., Awaitable[Any]]:
        async def nothing(*_: Any, **__: Any) -> Any:
            return [] if name in {"take_messages", "append_and_take"} else None

        return nothing


@dataclass
class InProcess:
    """The gateway, asked without a wire."""

    gateway: Gateway

    async def list_tools(self, caller: Caller) -> list[Tool]:
        return [replace(route.tool, name=name) for name, route in self.gateway.list_tools(caller).items()]

    async def call(
        self, caller: Caller, name: str, arguments: Mapping[str, Any], key: str, approval: str | None = None
    ) -> ToolResult:
        try:
            return await self.gateway.call(caller, name, arguments, key, approval)
        except DevToolsError as error:
            return ToolResult(str(error), error.to_dict(), is_error=True)


@dataclass
class BareCrew:
    """`run` is the workflow `agent_run`, all agents on one model, in clones below `workspaces`."""

    settings: Settings
    served: ServedModel
    workspaces: Path
    log: Any = field(default_factory=NoLog)
    """A `TaskLog`, or what stands for one."""

    def __post_init__(self) -> None:
        nothing: Any = NoLog()
        present: Any = _Present(self)
        log: TaskLog = self.log
        gateway = Gateway(
            [workspace_tools(self.settings, self.workspaces)],
            load_policy(),
            nothing,
            rules=ApprovalRules(),
            grants=nothing,
            environment="test",
        )
        self.tools = DurableTools(InProcess(gateway), AtOnce(), log)
        self.meter = self.new_meter()
        runner = AgentRunner(
            load_definitions(self.settings.agent_definitions),
            lambda agent: build_model(self.served, agent, present, self.settings.model_timeout_s),
            self.tools,
            edit_formats=lambda _: edit_format_of(self.served.info),
            max_turns=self.settings.max_agent_turns,
        )
        missing = "" if self.served.endpoint else f"{self.served.missing} {endpoints.NO_MODEL_HINT}"
        traits = Traits(self.served.is_small, self.served.needs_judge, missing)
        self.run = AgentRunWorkflow(runner, lambda _: traits, self.settings.max_candidates, log)

    def new_meter(self) -> Meter:
        return Meter(Pricing(self.served, load_prices(self.settings.prices)))


class _Present:
    """The crew's meter of the moment: each case, or task, has one of its own."""

    def __init__(self, crew: BareCrew) -> None:
        self._crew = crew

    def __getattr__(self, name: str) -> Any:
        return getattr(self._crew.meter, name)
