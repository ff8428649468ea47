"""What the fakes of outside services share: a server in a thread, recorded requests, faults, contract breaches.

A breach of the official description, by us or by the fake, is answered with 500 and kept in `breaches`: a test
that ends with an empty list has sent and received only what the service itself would.
"""

import asyncio
import json
import re
import socket
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, Self

import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route
from starlette.types import Receive, Scope, Send

CONTRACTS = Path(__file__).parents[3] / "shared" / "contracts"
ABSENT = "the official contracts (../shared/contracts) are absent"
METHODS = ["GET", "POST", "PATCH", "PUT", "DELETE"]

FaultKind = Literal[
    "status",  # answer with `status` and `headers` instead of doing it
    "lost",  # do it, then close the connection without an answer
    "hang",  # say nothing until the caller gives up; nothing is done
]


@dataclass
class Fault:
    """One way to fail. The first one that fits and is not used up acts."""

    kind: FaultKind
    path: str = ""
    """A regular expression, searched in the path (for GraphQL: in the operation's name)."""
    method: str = "POST"
    times: int = 1
    status: int = 500
    headers: dict[str, str] = field(default_factory=dict)
    body: Any = None


@dataclass(frozen=True)
class Recorded:
    method: str
    path: str
    body: Any
    at: float


class _Cut(Exception):
    """Makes uvicorn close the connection without a response."""


class Lost(Response):
    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        raise _Cut


class FakeService:
    """A context manager; `url` is valid inside."""

    def __init__(self, port: int = 0) -> None:
        self.requests: list[Recorded] = []
        self.breaches: list[str] = []
        self.faults: list[Fault] = []
        self._lock = threading.RLock()
        self._socket = socket.socket()
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self._socket.bind(("127.0.0.1", port))
        self._socket.listen(128)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._socket.getsockname()[1]}"

    def inject(self, fault: Fault) -> None:
        self.faults.append(fault)

    def take_fault(self, method: str, path: str) -> Fault | None:
        for fault in self.faults:
            if fault.times > 0 and fault.method == method and re.search(fault.path, path):
                fault.times -= 1
                return fault
        return None

    async def serve(self, request: Request, name: str, act: Callable[[], Response]) -> Response:
        """Record, fail if told to, else `act`."""
        fault = self.take_fault(request.method, name)
        if fault is not None and fault.kind == "status":
            return JSONResponse(fault.body or {"message": "told to"}, fault.status, headers=fault.headers)
        if fault is not None and fault.kind == "hang":
            while (await request.receive())["type"] != "http.disconnect":
                pass
            return Response()
        with self._lock:
            response = act()
        return Lost() if fault is not None else response

    def routes(self) -> list[Route]:
        raise NotImplementedError

    def __enter__(self) -> Self:
        config = uvicorn.Config(Starlette(routes=self.routes()), log_config=None, lifespan="off",
                                timeout_graceful_shutdown=1)  # fmt: skip
        self._server = uvicorn.Server(config)
        self._server.capture_signals = _no_signals  # type: ignore[method-assign]
        self._thread = threading.Thread(target=lambda: asyncio.run(self._server.serve(sockets=[self._socket])))
        self._thread.start()
        deadline = time.monotonic() + 15
        while not self._server.started:
            assert time.monotonic() < deadline
            time.sleep(0.005)
        return self

    def __exit__(self, *_: object) -> None:
        self._server.should_exit = True
        self._thread.join(timeout=15)
        self._socket.close()

    async def note(self, request: Request, body: bytes) -> Any:
        try:
            data = json.loads(body) if body else None
        except ValueError:
            data = body.decode(errors="replace")
        self.requests.append(Recorded(request.method, request.url.path, data, time.monotonic()))
        return data


class _no_signals:  # noqa: N801 - stands for a context manager function
    def __enter__(self) -> None:
        return

    def __exit__(self, *_: object) -> None:
        return
