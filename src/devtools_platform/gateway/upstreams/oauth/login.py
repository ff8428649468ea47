"""A person signs in at a server: the address to open in a browser, and what comes back from there.

Nothing here opens anything. The authorization code with PKCE, `state` and RFC 9207's `iss`.
"""

import hmac
import secrets
import time
from collections.abc import Mapping
from dataclasses import dataclass
from urllib.parse import urlencode

from mcp.client.auth import OAuthFlowError
from mcp.client.auth.oauth2 import PKCEParameters
from mcp.client.auth.utils import union_scopes, validate_authorization_response_iss
from mcp.shared.auth import OAuthClientInformationFull

from devtools_platform.gateway.upstreams.fetch import Fetch
from devtools_platform.gateway.upstreams.oauth.clients import KnownClient, choose_client
from devtools_platform.gateway.upstreams.oauth.discovery import Origin, discover
from devtools_platform.gateway.upstreams.oauth.tokens import plain, request_token, with_token
from devtools_platform.gateway.upstreams.oauth.types import Credential, SignInFailed, Vault


@dataclass(frozen=True)
class Login:
    """One attempt. Made by `begin_login`, ended by `finish`; its secrets live in this process only."""

    server: str
    url: str
    origin: Origin
    client: OAuthClientInformationFull
    redirect_uri: str
    scope: str | None
    state: str
    pkce: PKCEParameters
    has_fixed_client: bool

    @property
    def authorization_url(self) -> str:
        endpoint = str(self.origin.metadata.authorization_endpoint)
        fields = {
            "response_type": "code",
            "client_id": self.client.client_id,
            "redirect_uri": self.redirect_uri,
            "state": self.state,
            "code_challenge": self.pkce.code_challenge,
            "code_challenge_method": "S256",
            "resource": self.origin.resource,
        }
        if self.scope:
            fields["scope"] = self.scope
            if "offline_access" in self.scope.split():
                fields["prompt"] = "consent"  # OpenID Connect asks for it, or gives no refresh token
        return f"{endpoint}{'&' if '?' in endpoint else '?'}{urlencode(fields)}"

    def is_ours(self, answer: Mapping[str, str]) -> bool:
        """Whether an answer belongs to this attempt. Others must not even end it."""
        return hmac.compare_digest(answer.get("state", "").encode(), self.state.encode())

    async def finish(self, fetch: Fetch, answer: Mapping[str, str]) -> Credential:
        """The sign-in, from the parameters the browser came back with. Raises `SignInFailed`, `Unavailable`."""
        code = self._code(answer)
        fields = {
            "grant_type": "authorization_code",
            "code": code,
            "redirect_uri": self.redirect_uri,
            "client_id": self.client.client_id,
            "code_verifier": self.pkce.code_verifier,
            "resource": self.origin.resource,
        }
        metadata = self.origin.metadata
        token = await request_token(fetch, str(metadata.token_endpoint), self.client, fields)
        hidden = {"client_secret": None} if self.has_fixed_client else {}
        revocation = metadata.revocation_endpoint
        credential = Credential(
            server=self.server,
            url=self.url,
            issuer=self.origin.issuer,
            token_endpoint=str(metadata.token_endpoint),
            revocation_endpoint=str(revocation) if revocation is not None else None,
            resource=self.origin.resource,
            client=self.client.model_copy(update=hidden),
            scope=self.scope,
            saved_at=time.time(),
        )
        return with_token(credential, token)

    def _code(self, answer: Mapping[str, str]) -> str:
        if not self.is_ours(answer):
            raise SignInFailed("The answer's `state` is not ours: it belongs to another attempt.", hint="Begin anew.")
        try:
            validate_authorization_response_iss(answer.get("iss"), self.origin.metadata)
        except OAuthFlowError as error:
            raise SignInFailed(
                f"{plain(str(error))}.", hint="Another issuer has answered; its code was sent nowhere."
            ) from None
        if error := answer.get("error"):
            words = plain(answer.get("error_description"))
            raise SignInFailed(f"{self.origin.issuer} says {plain(error)}{f': {words}' if words else ''}.")
        if not (code := answer.get("code")):
            raise SignInFailed(f"{self.origin.issuer} sent no code.")
        return code


async def begin_login(
    fetch: Fetch,
    vault: Vault,
    server: str,
    url: str,
    known: KnownClient,
    *,
    redirect_uri: str,
    issuer: str | None = None,
    scopes: tuple[str, ...] = (),
    more_scopes: tuple[str, ...] = (),
) -> Login:
    """`scopes` instead of what the server asks for; `more_scopes` beside what was granted before.

    Raises `SignInFailed`, `Unavailable`, `Forbidden`.
    """
    origin = await discover(fetch, url, issuer=issuer)
    stored = vault.find(server, origin.issuer)
    client = await choose_client(fetch, origin, known, stored, redirect_uri)
    scope = " ".join(scopes) or origin.scope
    if more_scopes:
        granted = stored.scope if stored is not None else None
        scope = union_scopes(union_scopes(granted, scope), " ".join(more_scopes))
    return Login(
        server,
        url,
        origin,
        client,
        redirect_uri,
        scope,
        secrets.token_urlsafe(32),
        PKCEParameters.generate(),
        known.client_id is not None,
    )
