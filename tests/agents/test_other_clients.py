"""Agents for AG-UI front ends and for other agents (A2A): judged by the protocols' own descriptions."""

import asyncio
import json
from collections.abc import AsyncIterator, Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
from fastapi import FastAPI
from httpx2 import ASGITransport, AsyncClient
from jsonschema import Draft202012Validator

from devtools_platform.agents.a2a import add_a2a, card_paths
from devtools_platform.agents.ag_ui import add_ag_ui
from devtools_platform.agents.chat import ChatAnswer, Said
from devtools_platform.agents.definitions import load_definitions
from devtools_platform.core.errors import Unavailable
from devtools_platform.kit.http import create_app

SCHEMAS = Path(__file__).parent / "schemas"
TOKEN = "t"
LONG = "word " * 200


class Talk:
    """An agent in conversation: says what it was told to, and keeps what it heard."""

    def __init__(self) -> None:
        self.heard: list[tuple[str, Sequence[Said]]] = []
        self.trouble: Exception | None = None
        self.may_answer = asyncio.Event()
        self.may_answer.set()
        self.was_cancelled = asyncio.Event()

    async def __call__(
        self, agent: str, conversation: Sequence[Said], session: str, say: Callable[[str], None] | None = None
    ) -> ChatAnswer:
        assert session.startswith("chat:")
        self.heard.append((agent, conversation))
        try:
            await self.may_answer.wait()
        except asyncio.CancelledError:
            self.was_cancelled.set()
            raise
        if self.trouble:
            raise self.trouble
        for word in LONG.split(" ") if say else ():
            assert say
            say(f"{word} " if word else "")
        return ChatAnswer(LONG, "m", 1, 2)


@pytest.fixture
def talk() -> Talk:
    return Talk()


@pytest.fixture
def app(talk: Talk) -> FastAPI:
    definitions = load_definitions(None)

    async def health() -> dict[str, Any]:
        return {}

    made = create_app("agents", token=TOKEN, health=health, open_paths=card_paths(tuple(definitions)))
    add_ag_ui(made, definitions, talk)
    add_a2a(made, definitions, talk)
    return made


@pytest.fixture
async def client(app: FastAPI) -> AsyncIterator[AsyncClient]:
    headers = {"Authorization": f"Bearer {TOKEN}"}
    async with AsyncClient(transport=ASGITransport(app), base_url="http://127.0.0.1:8000", headers=headers) as made:
        yield made


def judge(name: str, value: Any) -> None:
    """Raises for what the protocol's own description does not allow."""
    Draft202012Validator(json.loads((SCHEMAS / f"{name}.json").read_text())).validate(value)


def run(*messages: dict[str, Any]) -> dict[str, Any]:
    return {"threadId": "th", "runId": "r1", "messages": list(messages), "tools": [], "context": [], "state": {}}


HELLO = {"id": "1", "role": "user", "content": "Hello"}


async def events_of(client: AsyncClient, body: dict[str, Any], agent: str = "cicd") -> list[dict[str, Any]]:
    answer = await client.post(f"/agents/{agent}/ag-ui", json=body)
    assert answer.status_code == 200, answer.text
    events = [json.loads(line[5:]) for line in answer.text.splitlines() if line.startswith("data:")]
    for event in events:
        judge("ag_ui_event", event)
    return events


async def test_a_run_of_ag_ui_begins_says_the_answer_in_pieces_and_ends(client: AsyncClient, talk: Talk) -> None:
    history = [
        {"id": "0", "role": "developer", "content": "Be brief."},
        {"id": "2", "role": "tool", "content": "ignored", "toolCallId": "c"},
        {"id": "3", "role": "user", "content": [{"type": "text", "text": "Hello"}]},
    ]
    events = await events_of(client, run(*history))
    kinds = [event["type"] for event in events]
    assert kinds[:2] == ["RUN_STARTED", "TEXT_MESSAGE_START"]
    assert kinds[-2:] == ["TEXT_MESSAGE_END", "RUN_FINISHED"]
    pieces = [event["delta"] for event in events if event["type"] == "TEXT_MESSAGE_CONTENT"]
    assert len(pieces) > 1
    assert "".join(pieces) == LONG
    assert talk.heard == [("cicd", [Said("system", "Be brief."), Said("user", "Hello")])]


