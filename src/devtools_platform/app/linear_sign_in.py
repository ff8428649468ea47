"""Connecting Linear: the link a person follows, and what comes back from it."""

import hashlib
import hmac
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from urllib.parse import urlencode

from devtools_platform.core.errors import BadInput, Unauthorized
from devtools_platform.integrations.adapters.linear import SCOPES

AUTHORIZE_URL = "https://linear.app/oauth/authorize"
LIFETIME_S = 900


def authorize_link(client_id: str, stack_secret: str, public_webhook_url: str) -> str:
    """Where a workspace's admin lets the agent in, within a quarter of an hour."""
    query = {
        "client_id": client_id,
        "redirect_uri": redirect_uri(public_webhook_url),
        "response_type": "code",
        "scope": SCOPES,
        "state": _state(stack_secret, int(time.time()) + LIFETIME_S),
        "actor": "app",
    }
    return f"{AUTHORIZE_URL}?{urlencode(query)}"


def redirect_uri(public_webhook_url: str) -> str:
    return f"{public_webhook_url.rstrip('/')}/oauth/linear"


@dataclass(frozen=True)
class LinearSignIn:
    exchange: Callable[[str, str], Awaitable[None]]
    stack_secret: str
    public_webhook_url: str | None

    async def finish(self, query: Mapping[str, str]) -> str:
        """Raises `Unauthorized` for a sign-in that nobody here began."""
        state, code = query.get("state", ""), query.get("code", "")
        until = state.partition(".")[0]
        is_ours = until.isdigit() and hmac.compare_digest(state, _state(self.stack_secret, int(until)))
        if not is_ours or int(until) < time.time():
            raise Unauthorized(
                "This sign-in was not begun here, or too long ago.",
                hint="Run `dev-tools integrations connect linear` again.",
            )
        if not code or self.public_webhook_url is None:
            raise BadInput(f"Linear gave no code: {query.get('error', 'no reason given')}.", hint="Try again.")
        await self.exchange(code, redirect_uri(self.public_webhook_url))
        return "Linear is connected. You can close this page."


def _state(secret: str, until: int) -> str:
    proof = hmac.new(secret.encode(), f"linear sign-in {until}".encode(), hashlib.sha256).hexdigest()
    return f"{until}.{proof}"
