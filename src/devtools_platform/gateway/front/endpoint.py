"""`/mcp` for all tools under prefixed names, `/mcp/SERVER` for one server as it is.

Who calls comes from the token, what is called from the body; headers that repeat the body must agree with it.
"""

import asyncio
import logging
import secrets
import time
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field, replace
from typing import Any
from urllib.parse import urlsplit

import msgspec
from msgspec import UNSET, Raw
from starlette.types import Receive, Scope, Send

from devtools_platform import __version__
from devtools_platform.core.errors import DevToolsError, Forbidden, NotFound, TooLarge, Unauthorized
from devtools_platform.gateway.front.exchange import HttpExchange, id_or_none
from devtools_platform.gateway.front.listen import RESOURCE_UPDATED, TOOLS_CHANGED, Subscription, read_subscription
from devtools_platform.gateway.front.resource import Resource, is_metadata
from devtools_platform.gateway.hub import Hub
from devtools_platform.gateway.mcp.exchange import Call, Client
from devtools_platform.gateway.mcp.headers import check_headers, decode_value
from devtools_platform.gateway.mcp.messages import (
    CAPABILITIES_KEY,
    CLIENT_KEY,
    HEADER_MISMATCH,
    HTTP_STATUS,
    INTERNAL_ERROR,
    INVALID_PARAMS,
    INVALID_REQUEST,
    LEGACY,
    LOG_LEVEL_KEY,
    LOG_LEVELS,
    METHOD_NOT_FOUND,
    MODERN,
    NAME_OF,
    NOTHING,
    REFUSED,
    SERVER_KEY,
    UNAVAILABLE,
    UNSUPPORTED_VERSION,
    VERSION_KEY,
    Id,
    Message,
    Params,
    RpcError,
    encode,
    error_bytes,
    raw,
    read_error,
    read_message,
    read_object,
    read_params,
    read_text,
    refusal,
    result_bytes,
)
from devtools_platform.gateway.offer import Entry
from devtools_platform.gateway.principal import Principal
from devtools_platform.gateway.results import wire_result
from devtools_platform.gateway.search import META_TOOLS, SearchMode
from devtools_platform.gateway.upstreams.upstream import Upstream

log = logging.getLogger(__name__)

IDEMPOTENCY_KEY = "dev-tools/idempotency-key"
"""The `_meta` field that names a call for good; without it every request is a call of its own."""
APPROVAL = "dev-tools/approval"
"""The `_meta` field by which a call that had to wait for approval says which one it got."""

MAX_BODY_BYTES = 4_000_000
BODY_TIMEOUT_S = 30.0
MAX_SESSIONS = 2048
MAX_SESSIONS_PER_OWNER = 64
SESSION_IDLE_S = 1800.0
MAX_LISTENERS_PER_OWNER = 32
ROUTING = frozenset({b"mcp-protocol-version", b"mcp-method", b"mcp-name"})
PASSED_ON = frozenset(
    {
        "prompts/list",
        "prompts/get",
        "resources/list",
        "resources/read",
        "resources/templates/list",
        "completion/complete",
    }
)
CACHEABLE = frozenset({"tools/list", "prompts/list", "resources/list", "resources/templates/list", "resources/read"})
SERVER_INFO = {"name": "dev-tools", "version": __version__}
LOCAL = frozenset({"localhost", "127.0.0.1", "::1"})
Verify = Callable[[bytes], Principal]
"""From the Authorization header to who it is. Raises `Unauthorized`."""


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


@dataclass(frozen=True)
class Place:
    """Where a request was sent: everything, or one server."""

    principal: Principal
    upstream: Upstream | None


