"""An MCP server over streamable HTTP: stateless where it can be, with sessions where it must.

A session belongs to one client of ours. Sharing one would hand the answers, subscriptions and log levels of one
caller to another.
"""

import asyncio
import itertools
import logging
import time
from collections import OrderedDict
from collections.abc import AsyncGenerator, Awaitable, Callable, Coroutine, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial

from msgspec import UNSET, Raw

from devtools_platform.core.errors import DevToolsError
from devtools_platform.gateway.mcp.exchange import Call, Client, Exchange, Silent
from devtools_platform.gateway.mcp.headers import ParamHeader, encode_value, headers_for
from devtools_platform.gateway.mcp.messages import (
    INPUT_METHODS,
    INTERNAL_ERROR,
    LEGACY,
    MODERN,
    NAME_OF,
    Message,
    Params,
    RpcError,
    decode,
    error_bytes,
    notification_bytes,
    raw,
    read_error,
    read_message,
    read_params,
    read_text,
    request_bytes,
    result_bytes,
)
from devtools_platform.gateway.upstreams.http_client import HttpClient, HttpError, NotConnected, Reply, TooLarge
from devtools_platform.gateway.upstreams.link import (
    LIST_CHANGED,
    RESOURCE_UPDATED,
    Event,
    LinkDown,
    ServerFacts,
    answer,
    facts_from_discover,
    facts_from_initialize,
    legacy_params,
    modern_params,
    pass_on,
)

log = logging.getLogger(__name__)

MAX_SESSIONS = 256
MAX_HEADS = 4096
SESSION_IDLE_S = 600.0
ACCEPT = {"content-type": "application/json", "accept": "application/json, text/event-stream"}
HTTP_NOT_FOUND = 404
REFUSED = frozenset({401, 403})


class Headers:
    """What every request carries beyond the protocol's own headers; a credential may be renewed meanwhile."""

    def __init__(self, fixed: Mapping[str, str]) -> None:
        self.values: Mapping[str, str] = dict(fixed)
        """Replaced as a whole when any of them changes."""

    async def renewed(self, reply: Reply, used: Mapping[str, str]) -> bool:
        """After a 401 or 403 to a request with the values `used`: whether others are there to try it once more."""
        return False

    async def close(self) -> None:
        """Nothing to let go of."""


@dataclass
class ModernHttp:
    """The stateless revision. One POST a call; hanging up cancels it."""

    client: HttpClient
    headers: Headers
    facts: ServerFacts
    on_event: Event
    max_bytes: int
    param_headers: Mapping[str, tuple[ParamHeader, ...]] = field(default_factory=dict[str, tuple[ParamHeader, ...]])
    """Tool -> which of its arguments are repeated in headers."""
    _heads: dict[tuple[str, bytes], bytes] = field(default_factory=dict[tuple[str, bytes], bytes])
    _heads_for: Mapping[str, str] = field(default_factory=dict[str, str])
    """The values of `headers` that the kept heads were made with."""
    _ids: "itertools.count[int]" = field(default_factory=lambda: itertools.count(1))

    async def request(self, call: Call, exchange: Exchange) -> Raw:
        id_ = next(self._ids)
        body = request_bytes(id_, call.method, modern_params(call, exchange.client))
        used = self.headers.values
        reply = await _send(self.client, self._head(call), body, self.max_bytes)
        if reply.status in REFUSED:
            again = partial(self._again, call, body)
            reply = await _send_again(self.headers, reply, used, again)
        token = call.meta.get("progressToken")
        try:
            if not reply.is_stream:
                return _outcome(await _whole(reply), reply)
            async for message in _messages(reply):
                if message.method is UNSET:
                    return _outcome(message, reply)
                params = read_params(message.params)
                if message.id is UNSET:
                    pass_on(message.method, params, exchange, token)
        finally:
            reply.close()
        raise LinkDown("It ended the answer's stream without an answer.", may_have_run=True)

    def _again(self, call: Call, body: bytes) -> Awaitable[Reply]:
        return _send(self.client, self._head(call), body, self.max_bytes)

    def declare(self, param_headers: Mapping[str, tuple[ParamHeader, ...]]) -> None:
        """Take over which arguments are repeated in headers, from a catalogue that was just read."""
        self.param_headers = param_headers
        self._heads.clear()

    def _head(self, call: Call) -> bytes:
        """The request's head up to its length; the same for every call of a tool without headers for its arguments."""
        if self._heads_for is not self.headers.values:
            self._heads.clear()
            self._heads_for = self.headers.values
        name = bytes(call.params.get(NAME_OF.get(call.method, ""), b""))
        found = self._heads.get((call.method, name))
        if found is None:
            headers = self._headers(call)
            found = self.client.head("POST", headers)
            is_again = call.method in INPUT_METHODS and headers.get("mcp-name") not in self.param_headers
            if is_again and len(self._heads) < MAX_HEADS:
                self._heads[call.method, name] = found
        return found

    def _headers(self, call: Call) -> dict[str, str]:
        headers = {**ACCEPT, **self.headers.values, "mcp-protocol-version": MODERN, "mcp-method": call.method}
        if name := NAME_OF.get(call.method):
            headers["mcp-name"] = encode_value(read_text(call.params.get(name)) or "")
            if mapped := self.param_headers.get(headers["mcp-name"]):
                headers |= _argument_headers(mapped, call.params.get("arguments"))
        return headers

    async def listen(self, client: Client, uris: tuple[str, ...] = ()) -> None:
        wanted = {f"{kind}ListChanged": True for kind in ("tools", "prompts", "resources")}
        filters = {"resourceSubscriptions": list(uris)} if uris else wanted
        call = Call("subscriptions/listen", {"notifications": raw(filters)})
        body = request_bytes(next(self._ids), call.method, modern_params(call, client))
        reply = await _post(self.client, self._headers(call), body, self.max_bytes)
        try:
            async for message in _messages(reply):
                if message.method is UNSET:
                    return
                if message.method in LIST_CHANGED or message.method == RESOURCE_UPDATED:
                    self.on_event(message.method, read_params(message.params), client.owner)
        finally:
            reply.close()

    async def close(self) -> None:
        self.client.close()
        await self.headers.close()


