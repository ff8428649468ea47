"""`/mcp` for all tools under prefixed names, `/mcp/SERVER` for one server as it is.

Who calls comes from the token, what is called from the body; headers that repeat the body must agree with it.
"""

import logging
from collections.abc import Callable, Mapping
from contextlib import suppress

from starlette.types import Receive, Scope, Send

from devtools_platform.core.errors import DevToolsError, Forbidden, NotFound, Unauthorized
from devtools_platform.gateway.front.answers import Answers, Place
from devtools_platform.gateway.front.exchange import id_or_none
from devtools_platform.gateway.front.http import host_of, read_body, read_headers, respond, status_of
from devtools_platform.gateway.front.legacy import LegacyDoor
from devtools_platform.gateway.front.modern import ModernDoor
from devtools_platform.gateway.front.resource import Resource, is_metadata
from devtools_platform.gateway.hub import Hub
from devtools_platform.gateway.mcp.messages import (
    INTERNAL_ERROR,
    LEGACY,
    MODERN,
    VERSION_KEY,
    Id,
    RpcError,
    encode,
    error_bytes,
    read_message,
    read_object,
    read_params,
)
from devtools_platform.gateway.principal import Principal
from devtools_platform.gateway.search import SearchMode

log = logging.getLogger(__name__)

LOCAL = frozenset({"localhost", "127.0.0.1", "::1"})
Verify = Callable[[bytes], Principal]
"""From the Authorization header to who it is. Raises `Unauthorized`."""


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
        answers = Answers(hub, search)
        self._modern, self._legacy = ModernDoor(answers), LegacyDoor(answers)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        headers: Mapping[bytes, bytes] = {}
        try:
            headers = read_headers(scope["headers"])
            self._check_origin(headers)
            if is_metadata(scope["path"]):
                await self._describe(scope["method"], headers, send)
                return
            principal = self.verify(headers.get(b"authorization", b""))
            place = self._place(scope["path"], principal)
            await self._serve(scope["method"], headers, place, receive, send)
        except RpcError as error:
            await respond(send, status_of(error), error_bytes(None, error))
        except DevToolsError as error:
            challenge = self.resource.challenge(headers) if self.resource is not None else b"Bearer"
            extra = [(b"www-authenticate", challenge)] if isinstance(error, Unauthorized) else []
            await respond(send, error.status, encode(error.to_dict()), extra)
        except Exception:
            log.exception("%s %s broke", scope["method"], scope["path"])
            broken = RpcError(INTERNAL_ERROR, "Something broke on our side; the log has the details.")
            with suppress(RuntimeError):  # the answer may have begun
                await respond(send, 500, error_bytes(None, broken))

    async def _describe(self, method: str, headers: Mapping[bytes, bytes], send: Send) -> None:
        """The one page without a token: where to get one."""
        if self.resource is None:
            raise NotFound("The gateway takes no tokens of others.", hint="See DEV_TOOLS_GATEWAY_OIDC_ISSUER.")
        if method != "GET":
            await respond(send, 405, b"", [(b"allow", b"GET")])
            return
        await respond(send, 200, self.resource.document(headers))

    def _check_origin(self, headers: Mapping[bytes, bytes]) -> None:
        """A page in a browser can have its own name resolve to us; then Host or Origin give it away."""
        host = host_of("//" + headers.get(b"host", b"").decode("latin-1"))
        if host not in self.hosts:
            raise Forbidden(f"The gateway is not known as {host!r}.", hint="Add the name to DEV_TOOLS_GATEWAY_HOSTS.")
        origin = headers.get(b"origin")
        if origin is not None and host_of(origin.decode("latin-1")) not in self.hosts:
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
            await self._post(headers, place, await read_body(headers, receive), receive, send)
        elif method == "GET":
            await self._legacy.open_stream(headers, place, receive, send)
        elif method == "DELETE":
            self._legacy.end(headers, place)
            await respond(send, 204, b"")
        else:
            await respond(send, 405, b"", [(b"allow", b"POST, GET, DELETE")])

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
                await self._modern.serve(headers, place, message, params, meta, receive, send)
            else:
                await self._legacy.serve(headers, place, message, params, meta, receive, send)
        except RpcError as error:
            await respond(send, status_of(error), error_bytes(id_, error))

    async def stop(self) -> None:
        await self._legacy.stop()