class McpEndpoint:
    """The ASGI application behind every path that begins with `/mcp`."""

    def __init__(
        self,
        hub: Hub,
        verify: Verify,
        *,
        hosts: frozenset[str] = frozenset(),
        search: SearchMode,
        resource: Resource | None = None,
    ) -> None:
        self.hub = hub
        self.resource = resource
        """Where clients are told to get a token; None: tokens are made here only."""
        self.verify = verify
        self.hosts = LOCAL | hosts
        self.search = search
        self.sessions: dict[str, Session] = {}
        self._listeners: dict[str, int] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        hub.offer.listeners.add(self._tools_changed)
        for upstream in hub.offer.upstreams.values():
            upstream.listeners.add(lambda m, p, o, u=upstream: self._happened(u, m, p, o))

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        headers: Mapping[bytes, bytes] = {}
        try:
            headers = _headers(scope["headers"])
            self._check_origin(headers)
            if is_metadata(scope["path"]):
                await self._describe(scope["method"], headers, send)
                return
            principal = self.verify(headers.get(b"authorization", b""))
            place = self._place(scope["path"], principal)
            await self._serve(scope["method"], headers, place, receive, send)
        except RpcError as error:
            await _respond(send, _status_of(error), error_bytes(None, error))
        except DevToolsError as error:
            challenge = self.resource.challenge(headers) if self.resource is not None else b"Bearer"
            extra = [(b"www-authenticate", challenge)] if isinstance(error, Unauthorized) else []
            await _respond(send, error.status, encode(error.to_dict()), extra)
        except Exception:
            log.exception("%s %s broke", scope["method"], scope["path"])
            broken = RpcError(INTERNAL_ERROR, "Something broke on our side; the log has the details.")
            with suppress(RuntimeError):  # the answer may have begun
                await _respond(send, 500, error_bytes(None, broken))

    async def _describe(self, method: str, headers: Mapping[bytes, bytes], send: Send) -> None:
        """The one page without a token: where to get one."""
        if self.resource is None:
            raise NotFound("The gateway takes no tokens of others.", hint="See DEV_TOOLS_GATEWAY_OIDC_ISSUER.")
        if method != "GET":
            await _respond(send, 405, b"", [(b"allow", b"GET")])
            return
        await _respond(send, 200, self.resource.document(headers))

    def _check_origin(self, headers: Mapping[bytes, bytes]) -> None:
        """A page in a browser can have its own name resolve to us; then Host or Origin give it away."""
        host = _host_of("//" + headers.get(b"host", b"").decode("latin-1"))
        if host not in self.hosts:
            raise Forbidden(f"The gateway is not known as {host!r}.", hint="Add the name to DEV_TOOLS_GATEWAY_HOSTS.")
        origin = headers.get(b"origin")
        if origin is not None and _host_of(origin.decode("latin-1")) not in self.hosts:
            raise Forbidden(
                f"Pages of {origin[:200]!r} may not call the gateway.", hint="Add its host to DEV_TOOLS_GATEWAY_HOSTS."
            )

    def _place(self, path: str, principal: Principal) -> Place:
        name = path.removeprefix("/mcp").strip("/")
        return Place(principal, self.hub.offer.server(principal, name) if name else None)

    async def _serve(
        self, method: str, headers: Mapping[bytes, bytes], place: Place, receive: Receive, send: Send
    ) -> None:
        if method == "POST":
            await self._post(headers, place, await _read(headers, receive), receive, send)
        elif method == "GET":
            await self._get(headers, place, receive, send)
        elif method == "DELETE":
            self._end(self._session(headers, place))
            await _respond(send, 204, b"")
        else:
            await _respond(send, 405, b"", [(b"allow", b"POST, GET, DELETE")])

    async def _post(
        self, headers: Mapping[bytes, bytes], place: Place, body: bytes, receive: Receive, send: Send
    ) -> None:
        id_: Id | None = None
        try:
            message = read_message(body)
            id_ = id_or_none(message.id)
            params = read_params(message.params)
            meta = read_object(params.pop("_meta", None))
            version = headers.get(b"mcp-protocol-version", b"").decode("latin-1")
            if version == MODERN or VERSION_KEY in meta or (version and version not in LEGACY):
                await self._modern(headers, place, message, params, meta, receive, send)
            else:
                await self._legacy(headers, place, message, params, meta, receive, send)
        except RpcError as error:
            await _respond(send, _status_of(error), error_bytes(id_, error))

    # The stateless revision

    async def _modern(
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
        if method is UNSET:
            raise RpcError(INVALID_REQUEST, "A stateless client sends requests, no answers.")
        if message.id is UNSET:
            await _respond(send, 202, b"")
            return
        id_ = id_or_none(message.id)
        if id_ is None:
            raise RpcError(INVALID_REQUEST, "A request's id is a string or an integer.")
        client = _modern_client(headers, method, params, meta, place.principal)
        exchange = HttpExchange(client, receive, send)
        if method == "subscriptions/listen":
            await self._listen(place, id_, params, exchange)
            return
        entry = None
        if method == "tools/call":
            entry = self._tool(place, read_text(params.get("name")))
            if entry is not None and entry.param_headers:
                check_headers(entry.param_headers, msgspec.json.decode(params.get("arguments", b"{}")), headers)
        call = Call(method, params, meta)
        work = self._work(place, id_, call, exchange, entry, is_modern=True)
        await exchange.serve(work, _status_in)

    async def _work(
        self, place: Place, id_: Id, call: Call, exchange: HttpExchange, entry: Entry | None, *, is_modern: bool
    ) -> bytes:
        """The whole answer to a request. Never raises but for being cancelled."""
        try:
            result = await self._result(place, call, exchange, entry, is_modern=is_modern)
        except RpcError as error:
            return error_bytes(id_, error)
        except DevToolsError as error:
            return error_bytes(id_, RpcError(REFUSED, str(error), error.to_dict()))
        except Exception:
            log.exception("%s broke", call.method)
            return error_bytes(id_, RpcError(INTERNAL_ERROR, "Something broke on our side; the log has the details."))
        return result_bytes(id_, result)

    async def _result(
        self, place: Place, call: Call, exchange: HttpExchange, entry: Entry | None, *, is_modern: bool
    ) -> Raw | bytes:
        method, upstream = call.method, place.upstream
        if method == "tools/call":
            name = read_text(call.params.get("name"))
            if entry is None and self.search.is_on(self.hub, place.principal, upstream) and name in META_TOOLS:
                return await self._search_tool(place, str(name), call, exchange, is_modern=is_modern)
            entry = entry or self._tool(place, name) or await self._refused(place, name, call)
            return _in_era(await self._call(place, entry, call, exchange), call, is_modern=is_modern)
        if method == "tools/list":
            return self._list_tools(place, is_modern=is_modern)
        if method == "server/discover" and is_modern:
            return _discover(upstream)
        if upstream is not None and method in PASSED_ON:
            try:
                result = await self.hub.send(upstream, call, exchange)
            except RpcError as error:
                raise self.hub.clean(error) from None
            return _in_era(self.hub.secrets.redact(result), call, is_modern=is_modern)
        raise RpcError(METHOD_NOT_FOUND, f"There is no method {method!r} here.")

    def _tool(self, place: Place, name: str | None) -> Entry | None:
        if name is None:
            return None
        if place.upstream is not None:
            return self.hub.offer.view(place.principal).entries.get(f"{place.upstream.name}_{name}")
        return self.hub.offer.view(place.principal).entries.get(name)

    def _missing(self, place: Place, name: str | None) -> Entry:
        if name is None:
            raise RpcError(INVALID_PARAMS, "params.name must name a tool.")
        if place.upstream is None:
            return self.hub.offer.find(place.principal, name)
        if place.upstream.link is None and not place.upstream.tools:
            raise place.upstream.unavailable()
        return self.hub.offer.find(place.principal, f"{place.upstream.name}_{name}")

    async def _refused(self, place: Place, name: str | None, call: Call) -> Entry:
        """Record that somebody tried, then say what is missing. Raises `RpcError` in nearly every case."""
        try:
            return self._missing(place, name)
        except RpcError:
            if name is not None:
                self.hub.note_refused(place.principal, name, bytes(call.params.get("arguments", b"")))
            if place.principal.scopes is None and name is not None:
                key = read_text(call.meta.get(IDEMPOTENCY_KEY)) or secrets.token_hex(16)
                with suppress(Forbidden):
                    await self.hub.gateway.call(place.principal.caller, name[:200], {}, key)
            raise

    async def _call(self, place: Place, entry: Entry, call: Call, exchange: HttpExchange) -> Raw:
        key = read_text(call.meta.pop(IDEMPOTENCY_KEY, None))
        approval = read_text(call.meta.pop(APPROVAL, None))
        if (arguments := call.params.get("arguments")) is not None and bytes(arguments)[:1] != b"{":
            raise RpcError(INVALID_PARAMS, "params.arguments must be an object.")
        call.params["name"] = raw(entry.name)
        return await self.hub.call(place.principal, entry, call, exchange, key=key, approval=approval)

    async def _search_tool(
        self, place: Place, name: str, call: Call, exchange: HttpExchange, *, is_modern: bool
    ) -> Raw | bytes:
        arguments = read_object(call.params.get("arguments"))
        if name == "search_tools":
            text = read_text(arguments.get("query"))
            if text is None:
                raise RpcError(INVALID_PARAMS, "search_tools needs `query`, a text.")
            return wire_result(await self.search.answer(self.hub, place.principal, text))
        wanted = read_text(arguments.get("name"))
        entry = self._tool(place, wanted) or self._missing(place, wanted)
        params: Params = {"name": raw(entry.full), "arguments": arguments.get("arguments", NOTHING)}
        inner = Call("tools/call", {**call.params, **params}, call.meta)
        return _in_era(await self._call(place, entry, inner, exchange), call, is_modern=is_modern)

    def _list_tools(self, place: Place, *, is_modern: bool) -> bytes:
        view = self.hub.offer.view(place.principal)
        if place.upstream is not None:
            if place.upstream.link is None and not place.upstream.tools:
                raise place.upstream.unavailable()
            tools = view.by_server.get(place.upstream.name, b"[]")
        elif self.search.is_on(self.hub, place.principal, None):
            tools = self.search.tools
        elif not view.entries:
            raise refusal("no_tools", self.hub.offer.why_none(place.principal), "Run `dev-tools tools doctor`.")
        else:
            tools = view.tools
        tail = b',"resultType":"complete","ttlMs":0,"cacheScope":"private"}' if is_modern else b"}"
        return b'{"tools":' + tools + tail

    async def _listen(self, place: Place, id_: Id, params: Params, exchange: HttpExchange) -> None:
        """A stream of what changes. It lasts until the client hangs up."""
        owner = place.principal.id
        if self._listeners.get(owner, 0) >= MAX_LISTENERS_PER_OWNER:
            raise RpcError(UNAVAILABLE, f"{owner} has {MAX_LISTENERS_PER_OWNER} streams open already.")
        upstream = place.upstream
        wish = read_subscription(id_, owner, params, exchange.notify, is_merged=upstream is None)
        self._listeners[owner] = self._listeners.get(owner, 0) + 1
        self.hub.offer.listeners.add(wish.on_tools)
        if upstream is not None:
            upstream.listeners.add(wish.on_event)
        try:
            await exchange.serve(_while_valid(place.principal, _tell(wish, upstream, exchange.client)))
        finally:
            self._listeners[owner] -= 1
            self.hub.offer.listeners.discard(wish.on_tools)
            if upstream is not None:
                upstream.listeners.discard(wish.on_event)

    # The revisions with a handshake

    async def _legacy(
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
            await _respond(send, 202, b"")
            return
        if message.id is UNSET:
            if method == "notifications/cancelled" and (running := session.running.get(_id_in(params))) is not None:
                running.cancel()
            await _respond(send, 202, b"")
            return
        id_ = id_or_none(message.id)
        if id_ is None:
            raise RpcError(INVALID_REQUEST, "A request's id is a string or an integer.")
        exchange = HttpExchange(session.client, receive, send, session.pending)
        task = asyncio.current_task()
        assert task is not None  # noqa: S101 - we are in one
        session.running[id_] = task
        try:
            await exchange.serve(self._legacy_work(session, place, id_, Call(method, params, meta), exchange))
        except asyncio.CancelledError:
            if task.cancelling() and exchange.is_gone is False and session.running.get(id_) is task:
                task.uncancel()
                cancelled = RpcError(INTERNAL_ERROR, "The call was cancelled, as its client asked.")
                await _respond(send, 200, error_bytes(id_, cancelled))
                return
            raise
        finally:
            if session.running.get(id_) is task:
                del session.running[id_]

    async def _legacy_work(self, session: Session, place: Place, id_: Id, call: Call, exchange: HttpExchange) -> bytes:
        if call.method == "ping":
            return result_bytes(id_, b"{}")
        if call.method == "logging/setLevel":
            level = read_text(call.params.get("level"))
            if level not in LOG_LEVELS:
                return error_bytes(id_, RpcError(INVALID_PARAMS, f"level is one of {', '.join(LOG_LEVELS)}."))
            session.client = replace(session.client, log_level=level)
            return result_bytes(id_, b"{}")
        if call.method in {"resources/subscribe", "resources/unsubscribe"} and place.upstream is not None:
            return await self._subscribe(session, place.upstream, id_, call, exchange)
        return await self._work(place, id_, call, exchange, None, is_modern=False)

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
            self._spawn(_listening(upstream, session.client, (uri,)))
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
            "capabilities": _capabilities(place.upstream, is_modern=False),
            "serverInfo": SERVER_INFO,
        }
        if place.upstream is not None and place.upstream.link is not None and place.upstream.link.facts.instructions:
            result["instructions"] = place.upstream.link.facts.instructions
        await _respond(send, 200, result_bytes(id_, encode(result)), [(b"mcp-session-id", name.encode())])

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

    def _end(self, session: Session) -> None:
        self.sessions.pop(session.id, None)
        for future in session.pending.values():
            future.cancel()
        for upstream in self.hub.offer.upstreams.values():
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

    async def _get(self, headers: Mapping[bytes, bytes], place: Place, receive: Receive, send: Send) -> None:
        """The standing stream of a handshake client: what no request of its own caused."""
        if b"mcp-session-id" not in headers:
            await _respond(send, 405, b"", [(b"allow", b"POST")])
            return
        session = self._session(headers, place)
        if session.stream is not None:
            raise StreamTaken("This session has its stream already.", hint="Close that one first.")
        exchange = HttpExchange(session.client, receive, send, session.pending)
        exchange.open_stream()
        session.stream = exchange

        async def wait() -> bytes:
            if place.upstream is not None:
                self._spawn(_listening(place.upstream, session.client, ()))
            await asyncio.Event().wait()
            return b""

        try:
            await exchange.serve(_while_valid(place.principal, wait()))
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


async def _while_valid(principal: Principal, work: Awaitable[bytes]) -> bytes:
    """A stream is open for as long as its caller's token counts, and no longer."""
    left = None if principal.expires_at == float("inf") else max(0.0, principal.expires_at - time.time())
    with suppress(TimeoutError):
        async with asyncio.timeout(left):
            return await work
    return b""


async def _tell(wish: Subscription, upstream: Upstream | None, client: Client) -> bytes:
    """For as long as the client listens."""
    wish.acknowledge()
    if upstream is not None:
        await _listening(upstream, client, wish.uris)
    await asyncio.Event().wait()
    return b""


async def _listening(upstream: Upstream, client: Client, uris: tuple[str, ...]) -> None:
    if upstream.link is not None:
        try:
            await upstream.link.listen(client, uris)
        except Exception as error:  # noqa: BLE001 - events are a convenience; a call would say what is wrong
            log.info("%s sends no events: %s", upstream.name, error)


def _headers(pairs: list[tuple[bytes, bytes]]) -> dict[bytes, bytes]:
    """Raises `RpcError` when a header that decides something comes twice: two readers would see two requests."""
    headers: dict[bytes, bytes] = {}
    for name, value in pairs:
        if name in headers and (name in ROUTING or name in {b"authorization", b"host", b"mcp-session-id"}):
            raise RpcError(HEADER_MISMATCH, f"The header {name.decode('latin-1')} comes more than once.")
        headers[name] = value
    return headers


async def _read(headers: Mapping[bytes, bytes], receive: Receive) -> bytes:
    length = headers.get(b"content-length", b"0")
    if not length.isdigit() or int(length) > MAX_BODY_BYTES:
        raise TooLarge(f"A request body is at most {MAX_BODY_BYTES} bytes.", hint="Send less.")
    message = await receive()
    if message["type"] == "http.request" and not message.get("more_body"):
        return message.get("body", b"")
    parts, size = [message.get("body", b"")], 0
    async with asyncio.timeout(BODY_TIMEOUT_S):
        while message.get("more_body"):
            message = await receive()
            parts.append(message.get("body", b""))
            size += len(parts[-1])
            if size > MAX_BODY_BYTES:
                raise TooLarge(f"A request body is at most {MAX_BODY_BYTES} bytes.", hint="Send less.")
    return b"".join(parts)


async def _respond(send: Send, status: int, body: bytes, extra: list[tuple[bytes, bytes]] | None = None) -> None:
    headers = [(b"content-length", b"%d" % len(body)), *(extra or [])]
    if body:
        headers.append((b"content-type", b"application/json"))
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})


