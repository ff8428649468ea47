"""An OpenID provider that people sign in at, and GitHub's OAuth beside it: codes, PKCE, client secrets, and failures.

Whoever is sent to `/authorize` consents at once as `user`. A code works once, for its client, redirect URI and
verifier; what is wrong is answered as the RFCs say. `spoil` changes the claims of the next ID token.
"""

import base64
import hashlib
import secrets
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import parse_qsl, urlencode

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, RedirectResponse, Response
from starlette.routing import Route

from fakes.openid_provider import Provider
from fakes.service import FakeService

CLIENT, SECRET = "dev-tools", "s3cret/with+signs"


@dataclass
class LoginProvider(Provider):
    user: dict[str, Any] = field(
        default_factory=lambda: {"sub": "u-1", "email": "ann@example.org", "email_verified": True, "groups": ["dev"]}
    )
    spoil: dict[str, Any] = field(default_factory=dict[str, Any])
    codes: dict[str, dict[str, str]] = field(default_factory=dict[str, dict[str, str]])
    signs_with: str = "rsa-1"
    metadata_issuer: str | None = None

    def app(self) -> Starlette:
        return Starlette(routes=self.routes())

    def routes(self) -> list[Route]:
        return [
            Route("/.well-known/openid-configuration", self.metadata),
            Route("/keys", self.keys),
            Route("/authorize", self.authorize),
            Route("/token", self.exchange, methods=["POST"]),
            Route("/login/oauth/authorize", self.authorize),
            Route("/login/oauth/access_token", self.exchange_at_github, methods=["POST"]),
            *(Route(f"/user{path}", self.github_user) for path in ("", "/orgs", "/teams")),
        ]

    async def metadata(self, _: Request) -> Response:
        if self.is_away:
            return Response("out of order", status_code=503)
        places = {"authorization_endpoint": "authorize", "token_endpoint": "token", "jwks_uri": "keys"}
        found = {name: f"{self.url}/{path}" for name, path in places.items()}
        return JSONResponse({"issuer": self.metadata_issuer or self.url, **found})

    async def keys(self, _: Request) -> Response:
        return JSONResponse({"keys": [self.jwk(kid) for kid in sorted(self.published)]})

    async def authorize(self, request: Request) -> Response:
        asked = dict(request.query_params)
        assert asked["client_id"] == CLIENT
        assert asked["code_challenge_method"] == "S256"
        code = secrets.token_urlsafe(16)
        self.codes[code] = asked
        return RedirectResponse(f"{asked['redirect_uri']}?{urlencode({'code': code, 'state': asked['state']})}", 302)

    async def exchange(self, request: Request) -> Response:
        form = dict(parse_qsl((await request.body()).decode()))
        pair = base64.b64encode(f"{CLIENT}:s3cret%2Fwith%2Bsigns".encode()).decode()
        if request.headers.get("authorization") != f"Basic {pair}":
            return JSONResponse({"error": "invalid_client"}, 401)
        asked = self._redeem(form)
        if asked is None:
            return JSONResponse({"error": "invalid_grant"}, 400)
        claims = {**self.user, "aud": CLIENT, "nonce": asked["nonce"], "iat": 1_700_000_000, "scope": None}
        token = self.token(self.signs_with, **(claims | self.spoil))
        return JSONResponse({"access_token": "a", "token_type": "Bearer", "id_token": token})

    async def exchange_at_github(self, request: Request) -> Response:
        form = dict(parse_qsl((await request.body()).decode()))
        if form.get("client_secret") != SECRET or self._redeem(form) is None:
            return JSONResponse({"error": "bad_verification_code"})
        return JSONResponse({"access_token": "gho_1", "token_type": "bearer", "scope": "read:user,read:org"})

    async def github_user(self, request: Request) -> Response:
        if request.headers.get("authorization") != "Bearer gho_1":
            return JSONResponse({"message": "Bad credentials"}, 401)
        match request.url.path:
            case "/user/orgs":
                return JSONResponse([{"login": "acme"}])
            case "/user/teams":
                return JSONResponse([{"slug": "platform", "organization": {"login": "acme"}}])
            case _:
                return JSONResponse({"id": 7, "login": "ann"})

    def _redeem(self, form: dict[str, str]) -> dict[str, str] | None:
        asked = self.codes.pop(form.get("code", ""), None)
        proof = base64.urlsafe_b64encode(hashlib.sha256(form.get("code_verifier", "").encode()).digest()).decode()
        is_ours = asked is not None and asked["redirect_uri"] == form.get("redirect_uri")
        return asked if is_ours and asked["code_challenge"] == proof.rstrip("=") else None


class LoginService(FakeService):
    """The provider on a port of its own, for browsers."""

    def __init__(self) -> None:
        super().__init__()
        self.provider = LoginProvider(url=self.url)

    def routes(self) -> list[Route]:
        return self.provider.routes()
