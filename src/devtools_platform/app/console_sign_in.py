"""Where people sign in at the console, as the settings say."""

from devtools_platform.config import Settings
from devtools_platform.console.adapters.github_sign_in import GitHubSignIn
from devtools_platform.console.adapters.openid import OpenId, OpenIdClient
from devtools_platform.console.interfaces import SignIn
from devtools_platform.console.roles import Roles, load_roles
from devtools_platform.core.errors import BadInput
from devtools_platform.gateway.upstreams.fetch import Fetch
from devtools_platform.kit.tls import tls_context

GITHUB = "https://github.com"


def open_sign_in(settings: Settings) -> tuple[SignIn | None, Roles]:
    """None where no provider is set. Raises `BadInput` for settings that do not fit together."""
    issuer, id_, roles = settings.console_oidc_issuer, settings.console_oidc_client_id, settings.console_roles
    if issuer is None:
        return None, Roles()
    if id_ is None or roles is None:
        missing = "DEV_TOOLS_CONSOLE_OIDC_CLIENT_ID" if id_ is None else "DEV_TOOLS_CONSOLE_ROLES"
        raise BadInput(
            f"DEV_TOOLS_CONSOLE_OIDC_ISSUER is set and {missing} is not.",
            hint="See docs/how-to/console.md, `Sign in with your own provider`.",
        )
    fetch = Fetch(tls_context(), settings.console_oidc_allow_private)
    given = settings.console_oidc_client_secret
    secret = None if given is None else given.get_secret_value()
    if issuer.rstrip("/") == GITHUB:
        if secret is None:
            raise BadInput(
                "GitHub's OAuth apps have a secret, and DEV_TOOLS_CONSOLE_OIDC_CLIENT_SECRET is not set.",
                hint="Make one in the app's settings at GitHub.",
            )
        return GitHubSignIn(id_, secret, fetch), load_roles(roles)
    client = OpenIdClient(issuer, id_, secret, settings.console_oidc_scopes, settings.console_oidc_groups_claim)
    return OpenId(client, fetch), load_roles(roles)
