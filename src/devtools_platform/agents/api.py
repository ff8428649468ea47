"""Each agent as an OpenAI-compatible endpoint: `/agents/NAME/v1/chat/completions`, streamed on request.

Served by `app` on the gateway's port. The agent calls its tools itself, as a managed one does: a client gets text,
never tool calls. A stream carries what the model writes, word by word as it comes, also what it writes before it calls
a tool; while the agent is silent the stream is kept alive.
"""

import asyncio
import contextlib
import json
import time
from collections.abc import AsyncGenerator, Mapping, Sequence
from typing import Any, Literal

from fastapi import FastAPI
from fastapi.responses import JSONResponse, StreamingResponse
from pydantic import BaseModel, ConfigDict, Field
from starlette.responses import Response

from devtools_platform.agents.a2a import add_a2a, card_paths
from devtools_platform.agents.ag_ui import add_ag_ui
from devtools_platform.agents.carriers import Carriers, ProbeResult, RunsOn
from devtools_platform.agents.chat import ChatAnswer, ChatService, Said, new_session
from devtools_platform.core.errors import BadInput, DevToolsError, UnknownAgent
from devtools_platform.kit.http import create_app

KEEP_ALIVE_S = 10.0
"""Proxies close what is silent for longer, often after 30 s."""
SESSION = "Dev-Tools-Session"
"""The header of an answer that names its session: under it its model calls stand in the cost ledger."""
MAX_MESSAGES = 500


class TextPart(BaseModel):
    type: Literal["text"]
    text: str


class ChatMessage(BaseModel):
    role: Literal["system", "developer", "user", "assistant"]
    content: str | list[TextPart]

    def said(self) -> Said:
        text = self.content if isinstance(self.content, str) else "\n".join(part.text for part in self.content)
        return Said("system" if self.role == "developer" else self.role, text)


class StreamOptions(BaseModel):
    include_usage: bool = False


class ChatRequest(BaseModel):
    """Of OpenAI's request what an agent can heed; sampling settings are its definition's and are passed over."""

    model_config = ConfigDict(extra="ignore")

    messages: list[ChatMessage] = Field(min_length=1, max_length=MAX_MESSAGES)
    model: str = ""
    """Not heeded: what the agent runs on stands in the environments file."""
    stream: bool = False
    stream_options: StreamOptions = StreamOptions()
    tools: list[dict[str, Any]] = Field(default_factory=list[dict[str, Any]])


def build_api(chats: ChatService, carriers: Carriers, *, token: str) -> FastAPI:
    """`token` opens everything but the health checks. `carriers` tell what each agent runs on."""
    names = tuple(chats.definitions)

    async def health() -> dict[str, Any]:
        return {"agents": len(names)}

    open_paths = frozenset(f"/agents/{name}/health" for name in names) | card_paths(names)
    app = create_app("agents", token=token, health=health, open_paths=open_paths)

    @app.get("/agents", tags=["agents"])
    async def list_agents() -> list[RunsOn]:
        return list((await carriers.list_runs_on()).values())

    @app.post("/agents/{name}/probe", tags=["agents"])
    async def probe(name: str) -> Sequence[ProbeResult]:
        """One question to each of its runtimes; a call may cost money."""
        _require(name, names)
        return await carriers.probe(name)

    @app.get("/agents/{name}/health", tags=["agents"])
    async def read_health(name: str) -> dict[str, Any]:
        _require(name, names)
        return {"service": "agents", "agent": name, "ok": True}

    @app.get("/agents/{name}/v1/models", tags=["agents"])
    async def list_models(name: str) -> dict[str, Any]:
        _require(name, names)
        return {"object": "list", "data": [{"id": name, "object": "model", "created": 0, "owned_by": "dev-tools"}]}

    @app.post("/agents/{name}/v1/chat/completions", tags=["agents"])
    async def complete(name: str, request: ChatRequest) -> Response:
        session = new_session()
        head = {"id": f"chatcmpl-{session.partition(':')[2]}", "created": int(time.time())}
        named = {SESSION: session}
        try:
            _require(name, names)
            if request.tools:
                raise BadInput("This agent calls its own tools and takes none from outside.", hint="Leave out `tools`.")
            said = [message.said() for message in request.messages]
            if request.stream:
                pieces = asyncio.Queue[str | None]()
                task = asyncio.ensure_future(chats.answer(name, said, session, pieces.put_nowait))
                task.add_done_callback(lambda _: pieces.put_nowait(None))
                events = _stream(task, pieces, {**head, "model": name}, has_usage=request.stream_options.include_usage)
                return StreamingResponse(events, media_type="text/event-stream", headers={**NO_BUFFER, **named})
            return JSONResponse(_completion(await chats.answer(name, said, session), head), headers=named)
        except DevToolsError as error:
            headers = named | ({"Retry-After": "2"} if error.status == 503 else {})  # noqa: PLR2004 - HTTP's own
            return JSONResponse(_error(error), error.status, headers=headers)

    add_ag_ui(app, chats.definitions, chats.answer)
    add_a2a(app, chats.definitions, chats.answer)
    _ = (list_agents, probe, read_health, list_models, complete)
    return app


