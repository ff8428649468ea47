"""DigitalOcean as far as we use it: its API, serverless inference and the endpoints of managed agents, on one port.

Stateful: what is created can be read, changed, rolled back and deleted. Every exchange is judged by the official
description where that is at hand (`contract.violations` must stay empty). It can fail (`inject`), and a managed agent
of it really calls the MCP servers it was given, with the authorization it was given.
"""

import asyncio
import json
import socket
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import Any, Literal, Self

import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route
from starlette.types import Receive, Scope, Send

from devtools_platform.agents.adapters.scripted import Script
from fakes.contracts import DIGITALOCEAN, Contract, load_contract
from fakes.digitalocean_agent import ManagedChat
from fakes.digitalocean_resources import Json, Refusal, Resources, error_body

API = "https://api.digitalocean.com"
INFERENCE = "https://inference.do-ai.run"
AGENT_HOST = "https://fake.agents.do-ai.run"
METHODS = ["GET", "POST", "PUT", "DELETE"]

FaultKind = Literal[
    "status",  # answer with `status`
    "hang",  # say nothing until one side goes
    "cut",  # close the connection in the middle of the body or the stream
    "garbage",  # a body that is no JSON
    "bad_arguments",  # chat: a tool call whose arguments are not JSON
    "unknown_tool",  # chat: a call of a tool nobody offered
]


@dataclass
class Fault:
    """One way to fail: the first that fits a request and is not used up acts."""

    kind: FaultKind
    path: str = "/"
    """Requests whose path begins so."""
    method: str | None = None
    times: int | None = 1
    """How often; None is always."""
    status: int = 500
    retry_after: str | None = None
    agent: str | None = None
    """Only the endpoint of this managed agent (its name)."""


class _Cut(Exception):
    """Makes uvicorn close the connection without ending the response."""


