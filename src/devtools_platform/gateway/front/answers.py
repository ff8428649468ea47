"""What a request is answered with, whichever era its client speaks."""

import logging
import secrets
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from msgspec import Raw, Struct

from devtools_platform import __version__
from devtools_platform.core.errors import DevToolsError, Forbidden
from devtools_platform.gateway.deferred import EXTENSION, METHODS, is_offered
from devtools_platform.gateway.hub import Hub
from devtools_platform.gateway.mcp.exchange import Call, Exchange
from devtools_platform.gateway.mcp.messages import (
    INTERNAL_ERROR,
    INVALID_PARAMS,
    METHOD_NOT_FOUND,
    MODERN,
    NOTHING,
    REFUSED,
    SERVER_KEY,
    Id,
    Params,
    RpcError,
    encode,
    error_bytes,
    raw,
    read_object,
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


class Place(Struct, frozen=True):
    """Where a request was sent: everything, or one server."""

    principal: Principal
    upstream: Upstream | None


@dataclass(frozen=True)
class Answers:
    """From a request to the bytes of its answer; the doors know how they travel."""

    hub: Hub
    search: SearchMode

    async def work(
        self, place: Place, id_: Id, call: Call, exchange: Exchange, entry: Entry | None, *, is_modern: bool
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

    def tool(self, place: Place, name: str | None) -> Entry | None:
        if name is None:
            return None
        if place.upstream is not None:
            return self.hub.offer.view(place.principal).entries.get(f"{place.upstream.name}_{name}")
        return self.hub.offer.view(place.principal).entries.get(name)

    async def _result(
        self, place: Place, call: Call, exchange: Exchange, entry: Entry | None, *, is_modern: bool
    ) -> Raw | bytes:
        method, upstream = call.method, place.upstream
        if method == "tools/call":
            name = read_text(call.params.get("name"))
            if entry is None and self.search.is_on(self.hub, place.principal, upstream) and name in META_TOOLS:
                return await self._search_tool(place, str(name), call, exchange, is_modern=is_modern)
            entry = entry or self.tool(place, name) or await self._refused(place, name, call)
            return _in_era(await self._call(place, entry, call, exchange), call, is_modern=is_modern)
        if method == "tools/list":
            return self._list_tools(place, is_modern=is_modern)
        if method in METHODS and is_modern:
            server = upstream.name if upstream is not None else None
            return _in_era(await self.hub.follow(place.principal, call, exchange, server), call, is_modern=True)
        if method == "server/discover" and is_modern:
            return _discover(upstream, self.hub.offer.upstreams.values())
        if upstream is not None and method in PASSED_ON:
            try:
                result = await self.hub.send(upstream, call, exchange)
            except RpcError as error:
                raise self.hub.clean(error) from None
            return _in_era(self.hub.secrets.redact(result), call, is_modern=is_modern)
        raise RpcError(METHOD_NOT_FOUND, f"There is no method {method!r} here.")

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

    async def _call(self, place: Place, entry: Entry, call: Call, exchange: Exchange) -> Raw:
        key = read_text(call.meta.pop(IDEMPOTENCY_KEY, None))
        approval = read_text(call.meta.pop(APPROVAL, None))
        if (arguments := call.params.get("arguments")) is not None and bytes(arguments)[:1] != b"{":
            raise RpcError(INVALID_PARAMS, "params.arguments must be an object.")
        call.params["name"] = raw(entry.name)
        return await self.hub.call(place.principal, entry, call, exchange, key=key, approval=approval)

    async def _search_tool(
        self, place: Place, name: str, call: Call, exchange: Exchange, *, is_modern: bool
    ) -> Raw | bytes:
        arguments = read_object(call.params.get("arguments"))
        if name == "search_tools":
            text = read_text(arguments.get("query"))
            if text is None:
                raise RpcError(INVALID_PARAMS, "search_tools needs `query`, a text.")
            return wire_result(await self.search.answer(self.hub, place.principal, text))
        wanted = read_text(arguments.get("name"))
        entry = self.tool(place, wanted) or self._missing(place, wanted)
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


def capabilities_of(upstream: Upstream | None, *, is_modern: bool) -> dict[str, Any]:
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


def _discover(upstream: Upstream | None, all_: Iterable[Upstream]) -> bytes:
    asked = all_ if upstream is None else (upstream,)
    is_later = any(u.link is not None and is_offered(u.link.facts.capabilities) for u in asked)
    later: dict[str, Any] = {"extensions": {EXTENSION: {}}} if is_later else {}
    result: dict[str, Any] = {
        "resultType": "complete",
        "supportedVersions": [MODERN],
        "capabilities": capabilities_of(upstream, is_modern=True) | later,
        "ttlMs": 0,
        "cacheScope": "private",
        "_meta": {SERVER_KEY: SERVER_INFO},
    }
    if upstream is not None and upstream.link is not None and upstream.link.facts.instructions:
        result["instructions"] = upstream.link.facts.instructions
    return encode(result)