@dataclass
class Session:
    """One client's session at a server with a handshake."""

    client: Client
    id: str | None
    facts: ServerFacts
    used_at: float
    stream: "asyncio.Task[None] | None" = None


@dataclass
class LegacyHttp:
    """The revisions with `initialize`. A session per client, made when first needed and made anew when it is lost."""

    client: HttpClient
    headers: Headers
    on_event: Event
    max_bytes: int
    version: str = LEGACY[0]
    facts: ServerFacts = field(default_factory=lambda: ServerFacts("legacy", LEGACY[0]))
    _sessions: "OrderedDict[tuple[str, str, bytes], Session]" = field(
        default_factory=OrderedDict[tuple[str, str, bytes], Session]
    )
    _making: dict[tuple[str, str, bytes], "asyncio.Task[Session]"] = field(
        default_factory=dict[tuple[str, str, bytes], "asyncio.Task[Session]"]
    )
    _ids: "itertools.count[int]" = field(default_factory=lambda: itertools.count(1))
    _tasks: "set[asyncio.Task[None]]" = field(default_factory=set["asyncio.Task[None]"])

    async def open(self) -> None:
        """Meet the server. Raises `LinkDown`."""
        session = await self._session(Client("gateway"))
        self.facts = session.facts

    async def request(self, call: Call, exchange: Exchange) -> Raw:
        session = await self._session(exchange.client)
        try:
            return await self._request(session, call, exchange)
        except _SessionLost:
            self._forget(session)
            session = await self._session(exchange.client)
        try:
            return await self._request(session, call, exchange)
        except _SessionLost:
            raise LinkDown("It forgets its sessions as soon as they are made.") from None

    async def _request(self, session: Session, call: Call, exchange: Exchange) -> Raw:
        id_ = next(self._ids)
        token = call.meta.get("progressToken")
        if token is not None:
            call = Call(call.method, call.params, {**call.meta, "progressToken": raw(id_)})
        body = request_bytes(id_, call.method, legacy_params(call))
        used = self.headers.values
        reply = await _post(self.client, self._headers(session), body, self.max_bytes)
        if reply.status in REFUSED:
            again = partial(self._again, session, body)
            reply = await _send_again(self.headers, reply, used, again)
        if reply.status == HTTP_NOT_FOUND and session.id is not None:
            reply.close()
            raise _SessionLost
        try:
            async for message in _messages(reply):
                if message.method is UNSET:
                    if message.id == id_ or not reply.is_stream:
                        return _outcome(message, reply)
                elif message.id is UNSET or message.id is None:
                    self._notice(message.method, read_params(message.params), exchange, token)
                else:
                    self._spawn(self._answer(session, message, exchange))
        except asyncio.CancelledError:
            cancelled = notification_bytes("notifications/cancelled", {"requestId": raw(id_)})
            self._spawn(self._tell(session, cancelled))
            raise
        finally:
            reply.close()
        raise LinkDown("It ended the answer's stream without an answer.", may_have_run=True)

    def _again(self, session: Session | None, body: bytes) -> Awaitable[Reply]:
        headers = {**ACCEPT, **self.headers.values} if session is None else self._headers(session)
        return _post(self.client, headers, body, self.max_bytes)

    def _notice(self, method: str, params: Params, exchange: Exchange, token: Raw | None) -> None:
        if method in LIST_CHANGED or method == RESOURCE_UPDATED:
            self.on_event(method, params, exchange.client.owner)
        else:
            pass_on(method, params, exchange, token)

    async def _answer(self, session: Session, message: Message, exchange: Exchange) -> None:
        id_ = message.id
        assert isinstance(id_, int | str)  # noqa: S101 - a request, the caller has looked
        try:
            result = await answer(str(message.method), read_params(message.params), exchange)
            body = result_bytes(id_, result)
        except RpcError as error:
            body = error_bytes(id_, error)
        await self._tell(session, body)

    async def _tell(self, session: Session, body: bytes) -> None:
        with suppress(LinkDown):
            reply = await _post(self.client, self._headers(session), body, self.max_bytes)
            reply.close()

    async def listen(self, client: Client, uris: tuple[str, ...] = ()) -> None:
        session = await self._session(client)
        for uri in uris:
            await self._request(session, Call("resources/subscribe", {"uri": raw(uri)}), Silent(client))
        if session.stream is None or session.stream.done():
            session.stream = asyncio.create_task(self._standing(session))
        await asyncio.shield(session.stream)

    async def _standing(self, session: Session) -> None:
        """The stream of what no request caused. Not every server has one."""
        try:
            headers = {**self._headers(session), "accept": "text/event-stream"}
            reply = await self.client.send("GET", headers, b"", max_bytes=self.max_bytes)
        except (HttpError, DevToolsError, OSError):
            return
        try:
            if not reply.is_stream:
                return
            async for message in _messages(reply):
                if message.method in LIST_CHANGED or message.method == RESOURCE_UPDATED:
                    self.on_event(str(message.method), read_params(message.params), session.client.owner)
                elif message.method is not UNSET and isinstance(message.id, int | str):
                    await self._answer(session, message, Silent(session.client))
        except LinkDown:
            return
        finally:
            reply.close()

    async def _session(self, client: Client) -> Session:
        key = (client.owner, client.session, bytes(client.capabilities))
        found = self._sessions.get(key)
        if found is not None:
            found.used_at = time.monotonic()
            self._sessions.move_to_end(key)
            return found
        if key not in self._making:
            task = asyncio.create_task(self._initialize(client))
            self._making[key] = task
            task.add_done_callback(lambda _: self._making.pop(key, None))
        session = await asyncio.shield(self._making[key])
        self._sessions[key] = session
        self._expire()
        return session

    async def _initialize(self, client: Client) -> Session:
        info = client.info if client.info is not None else raw({"name": "dev-tools", "version": "1"})
        params = {"protocolVersion": raw(self.version), "capabilities": client.capabilities, "clientInfo": info}
        body = request_bytes(next(self._ids), "initialize", params)
        used = self.headers.values
        reply = await _post(self.client, {**ACCEPT, **used}, body, self.max_bytes)
        if reply.status in REFUSED:
            reply = await _send_again(self.headers, reply, used, partial(self._again, None, body))
        try:
            async for message in _messages(reply):
                if message.method is UNSET:
                    facts = facts_from_initialize(_outcome(message, reply))
                    id_ = reply.headers.get(b"mcp-session-id")
                    name = id_.decode("latin-1") if id_ else None
                    session = Session(client, name, facts, time.monotonic())
                    await self._tell(session, notification_bytes("notifications/initialized", {}))
                    return session
        except RpcError as error:
            raise LinkDown(f"It refuses the handshake: {error}") from None
        finally:
            reply.close()
        raise LinkDown("It did not answer the handshake.")

    def _headers(self, session: Session) -> dict[str, str]:
        headers = {**ACCEPT, **self.headers.values, "mcp-protocol-version": session.facts.version}
        if session.id is not None:
            headers["mcp-session-id"] = session.id
        return headers

    def _expire(self) -> None:
        limit = time.monotonic() - SESSION_IDLE_S
        for session in list(self._sessions.values()):
            if len(self._sessions) <= MAX_SESSIONS and session.used_at >= limit:
                return  # the oldest come first
            if session.client.owner != "gateway":
                self.end(session.client)

    def end(self, client: Client) -> None:
        """End a client's session, as when its own with us ends."""
        key = (client.owner, client.session, bytes(client.capabilities))
        session = self._sessions.pop(key, None)
        if session is not None:
            self._spawn(self._delete(session))

    async def _delete(self, session: Session) -> None:
        if session.stream is not None:
            session.stream.cancel()
        if session.id is not None:
            with suppress(HttpError, DevToolsError, OSError):
                reply = await self.client.send("DELETE", self._headers(session), b"", max_bytes=self.max_bytes)
                reply.close()

    def _forget(self, session: Session) -> None:
        for key, value in list(self._sessions.items()):
            if value is session:
                del self._sessions[key]

    def _spawn(self, coroutine: Coroutine[None, None, None]) -> None:
        task = asyncio.create_task(coroutine)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def close(self) -> None:
        streams = [s.stream for s in self._sessions.values() if s.stream is not None]
        for task in [*self._tasks, *streams, *self._making.values()]:
            task.cancel()
        self.client.close()
        await self.headers.close()


