"""The spans of an agent's run, by what is kept of them: the run, its calls, what was said, and what went wrong."""

import asyncio
import json
from collections.abc import AsyncIterator, Mapping, Sequence
from decimal import Decimal
from typing import Any

import pytest
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from pydantic_ai import Agent
from pydantic_ai.messages import ModelMessage, ModelResponse, TextPart, ToolCallPart
from pydantic_ai.models.function import AgentInfo, FunctionModel
from pydantic_ai.usage import RequestUsage

from devtools_platform.agents import spans as agent_spans
from devtools_platform.agents.at_once import AtOnce
from devtools_platform.agents.metered import MeteredModel
from devtools_platform.agents.spans import agent_span, tell_output
from devtools_platform.agents.tool_calls import DurableTools
from devtools_platform.agents.toolset import AgentDeps, GatewayToolset
from devtools_platform.core.errors import Unavailable
from devtools_platform.core.tools import Caller, Tool, ToolResult
from devtools_platform.kit import telemetry
from devtools_platform.observability.interfaces import SpanRow
from devtools_platform.observability.service import StoreExporter
from devtools_platform.observability.spans import Origin, TaskStamp

USED = RequestUsage(input_tokens=10, output_tokens=2)


class Memory:
    def __init__(self) -> None:
        self.rows: list[SpanRow] = []

    def write(self, spans: Sequence[SpanRow]) -> None:
        self.rows += spans

    def named(self, name: str) -> list[SpanRow]:
        return [row for row in self.rows if row.name == name]


class Ledger:
    max_output_tokens = None

    def __init__(self) -> None:
        self.calls: list[dict[str, Any]] = []

    async def record_call(self, **call: Any) -> Decimal:
        self.calls.append(call)
        return Decimal("0.25")


class Tools:
    async def list_tools(self, caller: Caller) -> list[Tool]:
        return [Tool("up_look", "Look.", {"type": "object"}, is_read_only=True)]

    async def call(self, caller: Caller, name: str, arguments: Mapping[str, Any], *_: Any) -> ToolResult:
        return ToolResult("nothing there", is_error=True)


class NoLog:
    async def append_event(self, *_: object) -> int:
        return 0


def tracing_into(memory: Memory, monkeypatch: pytest.MonkeyPatch, *, with_content: bool) -> None:
    provider = TracerProvider(shutdown_on_exit=False)
    provider.add_span_processor(TaskStamp())
    exporter = StoreExporter(memory, Origin("test", "1", None), with_content=with_content)
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    tracer = provider.get_tracer("test")
    monkeypatch.setattr(telemetry, "tracer", tracer)
    monkeypatch.setattr(agent_spans, "tracer", tracer)


