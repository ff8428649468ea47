"""The chat endpoints of the fake DigitalOcean: managed agents, which call their MCP servers themselves, and inference.

A scripted call of a tool that one of the agent's `mcp_servers` offers is made here, over MCP, with the authorization
the agent was given; the conversation then goes on. A call of any other tool goes back to who asked.
"""

import hashlib
import json
import time
from itertools import count
from typing import TYPE_CHECKING, Any

import httpx2
import mcp_types as mcp
from mcp.client.client import Client
from mcp.client.streamable_http import streamable_http_client
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from devtools_platform.agents.adapters.scripted import Reply
from devtools_platform.core.errors import DevToolsError
from fakes import openai_wire as wire
from fakes.digitalocean_resources import Json, ManagedAgent, Refusal
from fakes.openai_server import EventsResponse

if TYPE_CHECKING:
    from fakes.digitalocean_server import FakeDigitalOcean

MAX_OWN_CALLS = 10


class ManagedChat:
    def __init__(self, fake: "FakeDigitalOcean") -> None:
        self.fake = fake
        self.own_calls: list[Json] = []
        """Calls the managed agents made themselves: agent, tool, arguments, text, is_error."""
        self._ids = count(1)
        self._taken: dict[str, int] = {}
        """Turns of the script that were used up inside, by conversation: its callers do not see them."""

    def name_at(self, path: str) -> str | None:
        parts = path.split("/")
        agent = self.fake.resources.agents.get(parts[2]) if path.startswith("/managed/") else None
        return agent.spec["name"] if agent else None

    async def answer_managed(self, request: Request, body: Any, fault: str | None) -> Response:
        _, _, uuid, rest = request.url.path.split("/", 3)
        agent = self.fake.resources.find(uuid)
        if rest != "api/v1/chat/completions" or request.method != "POST":
            raise Refusal(404, "not_found", "no such path")
        given = request.headers.get("authorization", "").removeprefix("Bearer ")
        is_known = any(key["secret_key"] == given for key in agent.keys.values())
        if agent.visibility == "VISIBILITY_DISABLED":
            raise Refusal(404, "not_found", "agent is disabled")
        if agent.visibility != "VISIBILITY_PUBLIC" and not is_known:
            raise Refusal(401, "unauthorized", "invalid api key")
        if request.query_params.get("agent") != "true":
            raise Refusal(400, "bad_request", "agent=true is required")
        # Its own instructions, whatever it was sent.
        own = {"role": "system", "content": agent.spec["instruction"]}
        return await self._complete(body, [own, *body["messages"]], fault, agent)

    async def answer_inference(self, request: Request, body: Any, fault: str | None) -> Response:
        if request.headers.get("authorization") != f"Bearer {self.fake.inference_key}":
            raise Refusal(401, "unauthorized", "invalid model access key")
        if request.url.path == "/v1/models":
            return JSONResponse(wire.model_list(list(self.fake.resources.models), created=int(time.time())))
        if request.url.path != "/v1/chat/completions":
            raise Refusal(404, "not_found", "no such path")
        if body["model"] not in self.fake.resources.models:
            raise Refusal(404, "not_found", "Model not found")
        return await self._complete(body, body["messages"], fault, None)

    async def _complete(
        self, body: Json, messages: list[Json], fault: str | None, agent: ManagedAgent | None
    ) -> Response:
        try:
            chat = wire.ChatRequest.parse({**body, "messages": messages})
            reply = await self._reply(chat, agent)
        except wire.WireError as error:
            raise Refusal(error.status, "bad_request", str(error)) from None
        except DevToolsError as error:
            raise Refusal(400, "bad_request", f"{error} {error.hint}") from None
        number = next(self._ids)
        if fault == "bad_arguments":
            reply = wire.with_bad_arguments(reply, chat, id_=str(number))
        elif fault == "unknown_tool":
            reply = wire.with_unknown_tool(reply, id_=str(number))
        if agent is not None:
            agent.prompt_tokens += chat.tokens
            agent.completion_tokens += reply.tokens
        id_, created = f"chatcmpl-do{number}", int(time.time())
        if chat.is_stream:
            chunks = [self._as_described(one) for one in wire.chunks(chat, reply, id_=id_, created=created)]
            events = [*(wire.event(chunk) for chunk in chunks), wire.event("[DONE]")]
            return EventsResponse(events, is_cut=fault == "cut", pause_s=0)
        return JSONResponse(self._as_described(wire.completion(chat, reply, id_=id_, created=created)))

    def _as_described(self, answer: Json) -> Json:
        """The official description wants the caches counted, and a place for reasoning."""
        for choice in answer["choices"]:
            if "message" in choice:
                choice["message"].setdefault("reasoning_content", None)
        if not answer.get("usage"):
            return answer
        caches = {
            "cache_created_input_tokens": 0,
            "cache_creation": {"ephemeral_5m_input_tokens": 0, "ephemeral_1h_input_tokens": 0},
            "cache_read_input_tokens": 0,
        }
        return {**answer, "usage": {**answer["usage"], **caches}}

    async def _reply(self, chat: wire.ChatRequest, agent: ManagedAgent | None) -> wire.WireReply:
        turn = chat.turn + self._used_inside(chat)
        scripted = self.fake.script.reply(chat.agent, chat.first_prompt, turn)
        for _ in range(MAX_OWN_CALLS):
            if agent is None or not scripted.calls or not all(_server_of(agent, c.tool) for c in scripted.calls):
                break
            await self._call_own(agent, scripted)
            turn += 1
            scripted = self.fake.script.reply(chat.agent, chat.first_prompt, turn)
        self._taken[_key(chat.messages)] = turn - chat.turn
        return wire.to_wire(scripted, chat, id_=f"call_{next(self._ids)}")

    def _used_inside(self, chat: wire.ChatRequest) -> int:
        """By the longest part of this conversation that was answered before."""
        for end in range(len(chat.messages) - 1, 0, -1):
            taken = self._taken.get(_key(chat.messages[:end]))
            if taken is not None:
                return taken
        return 0

    async def _call_own(self, agent: ManagedAgent, reply: Reply) -> None:
        for call in reply.calls:
            server = _server_of(agent, call.tool)
            assert server is not None
            headers = {"Authorization": server["authorization"]} if server.get("authorization") else {}
            try:
                async with (
                    httpx2.AsyncClient(headers=headers, timeout=20, trust_env=False) as http,
                    Client(streamable_http_client(server["server_url"], http_client=http)) as client,
                ):
                    result = await client.call_tool(call.tool, dict(call.arguments))
                text = "\n".join(part.text for part in result.content if isinstance(part, mcp.TextContent))
                self._note(agent, call.tool, call.arguments, text, is_error=bool(result.is_error))
            except Exception as error:  # noqa: BLE001 - whatever the server did, the agent goes on and the test looks
                self._note(agent, call.tool, call.arguments, repr(error), is_error=True)

    def _note(self, agent: ManagedAgent, tool: str, arguments: Any, text: str, *, is_error: bool) -> None:
        self.own_calls.append(
            {"agent": agent.spec["name"], "tool": tool, "arguments": arguments, "text": text, "is_error": is_error}
        )


def _server_of(agent: ManagedAgent, tool: str) -> Json | None:
    """The MCP server of an agent that offers a tool: those come before the tools of whoever asks."""
    servers = agent.spec.get("mcp_servers", ())
    return next((server for server in servers if tool in server.get("allowed_tools", ())), None)


def _key(messages: Any) -> str:
    return hashlib.sha256(json.dumps(list(messages), sort_keys=True).encode()).hexdigest()
