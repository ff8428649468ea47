"""Tool calls as durable steps, each with one idempotency key and one event in the task's timeline."""

import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from devtools_platform.agents.interfaces import TaskLog, ToolClient
from devtools_platform.agents.spans import tool_span
from devtools_platform.agents.types import TaskEnded
from devtools_platform.core.errors import DiskFull
from devtools_platform.core.interfaces import Durable
from devtools_platform.core.tools import Caller, Tool, ToolResult


@dataclass(frozen=True)
class ToolOutcome:
    """A call as its step stores it: what the tool gave back, and what a person said meanwhile."""

    result: ToolResult
    messages: tuple[str, ...] = ()
    is_paused: bool = False
    """The task is paused: the call was not made."""


@dataclass(frozen=True)
class DurableTools:
    """Tool calls as durable steps, recorded as events. Used by the agents' loop and by the orchestration.

    A call that meets a full disk ends the task (`TaskEnded`): no model can make room, and what it would do without its
    edit would be judged as its work.
    """

    client: ToolClient
    durable: Durable
    log: TaskLog

    async def list_tools(self, caller: Caller) -> list[Tool]:
        return await self.durable.step("tools.list", lambda: self.client.list_tools(caller), list[Tool])

    async def call(self, caller: Caller, name: str, arguments: Mapping[str, Any], key: str) -> ToolResult:
        """`key` must be the same on replay and unique to this call."""

        async def call() -> ToolOutcome:
            result, told = await self._call(caller, name, arguments, key, None)
            await self.log.append_event(caller.task_id, f"tool:{key}", "tool_call", caller.agent, told)
            return ToolOutcome(result)

        result = (await self.durable.step("tools.call", call, ToolOutcome)).result
        _end_where_the_disk_is_full(result)
        return result

    async def call_attentively(
        self, caller: Caller, name: str, arguments: Mapping[str, Any], key: str, approval: str | None
    ) -> ToolOutcome:
        """The same, for an agent a person may talk to: not made while the task is paused, and hears what they say."""

        async def call() -> ToolOutcome:
            if await self.log.is_paused(caller.task_id):
                return ToolOutcome(ToolResult("The task is paused."), is_paused=True)
            result, told = await self._call(caller, name, arguments, key, approval)
            tool_key = f"tool:{key}"
            said = await self.log.append_and_take(
                caller.task_id, tool_key, "tool_call", caller.agent, told, taker=tool_key
            )
            return ToolOutcome(result, tuple(said))

        outcome = await self.durable.step("tools.call", call, ToolOutcome)
        _end_where_the_disk_is_full(outcome.result)
        return outcome

    async def _call(
        self, caller: Caller, name: str, arguments: Mapping[str, Any], key: str, approval: str | None
    ) -> tuple[ToolResult, dict[str, Any]]:
        """What the tool gave back, and what the timeline says of the call."""
        started = time.perf_counter()
        with tool_span(name, arguments, key) as span:
            result = await self.client.call(caller, name, arguments, key, approval)
            span.set_attribute("gen_ai.tool.call.result", result.text)
            if result.is_error:
                span.set_attribute("devtools.tool.is_error", value=True)
        duration = round(time.perf_counter() - started, 3)
        data = {"tool": name, "arguments": _brief(arguments), "is_error": result.is_error, "duration_s": duration}
        if result.is_error:
            data["message"] = result.text[:500]
        return result, data


def _end_where_the_disk_is_full(result: ToolResult) -> None:
    if result.is_error and result.data.get("code") == DiskFull.code:
        raise TaskEnded("disk_full", result.text)


def shorten(text: str, limit: int) -> str:
    """`text` with its middle cut out when it is longer than `limit` characters, and a note of how much is missing."""
    if len(text) <= limit:
        return text
    half = limit // 2
    return f"{text[:half]}\n… {len(text) - 2 * half} characters left out …\n{text[-half:]}"


def _brief(arguments: Mapping[str, Any]) -> dict[str, Any]:
    return {key: shorten(value, 300) if isinstance(value, str) else value for key, value in arguments.items()}