class _SessionLost(Exception):
    """The server no longer knows our session; the request was not looked at."""


async def _post(client: HttpClient, headers: Mapping[str, str], body: bytes, max_bytes: int) -> Reply:
    return await _send(client, client.head("POST", headers), body, max_bytes)


async def _send(client: HttpClient, head: bytes, body: bytes, max_bytes: int) -> Reply:
    try:
        return await client.send_raw(b"".join((head, b"%d\r\n\r\n" % len(body), body)), max_bytes)
    except TooLarge as error:
        raise LinkDown(str(error), may_have_run=True, is_fault=False) from None
    except (NotConnected, DevToolsError, OSError) as error:
        raise LinkDown(str(error), is_final=True) from None
    except HttpError as error:
        raise LinkDown(str(error), may_have_run=True) from None


async def _send_again(
    headers: Headers, reply: Reply, used: Mapping[str, str], again: Callable[[], Awaitable[Reply]]
) -> Reply:
    """A refused request once more, if there is a new credential. A refusal was looked at by nobody."""
    try:
        if not await headers.renewed(reply, used):
            return reply
        reply.close()
        used = headers.values
        reply = await again()
        if reply.status in REFUSED:
            await headers.renewed(reply, used)
    except BaseException:
        reply.close()
        raise
    return reply


