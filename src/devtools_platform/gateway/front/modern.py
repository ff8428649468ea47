"""The stateless revision: one POST a request, which says all there is to say about its client."""

import asyncio
from collections.abc import Mapping

import msgspec
from msgspec import UNSET
from starlette.types import Receive, Send

from devtools_platform.gateway.deferred import is_declared, missing_extension
from devtools_platform.gateway.front.answers import Answers, Place
from devtools_platform.gateway.front.exchange import WATCH_AFTER_S, HttpExchange, id_or_none
from devtools_platform.gateway.front.http import respond, status_in
from devtools_platform.gateway.front.listen import Subscription, follow, read_subscription, while_valid
from devtools_platform.gateway.mcp.exchange import Call, Client
from devtools_platform.gateway.mcp.headers import check_headers, decode_value
from devtools_platform.gateway.mcp.messages import (
    CAPABILITIES_KEY,
    CLIENT_KEY,
    HEADER_MISMATCH,
    INVALID_PARAMS,
    INVALID_REQUEST,
    LOG_LEVEL_KEY,
    MODERN,
    NAME_OF,
    UNAVAILABLE,
    UNSUPPORTED_VERSION,
    VERSION_KEY,
    Id,
    Message,
    Params,
    RpcError,
    read_object,
    read_text,
)
from devtools_platform.gateway.principal import Principal
from devtools_platform.gateway.upstreams.upstream import Upstream
from devtools_platform.kit.overdue import Overdue

MAX_LISTENERS_PER_OWNER = 32


class ModernDoor:
    """Keeps nothing between two requests but how many streams each caller has open."""

    def __init__(self, answers: Answers) -> None:
        self.answers = answers
        self._listeners: dict[str, int] = {}
        self._overdue = Overdue(WATCH_AFTER_S)

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
        if method is UNSET:
            raise RpcError(INVALID_REQUEST, "A stateless client sends requests, no answers.")
        if message.id is UNSET:
            await respond(send, 202, b"")
            return
        id_ = id_or_none(message.id)
        if id_ is None:
            raise RpcError(INVALID_REQUEST, "A request's id is a string or an integer.")
        client = _client_of(headers, method, params, meta, place.principal)
        exchange = HttpExchange(client, receive, send, self._overdue)
        if method == "subscriptions/listen":
            await self._listen(place, id_, params, exchange)
            return
        entry = None
        if method == "tools/call":
            entry = self.answers.tool(place, read_text(params.get("name")))
            if entry is not None and entry.param_headers:
                check_headers(entry.param_headers, msgspec.json.decode(params.get("arguments", b"{}")), headers)
        call = Call(method, params, meta)
        work = self.answers.work(place, id_, call, exchange, entry, is_modern=True)
        await exchange.serve(work, status_in)

    async def _listen(self, place: Place, id_: Id, params: Params, exchange: HttpExchange) -> None:
        """A stream of what changes. It lasts until the client hangs up."""
        owner = place.principal.id
        if self._listeners.get(owner, 0) >= MAX_LISTENERS_PER_OWNER:
            raise RpcError(UNAVAILABLE, f"{owner} has {MAX_LISTENERS_PER_OWNER} streams open already.")
        upstream = place.upstream
        if "taskIds" in read_object(params.get("notifications")) and not is_declared(exchange.client):
            raise missing_extension()
        wish = read_subscription(id_, owner, params, exchange.notify, is_merged=upstream is None)
        self._listeners[owner] = self._listeners.get(owner, 0) + 1
        self.answers.hub.offer.listeners.add(wish.on_tools)
        if upstream is not None:
            upstream.listeners.add(wish.on_event)
        try:
            await exchange.serve(while_valid(place.principal, _tell(wish, upstream, exchange.client)))
        finally:
            self._listeners[owner] -= 1
            self.answers.hub.offer.listeners.discard(wish.on_tools)
            if upstream is not None:
                upstream.listeners.discard(wish.on_event)


async def _tell(wish: Subscription, upstream: Upstream | None, client: Client) -> bytes:
    """For as long as the client listens."""
    wish.acknowledge()
    if upstream is not None:
        await follow(upstream, client, wish.uris)
    await asyncio.Event().wait()
    return b""


def _client_of(
    headers: Mapping[bytes, bytes], method: str, params: Params, meta: Params, principal: Principal
) -> Client:
    """The envelope of a stateless request, taken out of `meta`. Raises `RpcError` for one that is incomplete."""
    if VERSION_KEY not in meta or CAPABILITIES_KEY not in meta:
        missing = [key for key in (VERSION_KEY, CAPABILITIES_KEY) if key not in meta]
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