async def test_an_agent_that_fails_ends_the_run_with_the_reason(client: AsyncClient, talk: Talk) -> None:
    talk.trouble = Unavailable("Too many conversations.", hint="Try again.")
    events = await events_of(client, run(HELLO))
    assert events[-1] == {"type": "RUN_ERROR", "message": "Too many conversations. Try again.", "code": "unavailable"}


async def test_an_unknown_agent_no_token_and_no_message_are_refused(client: AsyncClient, app: FastAPI) -> None:
    assert (await client.post("/agents/nobody/ag-ui", json=run(HELLO))).status_code == 422
    assert (await client.post("/agents/cicd/ag-ui", json=run())).status_code == 422
    async with AsyncClient(transport=ASGITransport(app), base_url="http://127.0.0.1:8000") as stranger:
        assert (await stranger.post("/agents/cicd/ag-ui", json=run(HELLO))).status_code == 401
        assert (await stranger.post("/agents/cicd/a2a", json={})).status_code == 401


async def test_every_agent_has_a_card_that_a2a_understands(app: FastAPI) -> None:
    async with AsyncClient(transport=ASGITransport(app), base_url="http://127.0.0.1:8000") as stranger:
        for name in load_definitions(None):
            card = (await stranger.get(f"/agents/{name}/.well-known/agent-card.json")).json()
            judge("a2a_agent_card", card)
            assert card["supportedInterfaces"][0]["url"] == f"http://127.0.0.1:8000/agents/{name}/a2a"
        assert (await stranger.get("/agents/nobody/.well-known/agent-card.json")).status_code in {401, 422}


def send(method: str = "SendMessage", **message: Any) -> dict[str, Any]:
    given = {"role": "user", "parts": [{"text": "Hello"}], "messageId": "m1", "contextId": "c1"} | message
    return {"jsonrpc": "2.0", "id": 7, "method": method, "params": {"message": given}}


@pytest.mark.parametrize("method", ["SendMessage", "message/send"])
async def test_a_message_is_answered_with_a_message_of_the_same_context(
    client: AsyncClient, talk: Talk, method: str
) -> None:
    answer = (await client.post("/agents/cicd/a2a", json=send(method))).json()
    judge("a2a_response", answer)
    assert answer["id"] == 7
    said = answer["result"]["message"]
    assert (said["role"], said["contextId"], said["parts"][0]["text"]) == ("agent", "c1", LONG)
    assert talk.heard == [("cicd", [Said("user", "Hello")])]


@pytest.mark.parametrize(
    ("body", "code"),
    [
        ("no json", -32700),
        ([], -32600),
        ({"id": 1, "method": "SendMessage"}, -32600),
        (send("tasks/get"), -32601),
        (send(parts=[]), -32602),
        (send(parts=[{"data": {"a": 1}}]), -32602),
        ({"jsonrpc": "2.0", "id": 1, "method": "SendMessage"}, -32602),
    ],
    ids=str,
)
async def test_what_is_no_such_message_gets_the_protocols_own_error(client: AsyncClient, body: Any, code: int) -> None:
    given = {"content": body} if isinstance(body, str) else {"json": body}
    answer = (await client.post("/agents/cicd/a2a", **given)).json()
    judge("a2a_response", answer)
    assert answer["error"]["code"] == code


async def test_a_failure_of_ours_is_an_internal_error_with_our_code(client: AsyncClient, talk: Talk) -> None:
    talk.trouble = Unavailable("No model.", hint="Get one.")
    answer = (await client.post("/agents/cicd/a2a", json=send())).json()
    assert answer["error"] == {"code": -32603, "message": "No model. Get one.", "data": {"code": "unavailable"}}
