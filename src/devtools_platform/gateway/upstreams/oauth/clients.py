"""Which client we are at an authorization server: one the catalogue names, our metadata document, or a registration."""

import time
from dataclasses import dataclass

from mcp.client.auth import OAuthRegistrationError
from mcp.client.auth.oauth2 import check_registration_usable
from mcp.client.auth.utils import (
    create_client_info_from_metadata_url,
    create_client_registration_request,
    handle_registration_response,
    should_use_client_metadata_url,
)
from mcp.shared.auth import OAuthClientInformationFull, OAuthClientMetadata, OAuthMetadata
from pydantic import AnyUrl

from devtools_platform.gateway.upstreams.fetch import Fetch
from devtools_platform.gateway.upstreams.oauth.discovery import GRANTS, Origin
from devtools_platform.gateway.upstreams.oauth.tokens import plain
from devtools_platform.gateway.upstreams.oauth.types import Credential, SignInFailed

CLIENT_NAME = "Dev-Tools gateway"
METHODS = ("none", "client_secret_basic", "client_secret_post")
"""How we can authenticate at a token endpoint, the best first: what is no secret cannot be lost."""


@dataclass(frozen=True)
class KnownClient:
    """What the catalogue and the settings say of us."""

    client_id: str | None = None
    client_secret: str | None = None
    document_url: str | None = None
    """Our Client ID Metadata Document."""

    def fixed(self, metadata: OAuthMetadata | None = None) -> OAuthClientInformationFull | None:
        """The client the catalogue names."""
        if self.client_id is None:
            return None
        method = "none" if self.client_secret is None else _secret_method(metadata)
        return OAuthClientInformationFull(
            client_id=self.client_id, client_secret=self.client_secret, token_endpoint_auth_method=method
        )


async def choose_client(
    fetch: Fetch, origin: Origin, known: KnownClient, stored: Credential | None, redirect_uri: str
) -> OAuthClientInformationFull:
    """A fixed client, our document, what was registered before, and only then a new registration."""
    if (fixed := known.fixed(origin.metadata)) is not None:
        return fixed
    if should_use_client_metadata_url(origin.metadata, known.document_url):
        return create_client_info_from_metadata_url(str(known.document_url), [AnyUrl(redirect_uri)])
    if stored is not None and _is_usable(stored.client, redirect_uri):
        return stored.client
    return await _register(fetch, origin, redirect_uri)


async def _register(fetch: Fetch, origin: Origin, redirect_uri: str) -> OAuthClientInformationFull:
    metadata = origin.metadata
    if metadata.registration_endpoint is None:
        raise SignInFailed(
            f"{origin.issuer} takes no registrations of clients, and does not know us.",
            hint="Register a client there and give the server `oauth: {client_id: ...}` in the catalogue.",
        )
    supported = metadata.token_endpoint_auth_methods_supported
    method = next((m for m in METHODS if m in supported), None) if supported else None
    wish = OAuthClientMetadata(
        redirect_uris=[AnyUrl(redirect_uri)],
        client_name=CLIENT_NAME,
        grant_types=list(GRANTS),
        token_endpoint_auth_method=method,  # pyright: ignore[reportArgumentType] - one of METHODS
        scope=origin.scope,
    )
    answer = await fetch(create_client_registration_request(metadata, wish, origin.issuer))
    try:
        made = await handle_registration_response(answer)
        check_registration_usable(made)
    except OAuthRegistrationError as error:
        raise SignInFailed(
            f"{origin.issuer} did not register us: {plain(str(error))}.",
            hint="Register a client there and give the server `oauth: {client_id: ...}` in the catalogue.",
        ) from None
    return made.model_copy(update={"issuer": origin.issuer, "redirect_uris": [AnyUrl(redirect_uri)]})


def _is_usable(client: OAuthClientInformationFull, redirect_uri: str) -> bool:
    """Whether it was registered, not fixed or a document, for this address, and still holds."""
    ends = client.client_secret_expires_at
    return (
        client.issuer is not None
        and [str(uri) for uri in client.redirect_uris or ()] == [str(AnyUrl(redirect_uri))]
        and not (ends and ends <= time.time())
    )


def _secret_method(metadata: OAuthMetadata | None) -> str:
    supported = (metadata.token_endpoint_auth_methods_supported if metadata is not None else None) or METHODS[1:]
    return next((method for method in METHODS[1:] if method in supported), METHODS[1])
