"""The token endpoint: a code for a token, a refresh token for a new one, and the end of both.

What it answers is a stranger's text: of an error only its code and a short description are kept.
"""

import time
from collections.abc import Mapping

import httpx2
from mcp.client.auth.oauth2 import OAuthContext
from mcp.shared.auth import OAuthClientInformationFull, OAuthClientMetadata, OAuthToken
from pydantic import AnyUrl, ValidationError

from devtools_platform.core.errors import DevToolsError, Unavailable
from devtools_platform.core.redact import redact_text
from devtools_platform.gateway.mcp.messages import decode
from devtools_platform.gateway.upstreams.fetch import Fetch
from devtools_platform.gateway.upstreams.oauth.types import Credential, SignInEnded, SignInFailed

ENDED = frozenset({"invalid_grant", "invalid_client", "unauthorized_client", "invalid_scope", "invalid_target"})
"""Errors that trying again does not mend."""
SERVER_ERROR = 500
TOO_MANY = 429


class _NoStorage:
    """The SDK's context wants one; ours keeps its own."""

    async def get_tokens(self) -> OAuthToken | None:
        return None

    async def set_tokens(self, tokens: OAuthToken) -> None: ...

    async def get_client_info(self) -> OAuthClientInformationFull | None:
        return None

    async def set_client_info(self, client_info: OAuthClientInformationFull) -> None: ...


async def request_token(
    fetch: Fetch, endpoint: str, client: OAuthClientInformationFull, fields: Mapping[str, str]
) -> OAuthToken:
    """Raises `SignInEnded` when it never will be given, `Unavailable` when it may be later, else `SignInFailed`."""
    answer = await fetch(_signed(endpoint, client, fields))
    if answer.status_code not in {200, 201}:
        raise _refusal(endpoint, answer)
    try:
        return OAuthToken.model_validate_json(answer.content)
    except ValidationError:
        raise SignInFailed(f"{endpoint} answered with something that is no bearer token.") from None


async def refresh(fetch: Fetch, credential: Credential, client: OAuthClientInformationFull) -> Credential:
    """The same sign-in with a new token; goes to the endpoint of the issuer it came from, and nowhere else."""
    old = credential.token
    if old is None or old.refresh_token is None:
        raise SignInFailed("The sign-in counts no longer, and there is nothing to renew it with.")
    fields = {
        "grant_type": "refresh_token",
        "refresh_token": old.refresh_token,
        "client_id": client.client_id,
        "resource": credential.resource,
    }
    token = await request_token(fetch, credential.token_endpoint, client, fields)
    token.refresh_token = token.refresh_token or old.refresh_token
    return with_token(credential, token)


def with_token(credential: Credential, token: OAuthToken) -> Credential:
    now = time.time()
    return credential.model_copy(
        update={
            "token": token,
            "scope": token.scope or credential.scope,
            "expires_at": None if token.expires_in is None else now + token.expires_in,
            "saved_at": now,
        }
    )


async def revoke(fetch: Fetch, credential: Credential, client: OAuthClientInformationFull) -> bool:
    """Tell the issuer that the sign-in is over (RFC 7009). False when it cannot be told."""
    if credential.revocation_endpoint is None or credential.token is None:
        return False
    value = credential.token.refresh_token or credential.token.access_token
    fields = {"token": value, "client_id": client.client_id}
    try:
        answer = await fetch(_signed(credential.revocation_endpoint, client, fields))
    except DevToolsError:
        return False
    return answer.is_success


def _signed(endpoint: str, client: OAuthClientInformationFull, fields: Mapping[str, str]) -> httpx2.Request:
    metadata = OAuthClientMetadata(redirect_uris=[AnyUrl("http://127.0.0.1/")])
    context = OAuthContext(endpoint, metadata, _NoStorage(), None, None, client_info=client)
    data, headers = context.prepare_token_auth(dict(fields), {"accept": "application/json"})
    return httpx2.Request("POST", endpoint, data=data, headers=headers)


def _refusal(endpoint: str, answer: httpx2.Response) -> DevToolsError:
    code, words = _error_of(answer.content)
    if answer.status_code >= SERVER_ERROR or answer.status_code == TOO_MANY:
        return Unavailable(f"{endpoint} answered HTTP {answer.status_code}.", hint="Try again.")
    text = f"{endpoint} refuses: {code or f'HTTP {answer.status_code}'}{f' ({words})' if words else ''}."
    if code not in ENDED:
        return SignInFailed(text)
    ended = SignInEnded(text)
    ended.is_of_client = code in {"invalid_client", "unauthorized_client"}
    return ended


def _error_of(body: bytes) -> tuple[str, str]:
    try:
        found = decode(body)
    except Exception:  # noqa: BLE001 - whatever it is, it is no error as RFC 6749 has it
        return "", ""
    if not isinstance(found, dict):
        return "", ""
    return tuple(plain(found.get(key)) for key in ("error", "error_description"))  # pyright: ignore[reportReturnType, reportUnknownArgumentType]


def plain(value: object) -> str:
    """A stranger's words, fit to be shown: short, on one line, without secrets."""
    text = value if isinstance(value, str) else ""
    return redact_text("".join(c for c in text if c.isprintable())[:200])
