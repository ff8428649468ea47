"""Whose tokens open the services of a stack."""

from typing import TYPE_CHECKING

import sqlalchemy as sa

from devtools_platform.agents.definitions import load_definitions
from devtools_platform.app.home import Home
from devtools_platform.config import Settings
from devtools_platform.core.errors import BadInput
from devtools_platform.gateway.adapters.access_tokens import SqlTokens
from devtools_platform.gateway.identity import Identity
from devtools_platform.kit.tls import tls_context

if TYPE_CHECKING:
    from devtools_platform.gateway.oidc import OidcCallers


def open_identity(settings: Settings, home: Home, store: sa.Engine) -> Identity:
    """Whose tokens are known: the stack's own runs, named ones, and an OpenID provider's. Raises `BadInput`."""
    agents = tuple(load_definitions(settings.agent_definitions))
    return Identity(home.secret("secret"), SqlTokens(store), _oidc(settings), agents)


def _oidc(settings: Settings) -> "OidcCallers | None":
    issuer, audience = settings.gateway_oidc_issuer, settings.gateway_oidc_audience
    if issuer is None:
        return None
    if audience is None:
        raise BadInput(
            "DEV_TOOLS_GATEWAY_OIDC_ISSUER needs DEV_TOOLS_GATEWAY_OIDC_AUDIENCE.",
            hint="A token that was made for another service must not open this one.",
        )
    from devtools_platform.gateway.oidc import OidcCallers, Trust  # public keys and their library: only where asked for
    from devtools_platform.gateway.upstreams.fetch import Fetch

    trust = Trust(issuer, audience, settings.gateway_oidc_claim, settings.gateway_oidc_scopes)
    return OidcCallers(trust, Fetch(tls_context(), settings.gateway_oidc_allow_private))
