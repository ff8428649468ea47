"""The client: one token, one address, its operations in groups."""

from typing import Any, Self

from pydantic import SecretStr

from devtools_platform.kit.digitalocean.agents import Agents
from devtools_platform.kit.digitalocean.compute import Actions, Droplets, LoadBalancers, ReservedIps, Snapshots
from devtools_platform.kit.digitalocean.models import Models
from devtools_platform.kit.digitalocean.registry import Registry
from devtools_platform.kit.digitalocean.transport import API_URL, RateLimit, Transport
from devtools_platform.kit.digitalocean.types import Balance


class DigitalOcean:
    """Use as a context manager. `options` are those of `Transport`."""

    def __init__(self, token: SecretStr, base_url: str = API_URL, **options: Any) -> None:
        self._transport = Transport(token, base_url, **options)
        self.agents = Agents(self._transport)
        self.models = Models(self._transport)
        self.registry = Registry(self._transport)
        self.actions = Actions(self._transport)
        self.droplets = Droplets(self._transport)
        self.snapshots = Snapshots(self._transport)
        self.reserved_ips = ReservedIps(self._transport)
        self.load_balancers = LoadBalancers(self._transport)

    @property
    def rate_limit(self) -> RateLimit | None:
        """What the last answer said of the token's limits."""
        return self._transport.rate_limit

    async def balance(self) -> Balance:
        """What the account has used and owes this month."""
        return await self._transport.read(Balance, "/v2/customers/my/balance")

    async def aclose(self) -> None:
        await self._transport.aclose()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.aclose()
