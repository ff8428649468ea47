"""Signing in at an OpenID provider: discovery, the code flow with PKCE, and an ID token that is checked in full.

Everything the provider says is hostile until its signature, issuer, audience, time and nonce hold. What must come
back unchanged travels in a signed cookie (`console.sign_in`), so that nothing is kept here between the two visits.
"""

import base64
import secrets
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, cast
from urllib.parse import quote, urlencode

import httpx2
import jwt

from devtools_platform.console.oauth import MAX_GROUPS, MAX_TEXT, Fetch, challenge_of, read_json, refused
from devtools_platform.console.roles import Identified
from devtools_platform.core.errors import Unavailable

ALGORITHMS = ("RS256", "PS256", "ES256", "EdDSA")
"""Public keys only: a token signed with a shared secret could be made by whoever verifies it."""
LEEWAY_S = 30


@dataclass(frozen=True)
class OpenIdClient:
    """What the provider knows us by."""

    issuer: str
    client_id: str
    client_secret: str | None
    """None for a public client: PKCE alone proves that the code is ours."""
    scopes: str = "openid email profile"
    groups_claim: str = "groups"


@dataclass(frozen=True)
class OpenId:
    """The console's `SignIn`."""

    client: OpenIdClient
    fetch: Fetch

    @property
    def label(self) -> str:
        return httpx2.URL(self.client.issuer).host

    async def begin(self, redirect_uri: str) -> tuple[str, Mapping[str, str]]:
        place = await self._endpoint("authorization_endpoint")
        kept = {"nonce": secrets.token_urlsafe(24), "verifier": secrets.token_urlsafe(48)}
        query = {
            "response_type": "code",
            "client_id": self.client.client_id,
            "redirect_uri": redirect_uri,
            "scope": self.client.scopes,
            "nonce": kept["nonce"],
            "code_challenge": challenge_of(kept["verifier"]),
            "code_challenge_method": "S256",
        }
        return f"{place}{'&' if '?' in place else '?'}{urlencode(query)}", kept

    async def finish(self, redirect_uri: str, kept: Mapping[str, str], query: Mapping[str, str]) -> Identified:
        if query.get("iss", self.client.issuer) != self.client.issuer:  # RFC 9207: another provider's answer
            raise refused("the answer is another provider's")
        claims = await self._claims(await self._exchange(redirect_uri, kept["verifier"], query["code"]))
        if not secrets.compare_digest(str(claims.get("nonce", "")), kept["nonce"]):
            raise refused("it was made for another sign-in")
        email = claims.get("email") if claims.get("email_verified") is True else None
        groups = claims.get(self.client.groups_claim)
        listed = cast("list[Any]", groups) if isinstance(groups, list) else []
        return Identified(
            claims["sub"][:MAX_TEXT],
            email[:MAX_TEXT] if isinstance(email, str) and email else None,
            tuple(g for g in listed if isinstance(g, str) and len(g) <= MAX_TEXT)[:MAX_GROUPS],
        )

    async def _exchange(self, redirect_uri: str, verifier: str, code: str) -> str:
        """The ID token for a code."""
        form = {"grant_type": "authorization_code", "code": code, "redirect_uri": redirect_uri}
        form["code_verifier"] = verifier
        headers = {"accept": "application/json", "content-type": "application/x-www-form-urlencoded"}
        metadata = await self._metadata()
        methods = metadata.get("token_endpoint_auth_methods_supported") or ["client_secret_basic"]
        id_, secret = self.client.client_id, self.client.client_secret
        if secret is not None and "client_secret_basic" in methods:
            pair = f"{quote(id_, safe='')}:{quote(secret, safe='')}"
            headers["authorization"] = f"Basic {base64.b64encode(pair.encode()).decode()}"
        else:
            form |= {"client_id": id_} | ({} if secret is None else {"client_secret": secret})
        place = await self._endpoint("token_endpoint")
        answer = await self._send("POST", place, headers, urlencode(form).encode())
        if not isinstance(answer.get("id_token"), str):
            raise refused("the provider gave no ID token")
        return answer["id_token"]

    async def _claims(self, token: str) -> dict[str, Any]:
        keys = (await self._send("GET", await self._endpoint("jwks_uri"))).get("keys")
        try:
            header = jwt.get_unverified_header(token)
            key = _choose_key(keys, header)
            claims: dict[str, Any] = jwt.decode(
                token,
                key,
                algorithms=list(ALGORITHMS),
                audience=self.client.client_id,
                issuer=self.client.issuer,
                leeway=LEEWAY_S,
                options={"require": ["exp", "iat", "iss", "aud", "sub"]},
            )
        except jwt.PyJWTError as error:
            raise refused(str(error)) from None
        if isinstance(claims["aud"], list) and claims.get("azp") != self.client.client_id:
            raise refused("it was made for another client")
        return claims

    async def _endpoint(self, name: str) -> str:
        found = (await self._metadata()).get(name)
        if not isinstance(found, str):
            raise Unavailable(f"{self.client.issuer} names no {name}.", hint="Check DEV_TOOLS_CONSOLE_OIDC_ISSUER.")
        return found

    async def _metadata(self) -> dict[str, Any]:
        found = await self._send("GET", f"{self.client.issuer.rstrip('/')}/.well-known/openid-configuration")
        if found.get("issuer") != self.client.issuer:
            raise Unavailable(
                f"The metadata of {self.client.issuer} is of {found.get('issuer')!r}.",
                hint="DEV_TOOLS_CONSOLE_OIDC_ISSUER must be exactly what the provider calls itself.",
            )
        return found

    async def _send(
        self, method: str, url: str, headers: Mapping[str, str] | None = None, body: bytes | None = None
    ) -> dict[str, Any]:
        request = httpx2.Request(method, url, headers=headers or {"accept": "application/json"}, content=body)
        return read_json(await self.fetch(request), self.label)


def _choose_key(keys: Any, header: Mapping[str, Any]) -> jwt.PyJWK:
    given = cast("list[Any]", keys) if isinstance(keys, list) else []
    objects = [cast("dict[str, Any]", key) for key in given if isinstance(key, dict)]
    public = [key for key in objects if key.get("kty") in {"RSA", "EC", "OKP"}]
    fitting = [key for key in public if key.get("use", "sig") == "sig" and header.get("kid") in {None, key.get("kid")}]
    if header.get("alg") not in ALGORITHMS or len(fitting) != 1:
        raise jwt.InvalidTokenError("it is signed with a key the provider does not name")
    return jwt.PyJWK(fitting[0], header["alg"])