@pytest.fixture(params=["with content", "without content"])
def kept(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture
def memory(monkeypatch: pytest.MonkeyPatch, kept: str) -> Memory:
    memory = Memory()
    tracing_into(memory, monkeypatch, with_content=kept == "with content")
    return memory


def agent_on(model: FunctionModel, ledger: Ledger) -> Agent[AgentDeps, str]:
    metered = MeteredModel(
        model, ledger, is_retryable=lambda _: 0.0, explain=lambda e: Unavailable(str(e)), attempts=2  # pyright: ignore[reportArgumentType]
    )  # fmt: skip
    tools = DurableTools(Tools(), AtOnce(), NoLog())  # pyright: ignore[reportArgumentType]
    return Agent(metered, deps_type=AgentDeps, instructions="Be brief.", toolsets=[GatewayToolset(tools)])


async def test_a_run_tells_what_was_said_done_and_spent_under_one_span(memory: Memory, kept: str) -> None:
    async def answer(messages: list[ModelMessage], _: AgentInfo) -> ModelResponse:
        looks = ToolCallPart("up_look", {"at": "the cellar"}, tool_call_id="c1")
        return ModelResponse(parts=[looks if len(messages) == 1 else TextPart("empty")], usage=USED)

    ledger, deps = Ledger(), AgentDeps(Caller("t1", "cicd"), "t1/cicd/1", is_attentive=False)
    with agent_span("t1", "cicd", "t1/cicd/1") as span:
        tell_output(span, (await agent_on(FunctionModel(answer), ledger).run("What is there?", deps=deps)).output)

    (run,) = memory.named("invoke_agent cicd")
    first, second = [row for row in memory.rows if row.name.startswith("chat ")]
    (tool,) = memory.named("execute_tool up_look")
    assert {row.parent_id for row in (first, second, tool)} == {run.span_id}
    assert {(row.task_id, row.agent) for row in memory.rows} == {("t1", "cicd")}
    assert [call["span_id"] for call in ledger.calls] == [first.span_id, second.span_id]
    assert json.loads(second.attributes["langfuse.observation.usage_details"])["total"] == 12
    assert json.loads(second.attributes["langfuse.observation.cost_details"]) == {"total": 0.25}
    assert second.attributes["gen_ai.usage.input_tokens"] == 10
    assert tool.attributes["langfuse.observation.level"] == "WARNING"
    if kept == "without content":
        rows = str(memory.rows)
        assert not [said for said in ("cellar", "nothing there", "What is", "empty", "brief") if said in rows]
        return
    asked = json.loads(second.attributes["gen_ai.input.messages"])
    assert [part["type"] for message in asked for part in message["parts"]] == [
        "text",
        "tool_call",
        "tool_call_response",
    ]
    assert "Be brief." in second.attributes["gen_ai.system_instructions"]
    assert json.loads(tool.attributes["gen_ai.tool.call.arguments"]) == {"at": "the cellar"}
    assert tool.attributes["gen_ai.tool.call.result"] == "nothing there"
    assert run.attributes["final_result"] == "empty"


async def test_each_attempt_has_its_own_span_and_a_failed_one_says_why(memory: Memory, kept: str) -> None:
    async def answer(_: list[ModelMessage], __: AgentInfo) -> ModelResponse:
        if not ledger.calls:
            raise RuntimeError("no: you said hello")
        return ModelResponse(parts=[TextPart("done")], usage=USED)

    ledger, deps = Ledger(), AgentDeps(Caller("t1", "cicd"), "t1/cicd/1")
    with agent_span("t1", "cicd", "t1/cicd/1"):
        await agent_on(FunctionModel(answer), ledger).run("hello", deps=deps)

    failed, answered = [row for row in memory.rows if row.name.startswith("chat ")]
    assert [call["span_id"] for call in ledger.calls] == [failed.span_id, answered.span_id]
    assert (failed.status, answered.status) == ("error", "unset")
    assert "langfuse.observation.usage_details" not in failed.attributes
    said = "RuntimeError: no: you said hello" if kept == "with content" else "RuntimeError"
    assert failed.attributes["langfuse.observation.status_message"] == said


@pytest.mark.parametrize("kept", ["with content"])
async def test_a_stream_has_its_span_also_when_its_reader_goes_away(memory: Memory) -> None:
    has_begun = asyncio.Event()

    async def write(_: list[ModelMessage], __: AgentInfo) -> AsyncIterator[str]:
        yield "One "
        has_begun.set()
        if len(memory.rows) < 2:
            return
        await asyncio.Event().wait()

    async def read() -> None:
        deps = AgentDeps(Caller("t1", "cicd"), "t1/cicd/1")
        with agent_span("t1", "cicd", "t1/cicd/1"):
            async with agent.run_stream("hello", deps=deps) as stream:
                await stream.get_output()

    agent = agent_on(FunctionModel(stream_function=write), Ledger())
    await read()
    has_begun.clear()
    reader = asyncio.create_task(read())
    async with asyncio.timeout(5):
        await has_begun.wait()
    reader.cancel()
    await asyncio.gather(reader, return_exceptions=True)

    whole, broken = [row for row in memory.rows if row.name.startswith("chat ")]
    assert "One " in whole.attributes["gen_ai.output.messages"]
    assert (broken.status, "gen_ai.output.messages" in broken.attributes) == ("error", False)
