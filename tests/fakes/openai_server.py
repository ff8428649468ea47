"""A model endpoint that speaks from a script and fails on demand: OpenAI's API, optionally posing as Ollama.

A real HTTP server on loopback, in a thread of the test or as a program of its own
(`python -m fakes.openai_server --script replies.yaml --port 0`). What a script is stands in
`agents.adapters.scripted`, what the wire looks like in `openai_wire`.
"""

import argparse
import asyncio
import json
import signal
import socket
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from typing import Any, Literal, Self

import uvicorn
from pydantic import BaseModel, ConfigDict, TypeAdapter
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route
from starlette.types import Receive, Scope, Send

from devtools_platform.agents.adapters.scripted import Script
from devtools_platform.core.errors import DevToolsError
from fakes import openai_wire as wire

CHAT = "/v1/chat/completions"
MODELS = "/v1/models"
VERSION = "/api/version"
SECRET_HEADERS = frozenset({"authorization", "api-key", "x-api-key", "cookie"})

FaultKind = Literal[
    "status",  # answer with `status` in the API's error shape
    "hang",  # say nothing for `seconds`, or until one side goes; then answer as if nothing were
    "slow",  # pause `seconds` before every event of a stream
    "cut",  # close the connection in the middle of the body or the stream
    "invalid_json",
    "empty_choices",
    "bad_arguments",  # a tool call whose arguments are not JSON
    "unknown_tool",
]

_CODES = {
    401: ("invalid_request_error", "invalid_api_key"),
    404: ("invalid_request_error", "model_not_found"),
    429: ("requests", "rate_limit_exceeded"),
    500: ("server_error", None),
    503: ("server_error", "service_unavailable"),
}


