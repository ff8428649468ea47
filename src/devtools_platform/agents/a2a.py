"""Each agent for other agents (A2A 1.0): a card that says what it is for, and messages it answers, over JSON-RPC.

A message is answered with a message: what is durable is handed over as a task of the stack (`tasks_create` over MCP).
Streams, push notifications and A2A's own tasks are not offered, and the card says so.
"""

import uuid
from collections.abc import Mapping
from typing import Any, cast

from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from pydantic.alias_generators import to_camel

from devtools_platform import __version__
from devtools_platform.agents.chat import Ask, Said, new_session
from devtools_platform.agents.types import Definition
from devtools_platform.core.agents import AgentName
from devtools_platform.core.errors import BadInput, DevToolsError, UnknownAgent

CARD = "/agents/{name}/.well-known/agent-card.json"
SEND = frozenset({"SendMessage", "message/send"})
"""The method's name in A2A 1.0, and the one before it that clients still use."""
PARSE_ERROR, INVALID_REQUEST, NO_METHOD, INVALID_PARAMS, INTERNAL = -32700, -32600, -32601, -32602, -32603
MAX_PARTS = 100


class _Camel(BaseModel):
    model_config = ConfigDict(alias_generator=to_camel, populate_by_name=True, extra="ignore")


class Part(_Camel):
    text: str | None = None


class Message(_Camel):
    role: str
    parts: list[Part] = Field(min_length=1, max_length=MAX_PARTS)
    message_id: str = Field(max_length=200)
    context_id: str | None = Field(default=None, max_length=200)


class SendParams(_Camel):
    message: Message


def card_paths(names: tuple[AgentName, ...]) -> frozenset[str]:
    """Where the cards are, which are read without a token."""
    return frozenset(CARD.format(name=name) for name in names)


def add_a2a(app: FastAPI, definitions: Mapping[AgentName, Definition], ask: Ask) -> None:
    """The card and the endpoint of each agent, on the agents' app: behind its tokens and limits."""

    def find(name: str) -> Definition:
        if name not in definitions:
            known = ", ".join(definitions)
            raise UnknownAgent(f"There is no agent {name!r}.", hint=f"The agents are: {known}.")
        return definitions[name]

    @app.get(CARD, tags=["agents"])
    async def read_card(name: str, request: Request) -> dict[str, Any]:
        return _card(find(name), str(request.url.replace(path=f"/agents/{name}/a2a", query="")))

    @app.post("/agents/{name}/a2a", tags=["agents"])
    async def call(name: str, request: Request) -> JSONResponse:
        find(name)
        try:
            body: Any = await request.json()
        except ValueError:
            return _error(None, PARSE_ERROR, "The body is no JSON.")
        if not isinstance(body, dict) or body.get("jsonrpc") != "2.0":  # pyright: ignore[reportUnknownMemberType]
            return _error(None, INVALID_REQUEST, "This is no JSON-RPC 2.0 request.")
        return await _answer(ask, name, cast("dict[str, Any]", body))

    _ = (read_card, call)


async def _answer(ask: Ask, name: AgentName, given: dict[str, Any]) -> JSONResponse:
    id_ = given.get("id")
    if given.get("method") not in SEND:
        return _error(id_, NO_METHOD, f"There is no method {given.get('method')!r} here; there is SendMessage.")
    try:
        message = SendParams.model_validate(given.get("params")).message
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        return _error(id_, INVALID_PARAMS, f"{'.'.join(str(part) for part in first['loc'])}: {first['msg']}.")
    text = "\n".join(part.text for part in message.parts if part.text)
    try:
        if not text:
            raise BadInput("The message has no text; this agent takes nothing else.", hint="Send a part with `text`.")
        answer = await ask(name, [Said("user", text)], new_session())
    except DevToolsError as error:
        code = INVALID_PARAMS if isinstance(error, BadInput) else INTERNAL
        return _error(id_, code, f"{error} {error.hint}".strip(), {"code": error.code})
    said = {
        "role": "agent",
        "parts": [{"text": answer.text, "mediaType": "text/plain"}],
        "messageId": uuid.uuid4().hex,
        "contextId": message.context_id or uuid.uuid4().hex,
    }
    return JSONResponse({"jsonrpc": "2.0", "id": id_, "result": {"message": said}})


def _card(definition: Definition, url: str) -> dict[str, Any]:
    skill = {
        "id": definition.name,
        "name": definition.name,
        "description": definition.role,
        "tags": list(definition.toolsets) or ["software"],
        "inputModes": ["text/plain"],
        "outputModes": ["text/plain"],
    }
    return {
        "name": definition.name,
        "description": definition.role,
        "version": __version__,
        "supportedInterfaces": [{"protocolBinding": "JSONRPC", "url": url, "protocolVersion": "1.0"}],
        "capabilities": {"streaming": False, "pushNotifications": False, "extendedAgentCard": False},
        "securitySchemes": {"token": {"httpAuthSecurityScheme": {"scheme": "Bearer"}}},
        "securityRequirements": [{"schemes": {"token": []}}],
        "defaultInputModes": ["text/plain"],
        "defaultOutputModes": ["text/plain"],
        "skills": [skill],
    }


def _error(id_: Any, code: int, message: str, data: dict[str, Any] | None = None) -> JSONResponse:
    error = {"code": code, "message": message} | ({} if data is None else {"data": data})
    return JSONResponse({"jsonrpc": "2.0", "id": id_, "error": error})
