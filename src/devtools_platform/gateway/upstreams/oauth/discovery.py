"""Where a server's tokens come from: its own metadata (RFC 9728), then its authorization server's (RFC 8414, OIDC).

The server is a stranger, so what it points to is fetched with the same care as the server itself.
"""

from dataclasses import dataclass
from typing import Any

import httpx2
from mcp.client.auth import OAuthFlowError
from mcp.client.auth.utils import (
    build_oauth_authorization_server_metadata_discovery_urls,
    build_protected_resource_metadata_discovery_urls,
    create_oauth_metadata_request,
    extract_resource_metadata_from_www_auth,
    extract_scope_from_www_auth,
    get_client_metadata_scopes,
    handle_auth_metadata_response,
    handle_protected_resource_response,
    issuers_match,
    validate_metadata_issuer,
)
from mcp.shared.auth import OAuthMetadata, ProtectedResourceMetadata
from mcp.shared.auth_utils import check_resource_allowed, resource_url_from_server_url

from devtools_platform.gateway.mcp.messages import MODERN, encode
from devtools_platform.gateway.upstreams.fetch import Fetch
from devtools_platform.gateway.upstreams.oauth.types import SignInFailed

GRANTS = ["authorization_code", "refresh_token"]
SERVER_ERROR = 500
TOO_MANY = 429


@dataclass(frozen=True)
class Origin:
    """The authorization server of an MCP server, and what to ask it for."""

    metadata: OAuthMetadata
    issuer: str
    resource: str
    """What the token is to be good for (RFC 8707)."""
    scope: str | None


async def discover(fetch: Fetch, url: str, *, issuer: str | None = None) -> Origin:
    """`issuer`: the only one the catalogue trusts. Raises `SignInFailed`, `Unavailable`, `Forbidden`."""
    challenge = await fetch(_probe(url))
    resource = await _resource(fetch, url, challenge)
    expected = _choose([str(found) for found in resource.authorization_servers], issuer)
    metadata = await _authorization_server(fetch, expected, url)
    _check(fetch, metadata)
    wanted = extract_scope_from_www_auth(challenge)
    scope = get_client_metadata_scopes(wanted, resource, metadata, GRANTS)
    return Origin(metadata, expected, str(resource.resource), scope)


def _probe(url: str) -> httpx2.Request:
    """A request without a token, whose refusal says where to get one."""
    headers = {
        "accept": "application/json, text/event-stream",
        "mcp-protocol-version": MODERN,
        "mcp-method": "server/discover",
    }
    envelope: dict[str, Any] = {
        "io.modelcontextprotocol/protocolVersion": MODERN,
        "io.modelcontextprotocol/clientCapabilities": {},
    }
    body = {"jsonrpc": "2.0", "id": 1, "method": "server/discover", "params": {"_meta": envelope}}
    headers["content-type"] = "application/json"
    return httpx2.Request("POST", url, content=encode(body), headers=headers)


async def _resource(fetch: Fetch, url: str, challenge: httpx2.Response) -> ProtectedResourceMetadata:
    refused = challenge.status_code in {401, 403}
    pointed = extract_resource_metadata_from_www_auth(challenge) if refused else None
    failed = ""
    for place in build_protected_resource_metadata_discovery_urls(pointed, url):
        answer = await fetch(create_oauth_metadata_request(place))
        if answer.status_code >= SERVER_ERROR or answer.status_code == TOO_MANY:
            failed = f" {place} answered HTTP {answer.status_code}."
        found = await handle_protected_resource_response(answer)
        if found is None:
            continue
        wanted = resource_url_from_server_url(url)
        if not check_resource_allowed(requested_resource=wanted, configured_resource=str(found.resource)):
            raise SignInFailed(
                f"{place} describes {str(found.resource)!r}, which is not {url!r}: a token for it would be for others.",
                hint="Check the server's URL in the catalogue; if it is right, the server is not to be trusted.",
            )
        return found
    raise SignInFailed(
        f"{url} does not say where to sign in (it has no protected-resource metadata).{failed}",
        hint="Ask who runs it; a fixed token can be given in the catalogue's `headers`.",
    )


def _choose(advertised: list[str], trusted: str | None) -> str:
    if trusted is None:
        return advertised[0]
    for found in advertised:
        if issuers_match(found, trusted):
            return found
    raise SignInFailed(
        f"The server wants tokens of {', '.join(advertised)}, and the catalogue trusts {trusted} for it.",
        hint="If the server has moved to another issuer, change `oauth.issuer` in the catalogue.",
    )


async def _authorization_server(fetch: Fetch, issuer: str, url: str) -> OAuthMetadata:
    for place in build_oauth_authorization_server_metadata_discovery_urls(issuer, url):
        goes_on, metadata = await handle_auth_metadata_response(await fetch(create_oauth_metadata_request(place)))
        if metadata is not None:
            try:
                validate_metadata_issuer(metadata, issuer)
            except OAuthFlowError as error:
                raise SignInFailed(f"{place}: {error}.", hint="Nothing was sent there; ask who runs it.") from None
            return metadata
        if not goes_on:
            break
    raise SignInFailed(f"The authorization server {issuer} publishes no metadata.", hint="Ask who runs it.")


def _check(fetch: Fetch, metadata: OAuthMetadata) -> None:
    ends = (metadata.authorization_endpoint, metadata.token_endpoint, metadata.registration_endpoint)
    if not fetch.allow_private and (plain := [str(end) for end in ends if end is not None and end.scheme != "https"]):
        raise SignInFailed(f"{plain[0]} is no https address.", hint="Ask who runs the authorization server.")
    if "S256" not in (metadata.code_challenge_methods_supported or ()):
        raise SignInFailed(
            f"The authorization server {metadata.issuer} does not say that it supports PKCE with S256.",
            hint="Without it a stolen code would be a token. Ask who runs it.",
        )
