"""The revisions with a handshake: sessions, a standing stream each, answers that come as requests of their own."""

import asyncio
import secrets
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

import msgspec
from msgspec import UNSET, Raw
from starlette.types import Receive, Send

from devtools_platform.core.errors import DevToolsError
from devtools_platform.gateway.front.answers import SERVER_INFO, Answers, Place, capabilities_of
from devtools_platform.gateway.front.exchange import WATCH_AFTER_S, HttpExchange, id_or_none
from devtools_platform.gateway.front.http import respond
from devtools_platform.gateway.front.listen import RESOURCE_UPDATED, TOOLS_CHANGED, follow, while_valid
from devtools_platform.gateway.mcp.exchange import Call, Client
from devtools_platform.gateway.mcp.messages import (
    INTERNAL_ERROR,
    INVALID_PARAMS,
    INVALID_REQUEST,
    LEGACY,
    LOG_LEVELS,
    MODERN,
    NOTHING,
    UNAVAILABLE,
    Id,
    Message,
    Params,
    RpcError,
    encode,
    error_bytes,
    read_error,
    read_text,
    result_bytes,
)
from devtools_platform.gateway.upstreams.upstream import Upstream
from devtools_platform.kit.overdue import Overdue

MAX_SESSIONS = 2048
MAX_SESSIONS_PER_OWNER = 64
SESSION_IDLE_S = 1800.0


@dataclass
class Session:
    """A client that made the handshake."""

    id: str
    owner: str
    server: str
    version: str
    client: Client
    used_at: float
    pending: dict[str, "asyncio.Future[Raw]"] = field(default_factory=dict[str, "asyncio.Future[Raw]"])
    running: dict[Id, "asyncio.Task[Any]"] = field(default_factory=dict[Id, "asyncio.Task[Any]"])
    stream: HttpExchange | None = None
    uris: set[str] = field(default_factory=set[str])


