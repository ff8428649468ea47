"""An authorization server and an MCP server it protects, both real and on a socket. It verifies everything.

PKCE, client, redirect address, resource, rotation of refresh tokens: a client that gets any of it wrong is refused.
The fields of `Issuer` and `Protected` make them fail in the ways real ones do.
"""

import base64
import hashlib
import json
import secrets
import socket
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from typing import Any
from urllib.parse import parse_qsl, urlencode

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, RedirectResponse, Response
from starlette.routing import Route

from devtools_platform.app.serving import Serving

DOCUMENT = "https://tools.example.org/client.json"


@dataclass(frozen=True)
class Grant:
    client_id: str
    scope: str
    resource: str
    family: str
    expires_at: float
    challenge: str = ""
    redirect_uri: str = ""


@dataclass
class Issuer:
    url: str = ""
    lifetime_s: int = 3600
    iss: str | None = "right"
    """What the browser brings back: `right`, another text, or nothing."""
    says_iss: bool = True
    has_s256: bool = True
    claims_to_be: str | None = None
    takes_documents: bool = False
    takes_registrations: bool = True
    refresh_error: str | None = None
    token_redirect: str | None = None
    padding: str = ""
    clients: dict[str, dict[str, Any]] = field(default_factory=dict[str, dict[str, Any]])
    codes: dict[str, Grant] = field(default_factory=dict[str, Grant])
    access: dict[str, Grant] = field(default_factory=dict[str, Grant])
    refresh: dict[str, Grant] = field(default_factory=dict[str, Grant])
    used: dict[str, str] = field(default_factory=dict[str, str])
    """Refresh tokens that were used up, and their family."""
    seen: list[tuple[str, dict[str, str]]] = field(default_factory=list[tuple[str, dict[str, str]]])
    """What was posted: the endpoint and the fields, with the Authorization header among them."""

    def count(self, grant_type: str) -> int:
        return sum(fields.get("grant_type") == grant_type for _, fields in self.seen)

    def metadata(self, _: Request) -> Response:
        body: dict[str, Any] = {
            "issuer": self.claims_to_be or self.url,
            "authorization_endpoint": f"{self.url}/authorize",
            "token_endpoint": f"{self.url}/token",
            "revocation_endpoint": f"{self.url}/revoke",
            "client_id_metadata_document_supported": self.takes_documents,
            "authorization_response_iss_parameter_supported": self.says_iss,
            "padding": self.padding,
        }
        if self.takes_registrations:
            body["registration_endpoint"] = f"{self.url}/register"
        if self.has_s256:
            body["code_challenge_methods_supported"] = ["S256"]
        return JSONResponse(body)

    async def register(self, request: Request) -> Response:
        wish = await request.json()
        client_id = f"client-{len(self.clients)}"
        self.clients[client_id] = {**wish, "client_id": client_id, "token_endpoint_auth_method": "none"}
        return JSONResponse(self.clients[client_id], status_code=201)

    def authorize(self, request: Request) -> Response:
        asked = dict(request.query_params)
        client = self._client(asked.get("client_id", ""))
        if client is None or asked.get("redirect_uri") not in client["redirect_uris"]:
            return Response("no such client, or another address", status_code=400)
        lacks = [name for name in ("state", "code_challenge", "resource") if not asked.get(name)]
        if lacks or asked.get("code_challenge_method") != "S256" or asked.get("response_type") != "code":
            return Response(f"lacks {lacks}", status_code=400)
        code = secrets.token_urlsafe(16)
        self.codes[code] = Grant(
            asked["client_id"], asked.get("scope", ""), asked["resource"], secrets.token_hex(4), time.time() + 60,
            asked["code_challenge"], asked["redirect_uri"],
        )  # fmt: skip
        back = {"code": code, "state": asked["state"]}
        if self.iss is not None:
            back["iss"] = self.url if self.iss == "right" else self.iss
        return RedirectResponse(f"{asked['redirect_uri']}?{urlencode(back)}", status_code=302)

    async def token(self, request: Request) -> Response:
        if self.token_redirect is not None:
            return RedirectResponse(self.token_redirect, status_code=307)
        fields = dict(parse_qsl((await request.body()).decode()))
        self.seen.append(("token", {**fields, "authorization": request.headers.get("authorization", "")}))
        if not self._is_client(fields, request.headers.get("authorization", "")):
            return _error("invalid_client", 401)
        if fields.get("grant_type") == "authorization_code":
            return self._exchange(fields)
        if self.refresh_error is not None:
            return _error(self.refresh_error, 503 if self.refresh_error == "busy" else 400)
        return self._renew(fields)

    def _exchange(self, fields: dict[str, str]) -> Response:
        grant = self.codes.pop(fields.get("code", ""), None)
        verifier = hashlib.sha256(fields.get("code_verifier", "").encode()).digest()
        challenge = base64.urlsafe_b64encode(verifier).decode().rstrip("=")
        asked = (fields.get("client_id"), fields.get("redirect_uri"), fields.get("resource"), challenge)
        if grant is None or asked != (grant.client_id, grant.redirect_uri, grant.resource, grant.challenge):
            return _error("invalid_grant")
        return self._give(grant)

    def _renew(self, fields: dict[str, str]) -> Response:
        value = fields.get("refresh_token", "")
        if (family := self.used.get(value)) is not None:  # stolen, by its holder or by somebody else: end them all
            self.refresh = {token: grant for token, grant in self.refresh.items() if grant.family != family}
            self.access = {token: grant for token, grant in self.access.items() if grant.family != family}
            return _error("invalid_grant")
        grant = self.refresh.pop(value, None)
        if grant is None or (fields.get("client_id"), fields.get("resource")) != (grant.client_id, grant.resource):
            return _error("invalid_grant")
        self.used[value] = grant.family
        return self._give(grant)

    def _give(self, grant: Grant) -> Response:
        access, refresh = f"access-{secrets.token_urlsafe(24)}", f"refresh-{secrets.token_urlsafe(24)}"
        self.access[access] = replace(grant, expires_at=time.time() + self.lifetime_s)
        self.refresh[refresh] = grant
        return JSONResponse(
            {
                "access_token": access,
                "token_type": "bearer",
                "expires_in": self.lifetime_s,
                "refresh_token": refresh,
                "scope": grant.scope,
            }
        )

    async def revoke(self, request: Request) -> Response:
        fields = dict(parse_qsl((await request.body()).decode()))
        self.seen.append(("revoke", fields))
        grant = self.refresh.pop(fields.get("token", ""), None)
        if grant is not None:
            self.access = {token: held for token, held in self.access.items() if held.family != grant.family}
        return Response()

    def _client(self, client_id: str) -> dict[str, Any] | None:
        if self.takes_documents and client_id == DOCUMENT:
            return {"redirect_uris": _AnyLoopback(), "token_endpoint_auth_method": "none"}
        return self.clients.get(client_id)

    def _is_client(self, fields: dict[str, str], header: str) -> bool:
        client = self._client(fields.get("client_id", ""))
        if client is None:
            return False
        if (secret := client.get("client_secret")) is None:
            return not header
        wanted = base64.b64encode(f"{fields['client_id']}:{secret}".encode()).decode()
        return header == f"Basic {wanted}"

    def app(self) -> Starlette:
        async def refuse(_: Request) -> Response:
            return _error("access_denied", 403)

        async def register(request: Request) -> Response:
            return await (self.register if self.takes_registrations else refuse)(request)

        return Starlette(
            routes=[
                Route("/.well-known/oauth-authorization-server", self.metadata),
                Route("/register", register, methods=["POST"]),
                Route("/authorize", self.authorize),
                Route("/token", self.token, methods=["POST"]),
                Route("/revoke", self.revoke, methods=["POST"]),
            ]
        )


