"""Tool calls as an agent and the orchestration make them."""

from collections.abc import Mapping
from typing import Any

import pytest
from pydantic_ai import Agent
from pydantic_ai.messages import ModelMessage, ModelResponse, TextPart, ToolCallPart
from pydantic_ai.models.function import AgentInfo, FunctionModel

from devtools_platform.agents.at_once import AtOnce
from devtools_platform.agents.tool_calls import DurableTools
from devtools_platform.agents.toolset import AgentDeps, GatewayToolset
from devtools_platform.agents.types import TaskEnded
from devtools_platform.core.errors import DiskFull
from devtools_platform.core.tools import Caller, Tool, ToolResult

ME = Caller("t1", "feature-dev")


class FullDisk:
    async def list_tools(self, caller: Caller) -> list[Tool]:
        return [Tool("workspace_write_file", "Write.", {"type": "object"}, is_read_only=False)]

    async def call(self, *_: object) -> ToolResult:
        full = DiskFull("There is no room left.")
        return ToolResult(str(full), full.to_dict(), is_error=True)


class NoLog:
    async def append_event(self, *_: object) -> int:
        return 0

    async def is_paused(self, task_id: str) -> bool:
        return False

    async def append_and_take(self, *_: object, taker: str) -> list[str]:
        return []


TOOLS = DurableTools(FullDisk(), AtOnce(), NoLog())  # pyright: ignore[reportArgumentType]


@pytest.mark.parametrize("is_attentive", [True, False])
async def test_a_full_disk_ends_the_task_before_a_model_goes_on_without_its_edit(*, is_attentive: bool) -> None:
    turns: list[int] = []

    async def answer(messages: list[ModelMessage], _: AgentInfo) -> ModelResponse:
        turns.append(len(messages))
        writes: Mapping[str, Any] = {"path": "a.py", "content": "x"}
        return ModelResponse(
            parts=[ToolCallPart("workspace_write_file", dict(writes)) if len(turns) == 1 else TextPart("done")]
        )

    agent = Agent(FunctionModel(answer), deps_type=AgentDeps, toolsets=[GatewayToolset(TOOLS)])
    deps = AgentDeps(ME, "t1/feature-dev/1", is_attentive=is_attentive)
    with pytest.raises(TaskEnded, match="no room") as ended:
        await agent.run("Write it.", deps=deps)

    assert ended.value.reason == "disk_full"
    assert len(turns) == 1


async def test_a_full_disk_ends_the_task_where_its_tests_run() -> None:
    with pytest.raises(TaskEnded) as ended:
        await TOOLS.call(ME, "workspace_run_tests", {}, "t1:tests")

    assert ended.value.reason == "disk_full"