class LegacyDoor:
    """Keeps the sessions. Use `stop`."""

    def __init__(self, answers: Answers) -> None:
        self.answers = answers
        self.sessions: dict[str, Session] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._overdue = Overdue(WATCH_AFTER_S)
        hub = answers.hub
        hub.offer.listeners.add(self._tools_changed)
        for upstream in hub.offer.upstreams.values():
            upstream.listeners.add(lambda m, p, o, u=upstream: self._happened(u, m, p, o))

    async def serve(
        self,
        headers: Mapping[bytes, bytes],
        place: Place,
        message: Message,
        params: Params,
        meta: Params,
        receive: Receive,
        send: Send,
    ) -> None:
        method = message.method
        if method == "initialize":
            await self._initialize(place, message, params, send)
            return
        session = self._session(headers, place)
        if method is UNSET:
            self._answered(session, message)
            await respond(send, 202, b"")
            return
        if message.id is UNSET:
            if method == "notifications/cancelled" and (running := session.running.get(_id_in(params))) is not None:
                running.cancel()
            await respond(send, 202, b"")
            return
        id_ = id_or_none(message.id)
        if id_ is None:
            raise RpcError(INVALID_REQUEST, "A request's id is a string or an integer.")
        exchange = HttpExchange(session.client, receive, send, self._overdue, session.pending)
        task = asyncio.current_task()
        assert task is not None  # noqa: S101 - we are in one
        session.running[id_] = task
        try:
            await exchange.serve(self._work(session, place, id_, Call(method, params, meta), exchange))
        except asyncio.CancelledError:
            if task.cancelling() and exchange.is_gone is False and session.running.get(id_) is task:
                task.uncancel()
                cancelled = RpcError(INTERNAL_ERROR, "The call was cancelled, as its client asked.")
                await respond(send, 200, error_bytes(id_, cancelled))
                return
            raise
        finally:
            if session.running.get(id_) is task:
                del session.running[id_]

    async def _work(self, session: Session, place: Place, id_: Id, call: Call, exchange: HttpExchange) -> bytes:
        if call.method == "ping":
            return result_bytes(id_, b"{}")
        if call.method == "logging/setLevel":
            level = read_text(call.params.get("level"))
            if level not in LOG_LEVELS:
                return error_bytes(id_, RpcError(INVALID_PARAMS, f"level is one of {', '.join(LOG_LEVELS)}."))
            session.client = msgspec.structs.replace(session.client, log_level=level)
            return result_bytes(id_, b"{}")
        if call.method in {"resources/subscribe", "resources/unsubscribe"} and place.upstream is not None:
            return await self._subscribe(session, place.upstream, id_, call, exchange)
        return await self.answers.work(place, id_, call, exchange, None, is_modern=False)

    async def _subscribe(
        self, session: Session, upstream: Upstream, id_: Id, call: Call, exchange: HttpExchange
    ) -> bytes:
        uri = read_text(call.params.get("uri"))
        if uri is None:
            return error_bytes(id_, RpcError(INVALID_PARAMS, "params.uri must be a text."))
        if call.method.endswith("unsubscribe"):
            session.uris.discard(uri)
        else:
            session.uris.add(uri)
            self._spawn(follow(upstream, session.client, (uri,)))
        return result_bytes(id_, b"{}")

    async def _initialize(self, place: Place, message: Message, params: Params, send: Send) -> None:
        id_ = id_or_none(message.id)
        if id_ is None:
            raise RpcError(INVALID_REQUEST, "initialize is a request and needs an id.")
        asked = read_text(params.get("protocolVersion")) or ""
        capabilities = params.get("capabilities", NOTHING)
        if bytes(capabilities)[:1] != b"{":
            raise RpcError(INVALID_PARAMS, "params.capabilities must be an object.")
        version = asked if asked in LEGACY else LEGACY[0]
        owner = place.principal.id
        self._make_room(owner)
        name = secrets.token_urlsafe(24)
        info = params.get("clientInfo")
        client = Client(owner, Raw(bytes(capabilities)), Raw(bytes(info)) if info is not None else None, name, "debug")
        server = place.upstream.name if place.upstream else ""
        self.sessions[name] = Session(name, owner, server, version, client, time.monotonic())
        result = {
            "protocolVersion": version,
            "capabilities": capabilities_of(place.upstream, is_modern=False),
            "serverInfo": SERVER_INFO,
        }
        if place.upstream is not None and place.upstream.link is not None and place.upstream.link.facts.instructions:
            result["instructions"] = place.upstream.link.facts.instructions
        await respond(send, 200, result_bytes(id_, encode(result)), [(b"mcp-session-id", name.encode())])

    def _make_room(self, owner: str) -> None:
        now = time.monotonic()
        for session in [s for s in self.sessions.values() if now - s.used_at > SESSION_IDLE_S and s.stream is None]:
            self._end(session)
        mine = sorted((s for s in self.sessions.values() if s.owner == owner), key=lambda s: s.used_at)
        for session in mine[: max(0, len(mine) - MAX_SESSIONS_PER_OWNER + 1)]:
            self._end(session)
        if len(self.sessions) >= MAX_SESSIONS:
            raise RpcError(UNAVAILABLE, f"There are {MAX_SESSIONS} sessions already. Speak {MODERN}, which needs none.")

    def _session(self, headers: Mapping[bytes, bytes], place: Place) -> Session:
        id_ = headers.get(b"mcp-session-id", b"").decode("latin-1")
        if not id_:
            raise RpcError(
                INVALID_REQUEST, f"Begin with `initialize`, or speak {MODERN}: `_meta` and its headers are missing."
            )
        session = self.sessions.get(id_)
        server = place.upstream.name if place.upstream else ""
        if session is None or session.owner != place.principal.id or session.server != server:
            raise SessionUnknown("There is no such session; begin with `initialize`.", hint="Connect again.")
        session.used_at = time.monotonic()
        return session

    def end(self, headers: Mapping[bytes, bytes], place: Place) -> None:
        """End the session a request names. Raises `SessionUnknown`."""
        self._end(self._session(headers, place))

    def _end(self, session: Session) -> None:
        self.sessions.pop(session.id, None)
        for future in session.pending.values():
            future.cancel()
        for upstream in self.answers.hub.offer.upstreams.values():
            end = getattr(upstream.link, "end", None)
            if end is not None:
                end(session.client)

    @staticmethod
    def _answered(session: Session, message: Message) -> None:
        future = session.pending.get(message.id) if isinstance(message.id, str) else None
        if future is None or future.done():
            return
        if message.error is not UNSET:
            future.set_exception(read_error(message.error))
        elif message.result is not UNSET:
            future.set_result(Raw(bytes(message.result)))

    async def open_stream(self, headers: Mapping[bytes, bytes], place: Place, receive: Receive, send: Send) -> None:
        """The standing stream of a handshake client: what no request of its own caused."""
        if b"mcp-session-id" not in headers:
            await respond(send, 405, b"", [(b"allow", b"POST")])
            return
        session = self._session(headers, place)
        if session.stream is not None:
            raise StreamTaken("This session has its stream already.", hint="Close that one first.")
        exchange = HttpExchange(session.client, receive, send, self._overdue, session.pending)
        exchange.open_stream()
        session.stream = exchange

        async def wait() -> bytes:
            if place.upstream is not None:
                self._spawn(follow(place.upstream, session.client, ()))
            await asyncio.Event().wait()
            return b""

        try:
            await exchange.serve(while_valid(place.principal, wait()))
        finally:
            session.stream = None

    def _tools_changed(self) -> None:
        for session in self.sessions.values():
            if session.stream is not None:
                session.stream.notify(TOOLS_CHANGED, {})

    def _happened(self, upstream: Upstream, method: str, params: Params, owner: str | None) -> None:
        for session in self.sessions.values():
            if session.stream is None or session.server != upstream.name:
                continue
            if method == RESOURCE_UPDATED:
                if read_text(params.get("uri")) in session.uris and owner in {None, session.owner}:
                    session.stream.notify(method, params)
            elif method != TOOLS_CHANGED:
                session.stream.notify(method, params)

    def _spawn(self, coroutine: Any) -> None:
        task: asyncio.Task[None] = asyncio.create_task(coroutine)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def stop(self) -> None:
        for session in list(self.sessions.values()):
            self._end(session)
        for task in list(self._tasks):
            task.cancel()
            with suppress(asyncio.CancelledError):
                await task


class SessionUnknown(DevToolsError):
    """The session of a request has ended, or was never there."""

    code = "session_unknown"
    status = 404


class StreamTaken(DevToolsError):
    """A session has one standing stream."""

    code = "stream_taken"
    status = 409


def _id_in(params: Params) -> Id:
    try:
        return msgspec.json.decode(params.get("requestId", b'""'), type=int | str)
    except msgspec.MsgspecError:
        return ""