class CutResponse(Response):
    """Promises its body and closes the connection after half of it."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
        half = bytes(self.body)[: len(self.body) // 2]
        await send({"type": "http.response.body", "body": half, "more_body": True})
        raise _Cut


@dataclass(frozen=True)
class Recorded:
    method: str
    path: str
    query: str
    body: Any
    status: int
    token: str


@dataclass
class FakeDigitalOcean:
    """The server. A context manager; `url` is valid inside.

    `script` is what models say, those of managed agents and of serverless inference alike.
    """

    script: Script = field(default_factory=lambda: Script([]))
    token: str = "dop_v1_" + "0" * 64
    inference_key: str = "sk-do-0123456789abcdef"
    deploys_after: int = 1
    """How often an agent is looked at before it is running."""
    finishes_after: int = 2
    """How often an action is looked at before it has ended."""
    per_hour: int = 5000
    contract: Contract | None = field(default_factory=lambda: load_contract(DIGITALOCEAN))
    requests: list[Recorded] = field(default_factory=list[Recorded], init=False)

    def __post_init__(self) -> None:
        self._faults: list[Fault] = []
        self._ready = threading.Event()
        self.resources = Resources(self)
        self.chat = ManagedChat(self)

    # -- what a test does ----------------------------------------------------------------------------------------------

    def inject(self, fault: Fault) -> None:
        self._faults.append(fault)

    def forget_faults(self) -> None:
        self._faults.clear()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._socket.getsockname()[1]}"

    @property
    def inference_url(self) -> str:
        return f"{self.url}/v1"

    def sent(self, method: str, path: str) -> list[Recorded]:
        return [one for one in self.requests if one.method == method and one.path.startswith(path)]

    def check(self) -> None:
        """Nothing that was sent or answered may be against the official description."""
        assert self.contract is None or self.contract.violations == [], "\n".join(self.contract.violations)

    # -- the server ----------------------------------------------------------------------------------------------------

    def __enter__(self) -> Self:
        self._socket = socket.socket()
        self._socket.bind(("127.0.0.1", 0))
        self._socket.listen()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._serve()), name="fake-digitalocean")
        self._thread.start()
        if not self._ready.wait(10):
            raise RuntimeError("The fake DigitalOcean did not start within 10 s.")
        return self

    def __exit__(self, *_: object) -> None:
        self._loop.call_soon_threadsafe(self._stopping.set)
        self._server.should_exit = True
        self._thread.join(10)
        self._socket.close()

    async def _serve(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._stopping = asyncio.Event()
        app = Starlette(routes=[Route("/{path:path}", self._answer, methods=METHODS)])
        config = uvicorn.Config(
            app, log_level="critical", access_log=False, lifespan="off", timeout_graceful_shutdown=1
        )
        self._server = uvicorn.Server(config)
        self._ready.set()
        await self._server.serve(sockets=[self._socket])

    async def _answer(self, request: Request) -> Response:
        body = await request.body()
        fault = self._next_fault(request)
        if fault is not None and fault.kind == "hang":
            await self._hang(request)
        response = await self._respond(request, body, fault)
        self._record(request, body, response)
        if fault is None or fault.kind in {"bad_arguments", "unknown_tool"}:
            self._judge(request, body, response)
        content_type = response.headers.get("content-type")
        if fault is not None and fault.kind == "cut":
            return CutResponse(response.body, response.status_code, {"content-type": content_type or "text/plain"})
        if fault is not None and fault.kind == "garbage":
            return Response(b"<html>oops", 200, media_type="text/html")
        return response

    async def _respond(self, request: Request, body: bytes, fault: Fault | None) -> Response:
        if fault is not None and fault.kind == "status":
            return self._failed(fault)
        try:
            if request.url.path.startswith("/managed/"):
                return await self.chat.answer_managed(request, _json(body), fault.kind if fault else None)
            if request.url.path.startswith("/v1/"):
                return await self.chat.answer_inference(request, _json(body), fault.kind if fault else None)
            self._check_token(request)
            status, answer = self.resources.answer(request, _json(body))
        except Refusal as refusal:
            return JSONResponse(refusal.body, refusal.status, headers=self._limits())
        if status == HTTPStatus.NO_CONTENT:
            return Response(status_code=status, headers=self._limits())
        return JSONResponse(answer, status, headers=self._limits())

    def _failed(self, fault: Fault) -> Response:
        headers = self._limits(0 if fault.status == HTTPStatus.TOO_MANY_REQUESTS else None)
        if fault.retry_after is not None:
            headers["Retry-After"] = fault.retry_after
        names = {401: "unauthorized", 403: "forbidden", 404: "not_found", 429: "too_many_requests"}
        body = error_body(names.get(fault.status, "server_error"), f"The fake was told to answer {fault.status}.")
        return JSONResponse(body, fault.status, headers=headers)

    def _check_token(self, request: Request) -> None:
        given = request.headers.get("authorization", "")
        if given != f"Bearer {self.token}":
            # The real one does not repeat it; a proxy might.
            raise Refusal(401, "unauthorized", f"Unable to authenticate you with {given!r}")

    def _limits(self, remaining: int | None = None) -> dict[str, str]:
        left = self.per_hour - len(self.requests) if remaining is None else remaining
        return {
            "ratelimit-limit": str(self.per_hour),
            "ratelimit-remaining": str(max(0, left)),
            "ratelimit-reset": str(int(time.time()) + 3600),
        }

    def _next_fault(self, request: Request) -> Fault | None:
        for fault in self._faults:
            if fault.times == 0 or not request.url.path.startswith(fault.path):
                continue
            if fault.method not in {None, request.method}:
                continue
            if fault.agent is not None and self.chat.name_at(request.url.path) != fault.agent:
                continue
            if fault.times is not None:
                fault.times -= 1
            return fault
        return None

    async def _hang(self, request: Request) -> None:
        waits = {asyncio.ensure_future(wait) for wait in (_gone(request), self._stopping.wait())}
        try:
            await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for wait in waits:
                wait.cancel()

    def _record(self, request: Request, body: bytes, response: Response) -> None:
        token = request.headers.get("authorization", "").removeprefix("Bearer ")
        self.requests.append(
            Recorded(request.method, request.url.path, request.url.query, _json(body), response.status_code, token)
        )

    def _judge(self, request: Request, body: bytes, response: Response) -> None:
        if self.contract is None:
            return
        host, path = self._official(request.scope["raw_path"].decode())
        if response.headers.get("content-type", "").startswith("text/event-stream"):
            return  # judged event by event where they are made
        headers = {**dict(request.headers), "authorization": request.headers.get("authorization", "Bearer none")}
        self.contract.check(
            host,
            request.method,
            path,
            query=request.url.query,
            headers=headers,
            body=body,
            status=response.status_code,
            response_headers=dict(response.headers),
            response=bytes(response.body),
        )

    def _official(self, path: str) -> tuple[str, str]:
        if path.startswith("/managed/"):
            return AGENT_HOST, "/" + path.split("/", 3)[3]
        return (INFERENCE if path.startswith("/v1/") else API), path


def _json(body: bytes) -> Any:
    try:
        return json.loads(body) if body else None
    except ValueError:
        return body.decode(errors="replace")


async def _gone(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass


__all__: Sequence[str] = ("FakeDigitalOcean", "Fault", "Json", "Recorded")