def _status_of(error: RpcError) -> int:
    if error.code == REFUSED:
        return 403
    return HTTP_STATUS.get(error.code, 200)


def _status_in(message: bytes) -> int:
    """The HTTP status of a whole answer to a stateless client."""
    if b'"error":{' not in message[:120]:
        return 200
    error = read_object(read_object(Raw(message)).get("error"))
    code = bytes(error.get("code", b"0"))
    return _status_of(RpcError(int(code) if code.lstrip(b"-").isdigit() else 0, ""))


def _host_of(url: str) -> str:
    try:
        return (urlsplit(url).hostname or "").lower()
    except ValueError:
        return ""


def _modern_client(
    headers: Mapping[bytes, bytes], method: str, params: Params, meta: Params, principal: Principal
) -> Client:
    """The envelope of a stateless request, taken out of `meta`. Raises `RpcError` for one that is incomplete."""
    if missing := [key for key in (VERSION_KEY, CAPABILITIES_KEY) if key not in meta]:
        raise RpcError(INVALID_PARAMS, f"params._meta lacks {', '.join(missing)}.")
    version = read_text(meta.pop(VERSION_KEY))
    capabilities = meta.pop(CAPABILITIES_KEY)
    info = meta.pop(CLIENT_KEY, None)
    level = read_text(meta.pop(LOG_LEVEL_KEY, None))
    if version is None or bytes(capabilities)[:1] != b"{":
        raise RpcError(INVALID_PARAMS, "params._meta: the version is a text, the capabilities are an object.")
    if headers.get(b"mcp-protocol-version", b"").decode("latin-1") != version:
        raise RpcError(HEADER_MISMATCH, "The header MCP-Protocol-Version does not match the body's protocol version.")
    if headers.get(b"mcp-method", b"").decode("latin-1") != method:
        raise RpcError(HEADER_MISMATCH, "The header Mcp-Method does not match the body's method.")
    if (key := NAME_OF.get(method)) is not None and (name := read_text(params.get(key))) is not None:
        given = headers.get(b"mcp-name")
        if given is None or decode_value(given.decode("latin-1")) != name:
            raise RpcError(HEADER_MISMATCH, f"The header Mcp-Name does not match the body's {key}.")
    if version != MODERN:
        data = {"supported": [MODERN], "requested": version}
        raise RpcError(UNSUPPORTED_VERSION, "Unsupported protocol version", data)
    return Client(principal.id, capabilities, info, "", level)