NO_BUFFER = {"Cache-Control": "no-cache", "X-Accel-Buffering": "no"}


def _require(name: str, names: tuple[str, ...]) -> None:
    if name not in names:
        raise UnknownAgent(f"There is no agent {name!r}.", hint=f"The agents are: {', '.join(names)}.")


def _error(error: DevToolsError) -> dict[str, Any]:
    """As OpenAI's clients read errors, with our hint."""
    return {"error": {"message": str(error), "type": error.code, "param": None, "code": error.code, "hint": error.hint}}


def _completion(answer: ChatAnswer, head: Mapping[str, Any]) -> dict[str, Any]:
    message = {"role": "assistant", "content": answer.text, "refusal": None}
    choice = {"index": 0, "message": message, "logprobs": None, "finish_reason": "stop"}
    body = {**head, "object": "chat.completion", "model": answer.model, "choices": [choice]}
    usage = _usage(answer)
    return body if usage is None else {**body, "usage": usage}


def _usage(answer: ChatAnswer) -> dict[str, int] | None:
    if answer.input_tokens is None or answer.output_tokens is None:
        return None
    total = answer.input_tokens + answer.output_tokens
    return {
        "prompt_tokens": answer.input_tokens,
        "completion_tokens": answer.output_tokens,
        "total_tokens": total,
    }


async def _stream(
    work: asyncio.Task[ChatAnswer], pieces: asyncio.Queue[str | None], head: Mapping[str, Any], *, has_usage: bool
) -> AsyncGenerator[str]:
    """Events as OpenAI's. Ends without `[DONE]` when the agent failed; who hangs up ends the work."""
    base = {**head, "object": "chat.completion.chunk"}

    def chunk(delta: Mapping[str, str], finish: str | None = None) -> str:
        return _event({**base, "choices": [{"index": 0, "delta": delta, "finish_reason": finish}]})

    try:
        has_begun = False
        while True:
            try:
                piece = await asyncio.wait_for(pieces.get(), KEEP_ALIVE_S)
            except TimeoutError:
                yield ": still working\n\n"
                continue
            if piece is None:
                break
            if not has_begun:
                yield chunk({"role": "assistant", "content": ""})
                has_begun = True
            if piece:
                yield chunk({"content": piece})
        try:
            answer = work.result()
        except DevToolsError as error:
            yield _event(_error(error))
            return
        yield chunk({}, "stop")
        if has_usage:
            yield _event({**base, "choices": [], "usage": _usage(answer)})
        yield "data: [DONE]\n\n"
    finally:
        work.cancel()
        with contextlib.suppress(asyncio.CancelledError, DevToolsError):
            await work


def _event(data: dict[str, Any]) -> str:
    return f"data: {json.dumps(data)}\n\n"
