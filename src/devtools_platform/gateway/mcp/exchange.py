"""One request of one client while it is being served: what may be sent back to it before the answer.

The upstreams speak to this and never see whether the client is of the stateless revision, an older one, or no
client at all.
"""

from collections.abc import Awaitable
from dataclasses import dataclass
from typing import Protocol

from msgspec import Raw, Struct, field

from devtools_platform.gateway.mcp.messages import (
    CAPABILITIES_KEY,
    CLIENT_KEY,
    LOG_LEVELS,
    METHOD_NOT_FOUND,
    MODERN,
    NOTHING,
    VERSION_KEY,
    Params,
    RpcError,
    raw,
)


class Client(Struct, frozen=True):
    """What a client said of itself, and whose it is."""

    owner: str
    """The verified caller; sessions and suspended calls belong to it."""
    capabilities: Raw = NOTHING
    info: Raw | None = None
    session: str = ""
    """The session of a client with a handshake; empty in the stateless revision."""
    log_level: str | None = None
    """The least log level it wants; None for none at all."""

    def envelope(self) -> Params:
        """What a stateless request says of its client."""
        info = self.info if self.info is not None else raw({"name": "dev-tools", "version": "1"})
        return {
            VERSION_KEY: raw(MODERN),
            CAPABILITIES_KEY: self.capabilities,
            CLIENT_KEY: info,
        }

    def wants_log(self, level: str | None) -> bool:
        if self.log_level is None or level not in LOG_LEVELS or self.log_level not in LOG_LEVELS:
            return False
        return LOG_LEVELS.index(level) >= LOG_LEVELS.index(self.log_level)


class Call(Struct, frozen=True):
    """A request on its way to an upstream: whatever the client's revision, in neutral parts."""

    method: str
    params: Params
    """Without `_meta`."""
    meta: Params = field(default_factory=dict[str, Raw])
    """Of `_meta`, what is neither the client's envelope nor ours."""


class Exchange(Protocol):
    """The way back to a client during its request."""

    @property
    def client(self) -> Client: ...

    def notify(self, method: str, params: Params) -> None:
        """Send a notification to the client, or drop it when it does not keep up."""
        ...

    def ask(self, method: str, params: Params) -> Awaitable[Raw]:
        """Ask the client (sampling, elicitation, roots) and wait for its answer. Raises `RpcError`."""
        ...


THE_GATEWAY = Client("gateway")
"""For what nobody asked the gateway to do."""


@dataclass
class Silent:
    """No client listens: the gateway's own requests, REST, and calls recorded under a key."""

    client: Client = THE_GATEWAY

    def notify(self, method: str, params: Params) -> None:
        return

    async def ask(self, method: str, params: Params) -> Raw:
        raise RpcError(METHOD_NOT_FOUND, f"Nobody is there to answer {method!r}.")