def _in_era(result: Raw | bytes, call: Call, *, is_modern: bool) -> Raw | bytes:
    """A result as the client's era words it: with `resultType` and caching hints, or without."""
    text = bytes(result)
    if is_modern:
        if b'"resultType"' in text and (call.method not in CACHEABLE or b'"ttlMs"' in text):
            return result
        body = read_object(Raw(text))
        body.setdefault("resultType", raw("complete"))
        if call.method in CACHEABLE:
            body.setdefault("ttlMs", raw(0))
            body.setdefault("cacheScope", raw("private"))
        return encode(body)
    if b'"resultType"' not in text and b'"ttlMs"' not in text:
        return result
    body = read_object(Raw(text))
    for key in ("resultType", "ttlMs", "cacheScope"):
        body.pop(key, None)
    return encode(body)


def _capabilities(upstream: Upstream | None, *, is_modern: bool) -> dict[str, Any]:
    if upstream is None:
        return {"tools": {"listChanged": True}} | ({} if is_modern else {"logging": {}})
    facts = upstream.link.facts if upstream.link is not None else None
    found = dict(facts.capabilities) if facts is not None else {}
    kept = {kind: found[kind] for kind in ("tools", "prompts", "resources", "completions") if kind in found}
    if "tools" in kept:
        kept["tools"] = {"listChanged": True}
    if not is_modern:
        kept["logging"] = {}
    return kept


def _discover(upstream: Upstream | None) -> bytes:
    result: dict[str, Any] = {
        "resultType": "complete",
        "supportedVersions": [MODERN],
        "capabilities": _capabilities(upstream, is_modern=True),
        "ttlMs": 0,
        "cacheScope": "private",
        "_meta": {SERVER_KEY: SERVER_INFO},
    }
    if upstream is not None and upstream.link is not None and upstream.link.facts.instructions:
        result["instructions"] = upstream.link.facts.instructions
    return encode(result)


def _id_in(params: Params) -> Id:
    try:
        return msgspec.json.decode(params.get("requestId", b'""'), type=int | str)
    except msgspec.MsgspecError:
        return ""
