"""The gateway's front door (:8000): MCP at `/mcp` for agents, REST for people and scripts.

MCP, health and metrics need no framework. REST does, and is loaded when it is first asked for: a gateway that only
agents call is spared 12 MB.
"""

import asyncio
import traceback
from collections.abc import AsyncGenerator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml
from starlette.types import ASGIApp, Receive, Scope, Send

from devtools_platform.core.errors import DevToolsError, Forbidden
from devtools_platform.gateway.audit import GENESIS, Audit, Line
from devtools_platform.gateway.front.endpoint import McpEndpoint
from devtools_platform.gateway.front.resource import Resource, is_metadata
from devtools_platform.gateway.hub import Hub
from devtools_platform.gateway.identity import Identity
from devtools_platform.gateway.principal import OPERATOR
from devtools_platform.gateway.search import SearchMode
from devtools_platform.gateway.secrecy import Secrets
from devtools_platform.gateway.service import Gateway
from devtools_platform.gateway.trust import ToolLock
from devtools_platform.gateway.types import Policy
from devtools_platform.kit.guard import (
    OPEN_PATHS,
    Guard,
    HealthCheck,
    answer_health,
    answer_metrics,
    error_response,
)

if TYPE_CHECKING:
    from fastapi import FastAPI


def load_policy() -> Policy:
    """The policy shipped with the gateway."""
    text = resources.files("devtools_platform.gateway").joinpath("policy.yaml").read_text()
    return Policy.model_validate(yaml.safe_load(text))


class NoAudit:
    """For a gateway without servers of others: calls of its own tools are recorded by `Gateway`."""

    async def last(self) -> tuple[int, str]:
        return 0, GENESIS

    async def append(self, lines: object) -> None:
        return

    async def read(self, after: int, limit: int) -> list[Line]:
        return []


class App:
    """`/mcp`, `/health` and `/metrics` as raw ASGI, everything else by `build_rest`."""

    def __init__(
        self,
        mcp: McpEndpoint,
        identity: Identity,
        *,
        token: str,
        health: HealthCheck,
        running: Callable[[], AbstractAsyncContextManager[None]],
        build_rest: "Callable[[], FastAPI]",
    ) -> None:
        self.mcp = mcp
        self.build_rest = build_rest
        self._identity = identity
        self._token = token
        self._health = health
        self._running = running
        self._open = Guard(self._answer_anybody, service="gateway", token=token, open_paths=OPEN_PATHS)
        self._rest: asyncio.Task[ASGIApp] | None = None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self._live(receive, send)
            return
        path: str = scope["path"]
        if path == "/mcp" or path.startswith("/mcp/") or is_metadata(path):
            await self.mcp(scope, receive, send)
        elif path in OPEN_PATHS and scope["method"] == "GET":
            await self._open(scope, receive, send)
        else:
            try:
                scope = self._as_principal(scope)
            except DevToolsError as error:
                await error_response(error)(scope, receive, send)
                return
            await (await self._load_rest())(scope, receive, send)

    async def _answer_anybody(self, scope: Scope, receive: Receive, send: Send) -> None:
        is_health = scope["path"] == "/health"
        answer = await answer_health("gateway", self._health) if is_health else answer_metrics("gateway")
        await answer(scope, receive, send)

    async def _load_rest(self) -> ASGIApp:
        """In a thread: it takes a third of a second, in which calls go on."""
        if self._rest is None:
            self._rest = asyncio.create_task(asyncio.to_thread(self.build_rest))
        return await asyncio.shield(self._rest)

    async def _live(self, receive: Receive, send: Send) -> None:
        """ASGI's lifespan protocol around `running`."""
        phase = "startup"
        await receive()
        try:
            async with self._running():
                await send({"type": "lifespan.startup.complete"})
                phase = "shutdown"
                await receive()
        except BaseException:
            await send({"type": f"lifespan.{phase}.failed", "message": traceback.format_exc()})
            raise
        await send({"type": "lifespan.shutdown.complete"})

    def _as_principal(self, scope: Scope) -> Scope:
        """A named token opens what concerns tools; behind it the request goes on with the stack's token."""
        given = dict(scope["headers"]).get(b"authorization", b"")
        if not self._identity.is_for_tools(given):
            return scope
        principal = self._identity.verify(given)
        if scope["path"].split("/")[1] not in {"tools", "servers", "health"} or "/approve" in scope["path"]:
            raise Forbidden(
                f"The token {principal.name!r} is for tools; {scope['path'][:100]!r} needs the stack's own token.",
                hint="The stack's token is in the file `token` of its data directory.",
            )
        headers = [(k, v) for k, v in scope["headers"] if k != b"authorization"]
        headers.append((b"authorization", f"Bearer {self._token}".encode()))
        return {**scope, "headers": headers, "devtools.principal": principal}


def build_api(
    gateway: Gateway,
    *,
    token: str,
    secret: str,
    hub: Hub | None = None,
    identity: Identity | None = None,
    hosts: frozenset[str] = frozenset(),
    search: SearchMode | None = None,
) -> App:
    """`token` opens the REST side; `secret` verifies the run tokens that open `/mcp`.

    Without a `hub` the gateway has no tools but its own.
    """
    if hub is None:
        audit, lock = Audit(NoAudit()), ToolLock(Path("mcp.lock"))
        hub = Hub(gateway, [], lock=lock, audit=audit, secrecy=Secrets((token, secret)), key=secret)
    identity = identity or Identity(secret)
    search = search or SearchMode()
    oidc = identity.oidc
    resource = Resource(oidc.trust.issuer, oidc.trust.audience) if oidc is not None else None
    mcp = McpEndpoint(hub, identity.verify, hosts=hosts, search=search, resource=resource)

    async def health() -> dict[str, Any]:
        servers = {name: hub.offer.facts_of(upstream) for name, upstream in hub.offer.upstreams.items()}
        return {"servers": len(gateway.servers) + len(servers), "tools": len(hub.offer.entries()), "upstreams": servers}

    def prepare_search() -> None:
        if search.is_on(hub, OPERATOR, None):
            search.prepare(hub)

    @asynccontextmanager
    async def running() -> AsyncGenerator[None]:
        await identity.load()
        hub.offer.listeners.add(prepare_search)
        if oidc is not None:
            oidc.start()
        await hub.start()
        try:
            yield
        finally:
            await mcp.stop()
            await hub.stop()
            if search.meanings is not None:
                await search.meanings.stop()
            if oidc is not None:
                await oidc.stop()

    def build_rest() -> "FastAPI":
        from devtools_platform.gateway import rest

        return rest.build_rest(gateway, hub, search, identity, token=token, health=health)

    return App(mcp, identity, token=token, health=health, running=running, build_rest=build_rest)
