"""The gateway's tools as a pydantic-ai toolset."""

from dataclasses import dataclass
from typing import Any

from pydantic_ai import ApprovalRequired, RunContext
from pydantic_ai.tools import ToolDefinition
from pydantic_ai.toolsets import AbstractToolset, ToolsetTool
from pydantic_core import SchemaValidator, core_schema

from devtools_platform.agents.edit_formats import is_offered
from devtools_platform.agents.tool_calls import DurableTools, shorten
from devtools_platform.core.agents import EditFormat
from devtools_platform.core.tools import APPROVAL_REQUIRED, Caller, Tool, ToolResult

MAX_RESULT_CHARS = 24_000
ANY_ARGUMENTS = SchemaValidator(core_schema.any_schema())
"""The tool server validates: it knows its schema, and its errors are written for models."""


@dataclass(frozen=True)
class AgentDeps:
    """What a run carries along: who it is, and the run's own prefix for keys and events."""

    caller: Caller
    run: str
    is_attentive: bool = True
    """Whether a person can pause it, talk to it and be asked by it. A review cannot: it only reads, and is short."""


class GatewayToolset(AbstractToolset[AgentDeps]):
    """What the gateway permits this caller; of the tools that edit files, those of its model's `edit_format`. The list
    is read once per run."""

    def __init__(self, tools: DurableTools, edit_format: EditFormat | None = None) -> None:
        self._tools = tools
        self._edit_format: EditFormat | None = edit_format
        self._listed: dict[str, ToolsetTool[AgentDeps]] | None = None

    @property
    def id(self) -> str:
        return "gateway"

    async def for_run(self, ctx: RunContext[AgentDeps]) -> "GatewayToolset":
        return GatewayToolset(self._tools, self._edit_format)

    async def get_tools(self, ctx: RunContext[AgentDeps]) -> dict[str, ToolsetTool[AgentDeps]]:
        if self._listed is None:
            permitted = await self._tools.list_tools(ctx.deps.caller)
            offered = [tool for tool in permitted if is_offered(tool.name, self._edit_format)]
            self._listed = {tool.name: self._wrap(tool) for tool in offered}
        return self._listed

    async def call_tool(
        self, name: str, tool_args: dict[str, Any], ctx: RunContext[AgentDeps], tool: ToolsetTool[AgentDeps]
    ) -> str:
        # Weak endpoints repeat tool call ids from turn to turn: the turn makes the key unique, and replay stable.
        key = f"{ctx.deps.run}:{ctx.run_step}:{ctx.tool_call_id}"
        if not ctx.deps.is_attentive:
            return _as_text(await self._tools.call(ctx.deps.caller, name, tool_args, key))
        approval: str | None = ctx.tool_call_metadata["approval"] if ctx.tool_call_approved else None
        outcome = await self._tools.call_attentively(ctx.deps.caller, name, tool_args, key, approval)
        if outcome.is_paused:
            # What was approved, perhaps with other arguments, stays approved over the pause.
            raise ApprovalRequired({"is_paused": True, "approval": approval, "arguments": tool_args})
        result = outcome.result
        if result.is_error and result.data.get("code") == APPROVAL_REQUIRED:
            raise ApprovalRequired({"is_paused": False, **result.data})
        for message in outcome.messages:
            ctx.enqueue(f"<message from='the person who gave you this task'>\n{message}\n</message>")
        return _as_text(result)

    def _wrap(self, tool: Tool) -> ToolsetTool[AgentDeps]:
        definition = ToolDefinition(
            name=tool.name, description=tool.description, parameters_json_schema=dict(tool.input_schema)
        )
        return ToolsetTool(toolset=self, tool_def=definition, max_retries=2, args_validator=ANY_ARGUMENTS)


def _as_text(result: ToolResult) -> str:
    text = shorten(result.text, MAX_RESULT_CHARS)
    return f"Error: {text}" if result.is_error else text