class Fault(BaseModel):
    """One way to fail. For each request, the first fault that fits and is not used up acts."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    kind: FaultKind
    path: str = CHAT
    at: int | None = None
    """Only the n-th request to `path`, counted from 1."""
    agent: str | None = None
    """Only requests of this agent."""
    times: int | None = 1
    """How often it acts; None is always."""
    status: int = 500
    code: str | None = None
    retry_after: str | None = None
    """The Retry-After header, in seconds or as a date."""
    seconds: float | None = None


@dataclass(frozen=True)
class Recorded:
    """One request as it came in, without its secrets."""

    number: int
    """Of the requests to its path, from 1."""
    method: str
    path: str
    headers: dict[str, str]
    body: Any
    agent: str | None
    turn: int | None
    fault: FaultKind | None


class _Cut(Exception):
    """Makes uvicorn close the connection without ending the response."""


class CutResponse(Response):
    """Promises `body` and closes the connection after half of it."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
        half = bytes(self.body)[: len(self.body) // 2]
        await send({"type": "http.response.body", "body": half, "more_body": True})
        raise _Cut


class EventsResponse(Response):
    """Server-sent events, one write each. Closes the connection half way when `is_cut`."""

    def __init__(self, events: Sequence[bytes], *, is_cut: bool, pause_s: float) -> None:
        super().__init__(media_type="text/event-stream", headers={"Cache-Control": "no-cache"})
        del self.headers["content-length"]
        self.events = events[: len(events) // 2] if is_cut else events
        self.is_cut = is_cut
        self.pause_s = pause_s

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": self.raw_headers})
        for event in self.events:
            await asyncio.sleep(self.pause_s)
            await send({"type": "http.response.body", "body": event, "more_body": True})
        if self.is_cut:
            raise _Cut
        await send({"type": "http.response.body", "body": b""})


@dataclass
class _Armed:
    fault: Fault
    left: int | None

    def fits(self, path: str, number: int, agent: str | None) -> bool:
        return (
            self.left != 0
            and self.fault.path == path
            and self.fault.at in {None, number}
            and self.fault.agent in {None, agent}
        )


@dataclass
class FakeOpenAI:
    """The server. A context manager; `base_url` is valid inside."""

    script: Script = field(default_factory=lambda: Script([]))
    api_key: str | None = "test-key"
    """None lets everybody in."""
    models: Sequence[str] = ("fake-model",)
    faults: Sequence[Fault] = ()
    ollama_version: str | None = None
    """Also answers Ollama's `/api/version`."""
    port: int = 0
    requests: list[Recorded] = field(default_factory=list[Recorded], init=False)
    hung_up: int = field(default=0, init=False)
    """How many callers went while they were left waiting (`hang`)."""

    def __post_init__(self) -> None:
        self.reset()
        self._ids = count(1)
        self._ready = threading.Event()

    def reset(self) -> None:
        """As freshly started: nothing recorded, no fault but the first ones."""
        self.requests.clear()
        self._armed = [_Armed(fault, fault.times) for fault in self.faults]

    def inject(self, fault: Fault) -> None:
        self._armed.append(_Armed(fault, fault.times))

    @property
    def chats(self) -> list[Recorded]:
        return [request for request in self.requests if request.path == CHAT]

    @property
    def origin(self) -> str:
        return f"http://127.0.0.1:{self._socket.getsockname()[1]}"

    @property
    def base_url(self) -> str:
        return f"{self.origin}/v1"

    def __enter__(self) -> Self:
        self._socket = socket.socket()
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self._socket.bind(("127.0.0.1", self.port))
        self._socket.listen()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._serve()), name="fake-openai")
        self._thread.start()
        if not self._ready.wait(10):
            raise RuntimeError("The fake endpoint did not start within 10 s.")
        return self

    def __exit__(self, *_: object) -> None:
        self._loop.call_soon_threadsafe(self._stopping.set)
        self._server.should_exit = True
        self._thread.join(10)
        self._socket.close()

    async def _serve(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._stopping = asyncio.Event()
        config = uvicorn.Config(
            self._app(), log_level="critical", access_log=False, lifespan="off", timeout_graceful_shutdown=1
        )
        self._server = uvicorn.Server(config)
        self._ready.set()
        await self._server.serve(sockets=[self._socket])

    def _app(self) -> Starlette:
        return Starlette(
            routes=[
                Route(MODELS, self._answer, methods=["GET"]),
                Route(CHAT, self._answer, methods=["POST"]),
                Route(VERSION, self._answer, methods=["GET"]),
                Route("/fake/requests", self._show_requests, methods=["GET"]),
                Route("/fake/faults", self._add_fault, methods=["POST"]),
            ]
        )

    async def _answer(self, request: Request) -> Response:
        """Everything that is not about the fake itself: record, fail if told to, else answer."""
        body, chat, fault = await request.body(), None, None
        number = sum(recorded.path == request.url.path for recorded in self.requests) + 1
        try:
            chat = wire.ChatRequest.parse(_read_json(body)) if request.url.path == CHAT else None
            fault = self._next_fault(request.url.path, number, chat.agent if chat else None)
        except wire.WireError as error:
            return JSONResponse(error.body, error.status)
        finally:
            self._record(request, number, body, chat, fault)
        return await self._act(request, chat, fault)

    async def _act(self, request: Request, chat: wire.ChatRequest | None, fault: Fault | None) -> Response:
        try:
            if fault is not None and fault.kind == "hang":
                await self._hang(request, fault.seconds)
            if fault is not None and fault.kind == "status":
                return _status_fault(fault)
            return self._respond(request, chat, fault)
        except wire.WireError as error:
            return JSONResponse(error.body, error.status)

    def _next_fault(self, path: str, number: int, agent: str | None) -> Fault | None:
        armed = next((armed for armed in self._armed if armed.fits(path, number, agent)), None)
        if armed is None:
            return None
        if armed.left is not None:
            armed.left -= 1
        return armed.fault

    def _record(
        self, request: Request, number: int, body: bytes, chat: wire.ChatRequest | None, fault: Fault | None
    ) -> None:
        self.requests.append(
            Recorded(
                number,
                request.method,
                request.url.path,
                {key: value for key, value in request.headers.items() if key not in SECRET_HEADERS},
                _as_sent(body),
                agent=chat.agent if chat else None,
                turn=chat.turn if chat else None,
                fault=fault.kind if fault else None,
            )
        )

    def _respond(self, request: Request, chat: wire.ChatRequest | None, fault: Fault | None) -> Response:
        if request.url.path == VERSION:
            body = {"version": self.ollama_version} if self.ollama_version else {"error": "not found"}
            return JSONResponse(body, 200 if self.ollama_version else 404)
        self._check_key(request)
        if chat is None:
            return _send(wire.model_list(self.models, created=int(time.time())), fault)
        if chat.model not in self.models:
            message = f"The model `{chat.model}` does not exist or you do not have access to it."
            raise wire.WireError(404, message, type_="invalid_request_error", code="model_not_found")
        return self._complete(chat, fault)

    def _check_key(self, request: Request) -> None:
        if self.api_key is None or request.headers.get("authorization") == f"Bearer {self.api_key}":
            return
        given = request.headers.get("authorization", "").removeprefix("Bearer ")
        message = f"Incorrect API key provided: {given}." if given else "You didn't provide an API key."
        raise wire.WireError(401, message, type_="invalid_request_error", code="invalid_api_key")

    def _complete(self, chat: wire.ChatRequest, fault: Fault | None) -> Response:
        number = next(self._ids)
        try:
            scripted = self.script.reply(chat.agent, chat.first_prompt, chat.turn)
        except DevToolsError as error:
            raise wire.bad_request(str(error), code="script_used_up") from error
        reply = wire.to_wire(scripted, chat, id_=f"call_{number}")
        kind = fault.kind if fault else None
        if kind == "bad_arguments":
            reply = wire.with_bad_arguments(reply, chat, id_=str(number))
        elif kind == "unknown_tool":
            reply = wire.with_unknown_tool(reply, id_=str(number))
        id_, created = f"chatcmpl-fake{number}", int(time.time())
        if chat.is_stream:
            events = list(_events(wire.chunks(chat, reply, id_=id_, created=created), kind))
            pause_s = fault.seconds or 0.0 if fault and fault.kind == "slow" else 0.0
            return EventsResponse(events, is_cut=kind == "cut", pause_s=pause_s)
        body = wire.completion(chat, reply, id_=id_, created=created)
        return _send({**body, "choices": []} if kind == "empty_choices" else body, fault)

    async def _hang(self, request: Request, seconds: float | None) -> None:
        gone, stopping = (asyncio.ensure_future(wait) for wait in (_gone(request), self._stopping.wait()))
        try:
            await asyncio.wait({gone, stopping}, timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
            self.hung_up += gone.done()
        finally:
            gone.cancel()
            stopping.cancel()

    async def _show_requests(self, _: Request) -> Response:
        return Response(TypeAdapter(list[Recorded]).dump_json(self.requests), media_type="application/json")

    async def _add_fault(self, request: Request) -> Response:
        self.inject(Fault.model_validate_json(await request.body()))
        return Response(status_code=204)


def _as_sent(body: bytes) -> Any:
    try:
        return json.loads(body) if body else None
    except ValueError:
        return body.decode(errors="replace")


def _read_json(body: bytes) -> Any:
    try:
        return json.loads(body)
    except ValueError:
        raise wire.bad_request("We could not parse the JSON body of your request.") from None


async def _gone(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass


def _status_fault(fault: Fault) -> Response:
    type_, code = _CODES.get(fault.status, ("invalid_request_error", None))
    message = f"The fake was told to answer {fault.status}."
    body = {"error": {"message": message, "type": type_, "param": None, "code": fault.code or code}}
    headers = {"Retry-After": fault.retry_after} if fault.retry_after else None
    return JSONResponse(body, fault.status, headers=headers)


def _send(body: wire.Json, fault: Fault | None) -> Response:
    if fault is not None and fault.kind == "cut":
        return CutResponse(json.dumps(body), media_type="application/json")
    if fault is not None and fault.kind == "invalid_json":
        return Response(json.dumps(body)[:-2], media_type="application/json")
    return JSONResponse(body)


def _events(chunks: Iterator[wire.Json], kind: FaultKind | None) -> Iterator[bytes]:
    for chunk in chunks:
        yield wire.event({**chunk, "choices": []} if kind == "empty_choices" else chunk)
        if kind == "invalid_json":
            yield wire.event(json.dumps(chunk)[:-2])
    yield wire.event("[DONE]")


def main() -> None:
    parser = argparse.ArgumentParser(description="A scripted, OpenAI-compatible model endpoint on loopback.")
    parser.add_argument("--script", type=Path, required=True)
    parser.add_argument("--port", type=int, default=0)
    parser.add_argument("--key", default="test-key", help="the key to ask for; empty for none")
    parser.add_argument("--model", action="append", help="a model to list and serve (default: fake-model)")
    parser.add_argument("--fault", action="append", default=[], help="a fault as JSON, see Fault")
    given = parser.parse_args()
    # Blocked before the server's thread starts, so that the signal waits for us here.
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT, signal.SIGTERM})
    fake = FakeOpenAI(
        Script.load(given.script),
        api_key=given.key or None,
        models=given.model or ["fake-model"],
        faults=[Fault.model_validate_json(text) for text in given.fault],
        port=given.port,
    )
    with fake:
        sys.stdout.write(f"{fake.base_url}\n")
        sys.stdout.flush()
        signal.sigwait({signal.SIGINT, signal.SIGTERM})


if __name__ == "__main__":
    main()