class _AnyLoopback:
    """RFC 8252: of a loopback address the port is free."""

    def __contains__(self, uri: object) -> bool:
        return str(uri).startswith("http://127.0.0.1:")


@dataclass
class Protected:
    """An MCP server of the stateless revision that wants a token of its issuer, made for it."""

    issuer: Issuer
    url: str = ""
    claims_to_be: str | None = None
    wanted_scope: str = "read"
    refused: int = 0
    """Requests with a token that was not good."""

    def resource(self, _: Request) -> Response:
        return JSONResponse({"resource": self.claims_to_be or self.url, "authorization_servers": [self.issuer.url]})

    async def mcp(self, request: Request) -> Response:
        token = request.headers.get("authorization", "").removeprefix("Bearer ")
        grant = self.issuer.access.get(token)
        place = self.url.replace("/mcp", "/.well-known/oauth-protected-resource/mcp")
        if grant is None or grant.expires_at < time.time() or grant.resource != self.url:
            self.refused += bool(token)
            challenge = f'Bearer resource_metadata="{place}", scope="{self.wanted_scope}"'
            return JSONResponse({"error": "invalid_token"}, 401, {"WWW-Authenticate": challenge})
        body = await request.json()
        name = body.get("params", {}).get("name")
        if name == "write" and "write" not in grant.scope.split():
            challenge = f'Bearer error="insufficient_scope", scope="write", resource_metadata="{place}"'
            return JSONResponse({"error": "insufficient_scope"}, 403, {"WWW-Authenticate": challenge})
        if name == "leak_error":
            error = {"code": -32000, "message": f"You sent {token}", "data": {"you": token}}
            return JSONResponse({"jsonrpc": "2.0", "id": body["id"], "error": error})
        answer = {"jsonrpc": "2.0", "id": body["id"], "result": _result(body["method"], token)}
        return JSONResponse(answer)

    def app(self) -> Starlette:
        return Starlette(
            routes=[
                Route("/.well-known/oauth-protected-resource/mcp", self.resource),
                Route("/mcp", self.mcp, methods=["POST"]),
            ]
        )


