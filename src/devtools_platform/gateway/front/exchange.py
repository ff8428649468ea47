"""One POST of an MCP client and its answer: plain JSON, or a stream as soon as something has to be said before it."""

import asyncio
import itertools
from collections import deque
from collections.abc import Awaitable, Callable, MutableMapping
from functools import partial
from typing import Any

from msgspec import Raw
from starlette.types import Receive, Send

from devtools_platform.gateway.mcp.exchange import Client
from devtools_platform.gateway.mcp.messages import (
    METHOD_NOT_FOUND,
    UNAVAILABLE,
    Id,
    Params,
    RpcError,
    notification_bytes,
    request_bytes,
)
from devtools_platform.kit.overdue import Overdue

WATCH_AFTER_S = 0.1
"""A call that takes longer, up to twice, is watched for its client hanging up; a quick one is not worth the task."""
PING_EVERY_S = 15.0
"""A silent stream is closed by proxies."""
MAX_BACKLOG_BYTES = 8_000_000
MAX_ASKING = 64
_ids = itertools.count(1)
"""Of questions to clients; one row for all, no two of which may be mistaken for each other."""
STREAM_HEADERS = [
    (b"content-type", b"text/event-stream"),
    (b"cache-control", b"no-cache, no-transform"),
    (b"x-accel-buffering", b"no"),
]


def frame(message: bytes) -> bytes:
    """A message as one server-sent event."""
    return b"event: message\r\ndata: " + message.replace(b"\n", b" ").replace(b"\r", b" ") + b"\r\n\r\n"


class HttpExchange:
    """The way back to the client of one request."""

    def __init__(
        self,
        client: Client,
        receive: Receive,
        send: Send,
        overdue: Overdue,
        pending: MutableMapping[str, "asyncio.Future[Raw]"] | None = None,
        headers: list[tuple[bytes, bytes]] | None = None,
    ) -> None:
        self.client = client
        self.is_gone = False
        self._receive = receive
        self._send = send
        self._overdue = overdue
        self._pending = pending
        """Where the client's answers arrive; None for a client that is never asked."""
        self._headers = headers or []
        self._size = 0
        self._pump: asyncio.Task[None] | None = None
        self._is_closing = False
        self._watch: asyncio.Task[None] | None = None
        self._ping: asyncio.TimerHandle | None = None
        # The rest is a stream's, made with it: nearly every answer is plain.
        self._backlog: deque[bytes]
        self._wake: asyncio.Event

    async def serve(self, work: Awaitable[bytes], status_of: Callable[[bytes], int] | None = None) -> None:
        """Do the work and send its message. A client that hangs up ends the work."""
        task = asyncio.current_task(self._overdue.loop)
        assert task is not None  # noqa: S101 - we are in one
        self._overdue.hold(self, partial(self._begin_watch, task))
        try:
            message = await work
        except asyncio.CancelledError:
            if not self.is_gone:
                raise
            task.uncancel()
            return
        finally:
            self._overdue.release(self)
            if self._ping is not None:
                self._ping.cancel()
            if self._watch is not None:
                self._watch.cancel()
        if self._pump is None:
            await self._plain(message, status_of(message) if status_of else 200)
            return
        self._push(frame(message))
        await self.close()

    async def _plain(self, message: bytes, status: int) -> None:
        headers = [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(message)), *self._headers]
        await self._send({"type": "http.response.start", "status": status, "headers": headers})
        await self._send({"type": "http.response.body", "body": message})

    async def close(self) -> None:
        """End the stream after what is still to be sent."""
        self._is_closing = True
        if self._pump is not None:
            self._wake.set()
            await self._pump

    def notify(self, method: str, params: Params) -> None:
        if self._size < MAX_BACKLOG_BYTES and not self.is_gone:
            self._push(frame(notification_bytes(method, params)))

    async def ask(self, method: str, params: Params) -> Raw:
        if self._pending is None:
            raise RpcError(METHOD_NOT_FOUND, f"A stateless client is not asked {method!r} in the middle of a call.")
        if len(self._pending) >= MAX_ASKING:
            raise RpcError(UNAVAILABLE, "The client has too many questions open.")
        id_ = f"gateway-{id(self)}-{next(_ids)}"
        future: asyncio.Future[Raw] = asyncio.get_running_loop().create_future()
        self._pending[id_] = future
        try:
            self._push(frame(request_bytes(id_, method, params)))
            return await future
        finally:
            self._pending.pop(id_, None)

    def open_stream(self) -> None:
        """Begin the stream now, whatever comes."""
        if self._pump is None:
            self._backlog, self._wake = deque(), asyncio.Event()
            self._pump = asyncio.create_task(self._drain())

    def _push(self, data: bytes) -> None:
        self.open_stream()
        self._backlog.append(data)
        self._size += len(data)
        self._wake.set()

    async def _drain(self) -> None:
        await self._send({"type": "http.response.start", "status": 200, "headers": [*STREAM_HEADERS, *self._headers]})
        while self._backlog or not self._is_closing:
            while self._backlog:
                data = self._backlog.popleft()
                self._size -= len(data)
                await self._send({"type": "http.response.body", "body": data, "more_body": True})
            if not self._is_closing:
                self._wake.clear()
                await self._wake.wait()
        await self._send({"type": "http.response.body", "body": b""})

    def _keep_alive(self) -> None:
        self._push(b": ping\r\n\r\n")
        self._ping = asyncio.get_running_loop().call_later(PING_EVERY_S, self._keep_alive)

    def _begin_watch(self, task: "asyncio.Task[Any]") -> None:
        self._watch = asyncio.create_task(self._watching(task))
        self._ping = asyncio.get_running_loop().call_later(PING_EVERY_S, self._keep_alive)

    async def _watching(self, task: "asyncio.Task[Any]") -> None:
        while (await self._receive())["type"] != "http.disconnect":
            pass
        self.is_gone = True
        self._is_closing = True
        if self._pump is not None:
            self._wake.set()
        task.cancel()


def id_or_none(value: object) -> Id | None:
    """The id to answer to; None for a message whose id is none."""
    return value if isinstance(value, int | str) and not isinstance(value, bool) else None
