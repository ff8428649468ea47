"""The gateway's tools as a pydantic-ai toolset. Each call is one durable step with one idempotency key."""

import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from pydantic_ai import RunContext
from pydantic_ai.tools import ToolDefinition
from pydantic_ai.toolsets import AbstractToolset, ToolsetTool
from pydantic_core import SchemaValidator, core_schema

from devtools_platform.agents.interfaces import TaskLog, ToolClient
from devtools_platform.core.interfaces import Durable
from devtools_platform.core.tools import Caller, Tool, ToolResult

MAX_RESULT_CHARS = 24_000
ANY_ARGUMENTS = SchemaValidator(core_schema.any_schema())
"""The tool server validates: it knows its schema, and its errors are written for models."""


@dataclass(frozen=True)
class AgentDeps:
    """What a run carries along: who it is, and the run's own prefix for keys and events."""

    caller: Caller
    run: str


@dataclass(frozen=True)
class DurableTools:
    """Tool calls as durable steps, recorded as events. Used by the agents' loop and by the orchestration."""

    client: ToolClient
    durable: Durable
    log: TaskLog

    async def list_tools(self, caller: Caller) -> list[Tool]:
        return await self.durable.step("tools.list", lambda: self.client.list_tools(caller), list[Tool], attempts=3)

    async def call(self, caller: Caller, name: str, arguments: Mapping[str, Any], key: str) -> ToolResult:
        """`key` must be the same on replay and unique to this call."""
        return await self.durable.step(
            "tools.call", lambda: self._call(caller, name, arguments, key), ToolResult, attempts=3
        )

    async def _call(self, caller: Caller, name: str, arguments: Mapping[str, Any], key: str) -> ToolResult:
        started = time.perf_counter()
        result = await self.client.call(caller, name, arguments, key)
        duration = round(time.perf_counter() - started, 3)
        data = {"tool": name, "arguments": _brief(arguments), "is_error": result.is_error, "duration_s": duration}
        if result.is_error:
            data["message"] = result.text[:500]
        await self.log.append_event(caller.task_id, f"tool:{key}", "tool_call", caller.agent, data)
        return result


class GatewayToolset(AbstractToolset[AgentDeps]):
    """What the gateway permits this caller. The list is read once per run."""

    def __init__(self, tools: DurableTools) -> None:
        self._tools = tools
        self._listed: list[Tool] | None = None

    @property
    def id(self) -> str:
        return "gateway"

    async def for_run(self, ctx: RunContext[AgentDeps]) -> "GatewayToolset":
        return GatewayToolset(self._tools)

    async def get_tools(self, ctx: RunContext[AgentDeps]) -> dict[str, ToolsetTool[AgentDeps]]:
        if self._listed is None:
            self._listed = await self._tools.list_tools(ctx.deps.caller)
        return {tool.name: self._wrap(tool) for tool in self._listed}

    async def call_tool(
        self, name: str, tool_args: dict[str, Any], ctx: RunContext[AgentDeps], tool: ToolsetTool[AgentDeps]
    ) -> str:
        # Weak endpoints repeat tool call ids from turn to turn: the turn makes the key unique, and replay stable.
        key = f"{ctx.deps.run}:{ctx.run_step}:{ctx.tool_call_id}"
        result = await self._tools.call(ctx.deps.caller, name, tool_args, key)
        text = shorten(result.text, MAX_RESULT_CHARS)
        return f"Error: {text}" if result.is_error else text

    def _wrap(self, tool: Tool) -> ToolsetTool[AgentDeps]:
        definition = ToolDefinition(
            name=tool.name, description=tool.description, parameters_json_schema=dict(tool.input_schema)
        )
        return ToolsetTool(toolset=self, tool_def=definition, max_retries=2, args_validator=ANY_ARGUMENTS)


def shorten(text: str, limit: int) -> str:
    """`text` with its middle cut out when it is longer than `limit` characters, and a note of how much is missing."""
    if len(text) <= limit:
        return text
    half = limit // 2
    return f"{text[:half]}\n… {len(text) - 2 * half} characters left out …\n{text[-half:]}"


def _brief(arguments: Mapping[str, Any]) -> dict[str, Any]:
    return {key: shorten(value, 300) if isinstance(value, str) else value for key, value in arguments.items()}