def _result(method: str, token: str) -> dict[str, Any]:
    if method == "server/discover":
        return {
            "resultType": "complete",
            "supportedVersions": ["2026-07-28"],
            "capabilities": {"tools": {}},
            "ttlMs": 0,
            "cacheScope": "private",
        }
    if method == "tools/list":
        tools = [{"name": name, "inputSchema": {"type": "object"}} for name in ("hello", "write", "leak", "leak_error")]
        return {"resultType": "complete", "tools": tools, "ttlMs": 0, "cacheScope": "private"}
    text = json.dumps({"you sent": token}) if method == "tools/call" else ""
    return {"resultType": "complete", "content": [{"type": "text", "text": text}], "isError": False}


def _error(code: str, status: int = 400) -> Response:
    return JSONResponse({"error": code, "error_description": f"The fake says {code}."}, status_code=status)


@asynccontextmanager
async def served(make: Callable[[str], Any]) -> AsyncIterator[str]:
    """Serve `make(url)` on a free port; yields the URL."""
    serving = Serving()
    sock = socket.create_server(("127.0.0.1", 0))
    sock.setblocking(False)
    url = f"http://127.0.0.1:{sock.getsockname()[1]}"
    await serving.serve(make(url), sock)
    try:
        yield url
    finally:
        await serving.stop()
        sock.close()


@asynccontextmanager
async def protected_server(issuer: Issuer | None = None) -> AsyncIterator[Protected]:
    """An issuer and a server it protects. Its `url` is the MCP endpoint."""
    issuer = issuer or Issuer()
    server = Protected(issuer)

    def make_server(url: str) -> Starlette:
        server.url = f"{url}/mcp"
        return server.app()

    async with issued(issuer), served(make_server):
        yield server


@asynccontextmanager
async def issued(issuer: Issuer) -> AsyncIterator[Issuer]:
    def make(url: str) -> Starlette:
        issuer.url = url
        return issuer.app()

    async with served(make):
        yield issuer
