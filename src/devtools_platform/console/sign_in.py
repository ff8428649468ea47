"""Signing in at an identity provider: the two visits of a browser, and what must be the same at both.

What the second visit is checked against travels in a signed cookie of ten minutes, which the provider's redirect
brings back (`SameSite=Lax`); the session itself is `Strict`, and a browser that comes from elsewhere sends no such
cookie, so the last step is made by a page of ours.
"""

import secrets
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

import jwt
from fastapi import Request
from fastapi.responses import RedirectResponse, Response

from devtools_platform.console.access import Person
from devtools_platform.console.addresses import Addresses
from devtools_platform.console.gate import CALLBACK
from devtools_platform.console.interfaces import SignIn
from devtools_platform.console.oauth import refused
from devtools_platform.console.render import Renderer
from devtools_platform.console.roles import Roles
from devtools_platform.core.errors import DevToolsError

LIFETIME_S = 600
COOKIE = "dev_tools_sign_in"
AUDIENCE = "dev-tools-sign-in"
MAX_CODE = 4096

Enter = Callable[[Request, Person, str], Awaitable[Response]]
"""Starts a session and shows the page at a path."""


@dataclass(frozen=True)
class SignInDoors:
    """`/sign-in` and its callback."""

    provider: SignIn
    roles: Roles
    addresses: Addresses
    renderer: Renderer
    key: bytes
    enter: Enter

    async def begin(self, request: Request, back: str) -> Response:
        url, kept = await self.provider.begin(self._redirect_uri(request))
        state = secrets.token_urlsafe(24)
        claims = {**kept, "state": state, "back": back, "aud": AUDIENCE, "exp": int(time.time()) + LIFETIME_S}
        separator = "&" if "?" in url else "?"
        response = RedirectResponse(f"{url}{separator}state={state}", 303, headers={"Cache-Control": "no-store"})
        response.set_cookie(
            COOKIE,
            jwt.encode(claims, self.key, algorithm="HS256"),
            max_age=LIFETIME_S,
            path="/sign-in",
            secure=self.addresses.is_secure(request),
            httponly=True,
            samesite="lax",
        )
        return response

    async def finish(self, request: Request) -> Response:
        try:
            kept = self._read_kept(request)
            query = {name: value[:MAX_CODE] for name, value in request.query_params.items()}
            if not secrets.compare_digest(query.get("state", "").encode(), kept["state"].encode()):
                raise refused("it was not begun in this browser")
            if "error" in query or not query.get("code"):
                raise refused(f"the provider says {query.get('error', 'nothing')[:100]!r}")
            who = await self.provider.finish(self._redirect_uri(request), kept, query)
            response = await self.enter(request, self.roles.admit(who), kept["back"])
        except DevToolsError as error:
            response = self.renderer.error(error.status, str(error), error.hint)
        response.delete_cookie(COOKIE, path="/sign-in")
        return response

    def _redirect_uri(self, request: Request) -> str:
        return self.addresses.link(request, CALLBACK, "").rstrip("?")

    def _read_kept(self, request: Request) -> dict[str, str]:
        try:
            options = {"require": ["exp", "state", "back"]}
            cookie = request.cookies.get(COOKIE, "")
            return jwt.decode(cookie, self.key, algorithms=["HS256"], audience=AUDIENCE, options=options)  # type: ignore[arg-type]
        except jwt.InvalidTokenError:
            raise refused("it took longer than ten minutes, or was begun in another browser") from None
