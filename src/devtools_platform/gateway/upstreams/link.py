"""A connection to one MCP server, of either era, over either transport: what the upstream needs of it."""

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

import msgspec
from msgspec import Raw

from devtools_platform.gateway.mcp.exchange import Call, Client, Exchange
from devtools_platform.gateway.mcp.messages import (
    INVALID_PARAMS,
    LEGACY,
    LOG_LEVEL_KEY,
    MODERN,
    SERVER_KEY,
    Params,
    RpcError,
    decode,
    raw,
    read_object,
    read_text,
)

Era = Literal["modern", "legacy"]
Event = Callable[[str, Params, str | None], None]
"""Called with the method and params of a notification nobody's request caused, and the owner of its session."""

LIST_CHANGED = frozenset(f"notifications/{kind}/list_changed" for kind in ("tools", "prompts", "resources"))
RESOURCE_UPDATED = "notifications/resources/updated"
MAX_PAGES = 50


class LinkDown(Exception):
    """The server cannot be reached or has gone. Says whether the call may have had its effect."""

    def __init__(
        self,
        reason: str,
        *,
        may_have_run: bool = False,
        is_fault: bool = True,
        is_final: bool = False,
        wake: Callable[[], Awaitable[None]] | None = None,
    ) -> None:
        super().__init__(reason)
        self.reason = reason
        self.may_have_run = may_have_run
        self.is_fault = is_fault
        """Whether it counts against the server's health: one oversized answer does not."""
        self.is_final = is_final
        """Whether one such failure is enough to call the server down: nobody listens there."""
        self.wake = wake
        """Returns when something has happened that makes trying again at once worth it."""


@dataclass(frozen=True)
class ServerFacts:
    """What a server said of itself when we met."""

    era: Era
    version: str
    capabilities: Mapping[str, Any] = field(default_factory=dict[str, Any])
    name: str = ""
    release: str = ""
    instructions: str | None = None


class Link(Protocol):
    @property
    def facts(self) -> ServerFacts: ...

    async def request(self, call: Call, exchange: Exchange) -> Raw:
        """The result as it came. Raises `RpcError` (the server's answer) or `LinkDown`."""
        ...

    async def listen(self, client: Client, uris: tuple[str, ...] = ()) -> None:
        """Let events flow for as long as this runs; returns at once where they flow anyway."""
        ...

    async def close(self) -> None: ...


def facts_from_discover(result: Raw) -> ServerFacts:
    body = _object(result)
    if MODERN not in body.get("supportedVersions", ()):
        raise LinkDown(f"It speaks {body.get('supportedVersions')!r}, and we {MODERN} and {', '.join(LEGACY)}.")
    info: Any = body.get("_meta", {}).get(SERVER_KEY) or body.get("serverInfo") or {}
    return _facts("modern", MODERN, body, info)


def facts_from_initialize(result: Raw) -> ServerFacts:
    body = _object(result)
    version = str(body.get("protocolVersion"))
    if version not in LEGACY:
        raise LinkDown(f"It speaks {version!r}, and we {MODERN} and {', '.join(LEGACY)}.")
    return _facts("legacy", version, body, body.get("serverInfo") or {})


def _facts(era: Era, version: str, body: Mapping[str, Any], info: Any) -> ServerFacts:
    capabilities = body.get("capabilities")
    if not isinstance(capabilities, dict) or not isinstance(info, dict):
        raise LinkDown("Its greeting cannot be read.")
    name, release = str(info.get("name", "")), str(info.get("version", ""))  # pyright: ignore[reportUnknownArgumentType, reportUnknownMemberType]
    instructions = body.get("instructions")
    text = instructions if isinstance(instructions, str) else None
    return ServerFacts(era, version, capabilities, name[:200], release[:200], text)  # pyright: ignore[reportUnknownArgumentType]


def _object(result: Raw) -> dict[str, Any]:
    try:
        body = decode(result)
    except (msgspec.MsgspecError, RecursionError):
        body = None
    if not isinstance(body, dict):
        raise LinkDown("Its greeting cannot be read.")
    return body  # pyright: ignore[reportUnknownVariableType]


def modern_params(call: Call, client: Client) -> Params:
    """The parameters of a stateless request: the call's own and the envelope that says for whom it is."""
    meta = {**call.meta, **client.envelope()}
    if client.log_level is not None:
        meta[LOG_LEVEL_KEY] = raw(client.log_level)
    return {**call.params, "_meta": raw(meta)}


def legacy_params(call: Call) -> Params:
    """The parameters for a server with a handshake, which knows no envelope and no second round."""
    params = {k: v for k, v in call.params.items() if k not in {"inputResponses", "requestState"}}
    return {**params, "_meta": raw(call.meta)} if call.meta else params


def pass_on(method: str, params: Params, exchange: Exchange, token: Raw | None) -> None:
    """Hand a notification of a call to its client, if it is one a call may send and the client wants it."""
    if method == "notifications/progress":
        if token is not None:
            exchange.notify(method, {**params, "progressToken": token})
    elif method == "notifications/message" and exchange.client.wants_log(read_text(params.get("level"))):
        exchange.notify(method, params)


ASKABLE = {"sampling/createMessage": "sampling", "elicitation/create": "elicitation", "roots/list": "roots"}


async def answer(method: str, params: Params, exchange: Exchange) -> Raw:
    """The client's answer to a server's question. Raises `RpcError` when it may not be asked."""
    if method == "ping":
        return raw({})
    needs = ASKABLE.get(method)
    if needs is None:
        raise RpcError(-32601, f"The gateway does not pass {method!r} on.")
    if needs not in read_object(exchange.client.capabilities):
        raise RpcError(INVALID_PARAMS, f"The client has not declared the capability {needs!r}.")
    return await exchange.ask(method, params)