async def _messages(reply: Reply) -> AsyncGenerator[Message]:
    """The messages of an answer, be it one JSON body or a stream. Raises `LinkDown`."""
    if not reply.is_stream:
        yield await _whole(reply)
        return
    try:
        async for data in reply.events():
            yield read_message(data)
    except (HttpError, RpcError) as error:
        raise _unreadable(error) from None


async def _whole(reply: Reply) -> Message:
    """The message of an answer that is one JSON body. Raises `LinkDown`."""
    try:
        body = await reply.body()
        if reply.headers.get(b"content-type", b"").startswith(b"application/json"):
            return read_message(body)
    except (HttpError, RpcError) as error:
        raise _unreadable(error) from None
    if reply.status in {401, 403}:
        raise LinkDown(f"It refuses us (HTTP {reply.status}): its credential is missing, wrong or expired.")
    raise LinkDown(f"It answered HTTP {reply.status} without JSON.", may_have_run=reply.status < 400)  # noqa: PLR2004


def _unreadable(error: HttpError | RpcError) -> LinkDown:
    if isinstance(error, RpcError):
        return LinkDown(f"Its answer is no JSON-RPC: {error}", may_have_run=True)
    return LinkDown(str(error), may_have_run=True, is_fault=not isinstance(error, TooLarge))


def _outcome(message: Message, reply: Reply) -> Raw:
    if message.error is not UNSET:
        raise read_error(message.error)
    if message.result is UNSET:
        if reply.status in {401, 403}:
            raise LinkDown(f"It refuses us (HTTP {reply.status}): its credential is missing, wrong or expired.")
        raise RpcError(INTERNAL_ERROR, "The server's answer holds neither a result nor an error.")
    return message.result


def _argument_headers(mapped: tuple[ParamHeader, ...], arguments: Raw | None) -> dict[str, str]:
    return headers_for(mapped, decode(arguments or b"{}"))


async def connect_http(
    client: HttpClient, headers: Headers, *, protocol: str, on_event: Event, max_bytes: int
) -> ModernHttp | LegacyHttp:
    """Find out which era the server speaks, unless `protocol` says it. Raises `LinkDown`."""
    if protocol in {"auto", MODERN}:
        modern = ModernHttp(client, headers, ServerFacts("modern", MODERN), on_event, max_bytes)
        try:
            modern.facts = facts_from_discover(await modern.request(Call("server/discover", {}), Silent()))
            return modern
        except RpcError as error:
            if protocol == MODERN:
                raise LinkDown(f"It does not speak {MODERN}: {error}") from None
        except LinkDown as error:
            if protocol == MODERN or not error.reason.startswith("It answered HTTP 4"):
                raise
    legacy = LegacyHttp(client, headers, on_event, max_bytes, LEGACY[0] if protocol == "auto" else protocol)
    await legacy.open()
    return legacy
