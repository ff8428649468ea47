"""Several ASGI apps in one event loop, each on a socket that was bound before anything else started."""

import asyncio
import contextlib
import socket
from collections.abc import Callable, Coroutine, Generator
from dataclasses import dataclass, field
from typing import Any, Literal, TypeVar, cast

import uvicorn
from starlette.types import ASGIApp
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from devtools_platform.core.errors import PortInUse, ProgramFailed

START_TIMEOUT_S = 15.0
JOINED_BYTES = 64 * 1024
TICK_S = 1.0
"""The date in an answer's head is that of the last tick, as uvicorn has it."""
Moment = Literal["held", "now", "soon"]
"""When a write leaves: with the next one or `flush`, at once, or with all of this turn of the event loop."""
T = TypeVar("T")


def run(main: Coroutine[Any, Any, T]) -> T:
    """`asyncio.run` on the loop uvicorn would choose: uvloop where there is one, for half the CPU a request."""
    with asyncio.Runner(loop_factory=uvicorn.Config("", loop="auto", log_config=None).get_loop_factory()) as runner:
        return runner.run(main)


def bind(host: str, port: int, setting: str) -> socket.socket:
    """A listening socket. Raises `PortInUse` naming the setting that moves it; port 0 takes any free one."""
    sock = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        sock.bind((host, port))
    except OSError as error:
        sock.close()
        raise PortInUse(
            f"Port {port} on {host} cannot be used: {error.strerror}.",
            hint=f"Free it, or set {setting} to another port (0 takes any free one).",
        ) from None
    sock.listen(128)
    sock.setblocking(False)
    return sock


class JoinedWrites:
    """A transport on which what is written at once leaves at once.

    uvicorn writes an answer's head and its body one after the other, and uvloop sends each by itself: a system call,
    and a packet, more than the answer needs. `moment` says of each write when it leaves.
    """

    def __init__(
        self, transport: asyncio.Transport, loop: asyncio.AbstractEventLoop, moment: Callable[[], Moment]
    ) -> None:
        self._transport = transport
        self._loop = loop
        self._moment = moment
        self._held: list[bytes] = []
        self._size = 0
        self._is_due = False

    def __getattr__(self, name: str) -> Any:
        return getattr(self._transport, name)

    def write(self, data: bytes) -> None:
        moment = self._moment()
        self._held.append(data)
        self._size += len(data)
        if moment == "now" or self._size > JOINED_BYTES:  # or who writes without a pause is never told to wait
            self.flush()
        elif moment == "soon" and not self._is_due:
            self._is_due = True
            self._loop.call_soon(self.flush)

    def is_closing(self) -> bool:
        return self._transport.is_closing()

    def close(self) -> None:
        self.flush()
        self._transport.close()

    def flush(self) -> None:
        """Send what is held."""
        self._is_due = False
        if self._held:
            data, self._held, self._size = b"".join(self._held), [], 0
            self._transport.write(data)


class Protocol(HttpToolsProtocol):
    """uvicorn's own, with joined writes."""

    _begun: object = None
    """The exchange whose head was written last."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        self._joined = JoinedWrites(transport, self.loop, self._moment)
        super().connection_made(cast("asyncio.Transport", self._joined))

    def on_response_complete(self) -> None:
        self._joined.flush()  # a head without a body
        super().on_response_complete()

    def _moment(self) -> Moment:
        """The head of an answer of a known length waits for its body, as ASGI wants it, and leaves with it."""
        cycle = self.cycle
        if cycle is None or cycle.chunked_encoding is not False:  # pyright: ignore[reportUnnecessaryComparison] - before the first it is
            return "soon"
        is_head, self._begun = cycle is not self._begun, cycle
        return "held" if is_head else "now"


class QuietServer(uvicorn.Server):
    """Signals belong to the stack, which stops its parts in order; uvicorn would stop each on its own.

    Between requests it does what is due once a second. uvicorn's own looks ten times a second whether it shall end:
    with five servers a quarter of what a stack's main thread did at rest.
    """

    def __init__(self, config: uvicorn.Config) -> None:
        super().__init__(config)
        self._leaving = asyncio.Event()

    def leave(self) -> None:
        """Let `serve` end."""
        self.should_exit = True
        self._leaving.set()

    async def main_loop(self) -> None:
        while not await self.on_tick(0):
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(TICK_S):
                    await self._leaving.wait()

    @contextlib.contextmanager
    def capture_signals(self) -> Generator[None]:
        yield


def http_config(app: ASGIApp) -> uvicorn.Config:
    """How every service of ours is served."""
    return uvicorn.Config(
        app,
        http=Protocol,
        ws="none",
        log_config=None,
        access_log=False,
        lifespan="on",
        timeout_graceful_shutdown=3,
        proxy_headers=False,
        server_header=False,  # who asks need not know, and it would be checked for each answer
    )


@dataclass
class Serving:
    """The HTTP servers of one stack."""

    _servers: list[tuple[QuietServer, asyncio.Task[None]]] = field(
        default_factory=list[tuple[QuietServer, asyncio.Task[None]]]
    )

    async def serve(self, app: ASGIApp, sock: socket.socket) -> None:
        """Serve `app` on `sock`; returns when it answers. Raises `ProgramFailed` when its start fails."""
        server = QuietServer(http_config(app))
        task = asyncio.create_task(server.serve(sockets=[sock]))
        self._servers.append((server, task))
        async with asyncio.timeout(START_TIMEOUT_S):
            while not server.started:
                if task.done():
                    raise ProgramFailed("A service ended while it was starting; see the log.")
                await asyncio.sleep(0.01)

    async def stop(self) -> None:
        """End all servers, the last started first."""
        for server, task in reversed(self._servers):
            server.leave()
            with contextlib.suppress(asyncio.CancelledError):
                await task
        self._servers.clear()
