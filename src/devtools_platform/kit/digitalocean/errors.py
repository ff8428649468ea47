"""What can go wrong with a call to DigitalOcean, as errors a person can act on. None carries a secret."""

from devtools_platform.core.errors import BadInput, Conflict, NotFound, Unauthorized, Unavailable

TOKEN_SETTING = "DIGITALOCEAN_ACCESS_TOKEN"  # noqa: S105 - a setting's name


class TokenRefused(Unauthorized):
    """DigitalOcean does not take the token, or the token lacks a scope."""

    code = "digitalocean_token_refused"


class NotThere(NotFound):
    """DigitalOcean has no such thing, or has it no longer."""

    code = "digitalocean_not_found"


class DigitalOceanRefused(BadInput):
    """DigitalOcean understood the request and will not do it."""

    code = "digitalocean_refused"


class NotUnique(Conflict):
    """Several things of this account have the name that should tell one."""

    code = "digitalocean_not_unique"


class RateLimited(Unavailable):
    """The token's hourly or burst limit is used up, and waiting for it would take longer than a call may."""

    code = "digitalocean_rate_limited"

    def __init__(self, message: str, *, retry_after_s: float | None = None, hint: str = "") -> None:
        super().__init__(message, hint=hint)
        self.retry_after_s = retry_after_s
        """Seconds until a call may succeed, as DigitalOcean said it; None when it did not."""


class DigitalOceanFailed(Unavailable):
    """No usable answer: not reachable, too slow, a server error, or a body that cannot be read."""

    code = "digitalocean_failed"
