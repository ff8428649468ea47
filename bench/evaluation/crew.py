"""The crew's agents without a stack: the real loop, tools, policy and sandbox, and nothing stored.

For measuring models. What a stack adds (durability, people, branches) is not in it.
"""

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from pathlib import Path
from typing import Any

from pydantic_ai.capabilities import AbstractCapability

from devtools_platform.agents.definitions import load_definitions
from devtools_platform.agents.runner import AgentRunner
from devtools_platform.agents.runs import AgentRunWorkflow, Traits
from devtools_platform.agents.tool_calls import DurableTools
from devtools_platform.app.ledger import Pricing
from devtools_platform.app.models import NO_MODEL_HINT, ServedModel, build_model
from devtools_platform.app.reviewing import workspace_tools
from devtools_platform.config import Settings
from devtools_platform.core.approvals import ApprovalRules
from devtools_platform.core.errors import DevToolsError
from devtools_platform.core.tasks import Usage
from devtools_platform.core.tools import Caller, Tool, ToolResult
from devtools_platform.gateway.api import load_policy
from devtools_platform.gateway.service import Gateway
from devtools_platform.observability.prices import load_prices


class AtOnce:
    """Steps that just run."""

    async def step(self, name: str, call: Callable[[], Awaitable[Any]], returns: Any) -> Any:
        return await call()


@dataclass
class Meter:
    """The ledger: what the calls of one case used. A price that is not known makes the sum unknown."""

    calls: int = 0
    input_tokens: int = 0
    output_tokens: int = 0
    cost_usd: Decimal | None = Decimal(0)

    def note(self, input_tokens: int | None, output_tokens: int | None, cost_usd: Decimal | None) -> None:
        self.calls += 1
        self.input_tokens += input_tokens or 0
        self.output_tokens += output_tokens or 0
        self.cost_usd = None if self.cost_usd is None or cost_usd is None else self.cost_usd + cost_usd

    async def usage(self, task_id: str) -> Usage:
        return Usage(model_calls=self.calls)


class NoLog:
    """Nobody looks: nothing is written down, nobody pauses or speaks."""

    def __getattr__(self, name: str) -> Callable[..., Awaitable[Any]]:
        async def nothing(*_: Any, **__: Any) -> Any:
            return [] if name == "take_messages" else None

        return nothing


class NoRecords(NoLog):
    """Every call is the first of its key."""


@dataclass
class InProcess:
    """The gateway, asked without a wire."""

    gateway: Gateway

    async def list_tools(self, caller: Caller) -> list[Tool]:
        from dataclasses import replace

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
    """`run` gives an agent's outcome as its workflow would."""

    settings: Settings
    served: ServedModel
    workspaces: Path
    meter: Meter = field(default_factory=Meter)

    def __post_init__(self) -> None:
        tools = workspace_tools(self.settings, self.workspaces)
        no: Any = NoRecords()
        gateway = Gateway([tools], load_policy(), no, rules=ApprovalRules(), grants=no, environment="test")
        durable: Any = AtOnce()
        log: Any = NoLog()
        self.tools = DurableTools(InProcess(gateway), durable, log)
        ledger: Any = self
        runner = AgentRunner(
            load_definitions(),
            lambda agent: build_model(self.served, agent, ledger, self.settings.model_timeout_s),
            self.tools,
            durable=_Nothing,
            max_turns=self.settings.max_agent_turns,
        )
        missing = "" if self.served.endpoint else f"{self.served.missing} {NO_MODEL_HINT}"
        traits = Traits(self.served.is_small, self.served.needs_judge, missing)
        self._run = AgentRunWorkflow(runner, lambda _: traits, self.settings.max_candidates, log)
        self._pricing = Pricing(self.served, load_prices(self.settings.prices))

    max_output_tokens = None

    async def record_call(
        self, *, input_tokens: int | None, output_tokens: int | None, cached_tokens: int | None, **_: Any
    ) -> Decimal | None:
        cost = None
        if input_tokens is not None and output_tokens is not None:
            cost, _source = self._pricing.price(input_tokens, output_tokens, cached_tokens or 0)
        self.meter.note(input_tokens, output_tokens, cost)
        return cost

    async def usage(self, task_id: str) -> Usage:
        return await self.meter.usage(task_id)

    async def run(self, agent: str, task_id: str, prompt: str, goal: str, timeout_s: float) -> dict[str, Any]:
        argument = {"task_id": task_id, "agent": agent, "n": 1, "prompt": prompt, "goal": goal}
        async with asyncio.timeout(timeout_s):
            return await self._run(f"{task_id}/{agent}/1", {**argument, "without_sandbox": False})

    async def call(self, agent: Any, task_id: str, tool: str, arguments: Mapping[str, Any]) -> ToolResult:
        return await self.tools.client.call(Caller(task_id, agent), tool, arguments, f"judge:{task_id}:{tool}")


class _Nothing(AbstractCapability[Any]):
    """Makes nothing durable."""


def agents_of(cases: Sequence[Mapping[str, Any]]) -> list[str]:
    return list(dict.fromkeys(case["agent"] for case in cases))
