"""What is known of one sign-in, and where it is kept."""

import time
from typing import Protocol

from mcp.shared.auth import OAuthClientInformationFull, OAuthToken
from pydantic import BaseModel, ConfigDict

from devtools_platform.core.errors import DevToolsError


class SignInFailed(DevToolsError):
    """Signing in at a server did not work; the message says at which step and why."""

    code = "sign_in_failed"
    status = 502
    exit_code = 5


class SignInEnded(SignInFailed):
    """The authorization server no longer renews what it once gave: a person must sign in again."""

    code = "sign_in_ended"
    status = 401
    is_of_client = False
    """Whether it is our registration that no longer counts, not only the token."""


class Credential(BaseModel):
    """A sign-in at one server, given by one issuer. Nothing in it is ever sent to another."""

    model_config = ConfigDict(frozen=True)

    server: str
    url: str
    """The server's address when it was made. For another address it does not count."""
    issuer: str
    token_endpoint: str
    revocation_endpoint: str | None = None
    resource: str
    client: OAuthClientInformationFull
    """Without the secret of a client that the catalogue names: that one stays in the environment."""
    token: OAuthToken | None = None
    """None when it has ended; the client's registration can be used again."""
    scope: str | None = None
    expires_at: float | None = None
    """None when the server did not say."""
    saved_at: float

    @property
    def renew_at(self) -> float | None:
        """When to renew it: a minute before it expires, or after three quarters of a short life."""
        if self.expires_at is None or self.token is None or self.token.refresh_token is None:
            return None
        return self.expires_at - min(60.0, (self.expires_at - self.saved_at) / 4)

    def is_same(self, other: "Credential") -> bool:
        return (self.saved_at, self.issuer, self.token) == (other.saved_at, other.issuer, other.token)

    @property
    def is_expired(self) -> bool:
        return self.expires_at is not None and self.expires_at <= time.time()

    def values(self) -> list[str]:
        """What must be shown to nobody."""
        held = [self.token.access_token, self.token.refresh_token] if self.token is not None else []
        return [value for value in (*held, self.client.client_secret) if value]


class Vault(Protocol):
    """Keeps sign-ins, one for each server and issuer."""

    def load(self, server: str) -> Credential | None:
        """The newest of a server."""
        ...

    def find(self, server: str, issuer: str) -> Credential | None: ...

    def save(self, credential: Credential, *, instead_of: Credential | None = None) -> bool:
        """False, and nothing is written, when what it should replace is no longer what is stored."""
        ...

    def forget(self, server: str) -> list[Credential]:
        """Remove all of a server, and return them."""
        ...

    def version(self, server: str) -> object:
        """Differs when anything of a server has been saved or removed."""
        ...
