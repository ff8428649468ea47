"""An agent in conversation: its words come as the model writes them, and every call of it is in the ledger."""

import asyncio
import json
from collections.abc import AsyncIterator, Mapping, Sequence
from decimal import Decimal
from typing import Any

import httpx2
import pytest
from pydantic_ai.messages import ModelMessage, ModelRequest, ToolReturnPart
from pydantic_ai.models.function import AgentInfo, DeltaToolCall, FunctionModel

from devtools_platform.agents.api import SESSION, build_api
from devtools_platform.agents.carriers import ProbeResult, RunsOn
from devtools_platform.agents.chat import ChatService, Said, new_session
from devtools_platform.agents.definitions import load_definitions
from devtools_platform.agents.metered import MeteredModel
from devtools_platform.core.errors import DevToolsError, OverBudget, Unavailable
from devtools_platform.core.tools import Caller, Tool, ToolResult

QUESTION = [Said("user", "Hello?")]


class Ledger:
    """Remembers what was reserved and recorded."""

    max_output_tokens = 100

    def __init__(self, limit: int = 10_000) -> None:
        self.limit = limit
        self.reserved: list[dict[str, Any]] = []
        self.recorded: list[dict[str, Any]] = []

    async def reserve(self, **call: Any) -> None:
        if call["input_tokens"] > self.limit:
            raise OverBudget("too much", hint="less")
        self.reserved.append(call)

    async def record_call(self, **call: Any) -> Decimal | None:
        self.recorded.append(call)
        return None


class Tools:
    async def list_tools(self, caller: Caller) -> list[Tool]:
        return [Tool("context_search", "Finds.", {"type": "object", "properties": {}}, is_read_only=True)]

    async def call(
        self, caller: Caller, name: str, arguments: Any, key: str, approval: str | None = None
    ) -> ToolResult:
        return ToolResult("found")


class Nothing:
    """Carriers of no agent."""

    async def list_runs_on(self) -> Mapping[str, RunsOn]:
        return {}

    async def probe(self, agent: str) -> Sequence[ProbeResult]:
        return []


def explain(error: Exception) -> DevToolsError:
    return error if isinstance(error, DevToolsError) else Unavailable(str(error))


def service(ledger: Ledger, write: Any) -> ChatService:
    def model(_agent: str) -> MeteredModel:
        written = FunctionModel(stream_function=write)
        return MeteredModel(written, ledger, is_retryable=lambda _: None, explain=explain)  # pyright: ignore[reportArgumentType]

    return ChatService(load_definitions(), model, Tools(), max_turns=5)


async def test_words_are_passed_on_while_the_model_still_writes() -> None:
    heard: list[str] = []
    was_heard = asyncio.Event()

    async def write(_messages: list[ModelMessage], _info: AgentInfo) -> AsyncIterator[str]:
        yield "One "
        async with asyncio.timeout(5):
            await was_heard.wait()
        yield "two."

    def say(text: str) -> None:
        heard.append(text)
        was_heard.set()

    ledger, session = Ledger(), new_session()
    answer = await service(ledger, write).answer("cicd", QUESTION, session, say)
    assert (answer.text, heard) == ("One two.", ["One ", "two."])
    assert [call["task_id"] for call in ledger.reserved] == [call["task_id"] for call in ledger.recorded] == [session]
    assert ledger.recorded[0]["call_id"] == ledger.reserved[0]["call_id"]
    assert ledger.recorded[0]["output_tokens"] > 0


async def test_a_stream_that_breaks_is_recorded_as_one_that_may_be_charged() -> None:
    async def write(_messages: list[ModelMessage], _info: AgentInfo) -> AsyncIterator[str]:
        yield "One "
        raise Unavailable("cut off")

    ledger, heard = Ledger(), list[str]()
    with pytest.raises(Unavailable, match="cut off"):
        await service(ledger, write).answer("cicd", QUESTION, new_session(), heard.append)
    assert heard == ["One "]
    assert [(call["may_be_charged"], call["error"]) for call in ledger.recorded] == [(True, "Unavailable: cut off")]


async def test_who_hangs_up_ends_the_call_and_it_is_recorded() -> None:
    has_begun = asyncio.Event()

    async def write(_messages: list[ModelMessage], _info: AgentInfo) -> AsyncIterator[str]:
        yield "One "
        await asyncio.Event().wait()

    ledger = Ledger()
    work = asyncio.create_task(
        service(ledger, write).answer("cicd", QUESTION, new_session(), lambda _: has_begun.set())
    )
    async with asyncio.timeout(5):
        await has_begun.wait()
        work.cancel()
        with pytest.raises(asyncio.CancelledError):
            await work
    assert [call["may_be_charged"] for call in ledger.recorded] == [True]


async def test_the_endpoint_streams_every_turn_and_names_its_session() -> None:
    async def write(messages: list[ModelMessage], _info: AgentInfo) -> AsyncIterator[Any]:
        last = messages[-1]
        if isinstance(last, ModelRequest) and any(isinstance(part, ToolReturnPart) for part in last.parts):
            yield "It "
            yield "is there."
        else:
            yield "I look. "
            yield {1: DeltaToolCall("context_search", "{}")}

    ledger = Ledger()
    app = build_api(service(ledger, write), Nothing(), token="t")
    http = httpx2.AsyncClient(
        transport=httpx2.ASGITransport(app), base_url="http://agents", headers={"Authorization": "Bearer t"}
    )
    body = {"messages": [{"role": "user", "content": "Hello?"}], "stream": True}
    async with http:
        answer = await http.post("/agents/cicd/v1/chat/completions", json=body)
    events = [line.removeprefix("data: ") for line in answer.text.splitlines() if line.startswith("data:")]
    assert events[-1] == "[DONE]"
    deltas = [json.loads(event)["choices"][0]["delta"].get("content") for event in events[:-1]]
    assert [delta for delta in deltas if delta] == ["I look. ", "It ", "is there."]
    assert {call["task_id"] for call in ledger.recorded} == {answer.headers[SESSION]}
    assert len(ledger.recorded) == 2


async def test_what_no_budget_covers_is_not_asked() -> None:
    async def write(_messages: list[ModelMessage], _info: AgentInfo) -> AsyncIterator[str]:
        raise AssertionError("the model was asked")
        yield ""

    ledger = Ledger(limit=0)
    with pytest.raises(OverBudget):
        await service(ledger, write).answer("cicd", QUESTION, new_session(), lambda _: None)
    assert ledger.recorded == []
