"""`CloudNetwork` by DigitalOcean, a reserved IP or a load balancer with one droplet, and `Remover` for its registry.

Its API only begins things; every call here returns when DigitalOcean says it is done, or raises when it is not.
"""

import asyncio
import contextlib
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

from devtools_platform.core.errors import Conflict, Unavailable
from devtools_platform.kit.digitalocean import DigitalOcean, DigitalOceanFailed
from devtools_platform.kit.digitalocean.errors import DigitalOceanRefused, NotThere
from devtools_platform.kit.digitalocean.types import Action

POLL_S = 2.0
MOVE_S = 120.0
SNAPSHOT_S = 3600.0
CHECK_INTERVAL_S, HEALTHY = 10.0, 5
"""DigitalOcean's defaults: how often a load balancer asks a droplet, and how often it must answer."""

Sleep = Callable[[float], Awaitable[None]]


@dataclass(frozen=True)
class _Droplets:
    """What both kinds share: snapshots, and waiting."""

    client: DigitalOcean
    sleep: Sleep = asyncio.sleep
    clock: Callable[[], float] = time.monotonic

    async def snapshot(self, droplet: int, name: str) -> str:
        """Take one of the whole disk, and wait until it is there; its id. Raises `Unavailable`."""
        await self._finish(await self.client.droplets.take_snapshot(droplet, name), SNAPSHOT_S)
        found = [one for one in await self.client.droplets.list_snapshots(droplet) if one.name == name]
        if not found:
            raise DigitalOceanFailed(
                f"DigitalOcean finished the snapshot {name!r} of droplet {droplet}, and does not list it.",
                hint="Look at the droplet's snapshots in the control panel; nothing was switched.",
            )
        return found[-1].id

    async def _finish(self, action: Action, limit_s: float) -> None:
        deadline = self.clock() + limit_s
        while action.status == "in-progress":
            if self.clock() >= deadline:
                raise Unavailable(
                    f"DigitalOcean has not finished {action.type} (action {action.id}) within {limit_s:g} s.",
                    hint="Look at it in the control panel; `dev-tools rollout switch HOST --dry-run` says what serves.",
                )
            await self.sleep(POLL_S)
            action = await self.client.actions.get(action.id)
        if action.status != "completed":
            raise DigitalOceanFailed(
                f"DigitalOcean could not do {action.type} (action {action.id}): it is {action.status or 'unknown'}.",
                hint="Its control panel says why.",
            )


@dataclass(frozen=True)
class ReservedIpNetwork(_Droplets):
    """An address that is moved. Connections that are open when it moves are cut: they went to the old droplet."""

    ip: str = ""

    @property
    def address(self) -> str:
        return f"reserved IP {self.ip}"

    async def serving(self) -> int | None:
        droplet = (await self.client.reserved_ips.get(self.ip)).droplet
        return droplet.id if droplet else None

    async def point_at(self, droplet: int) -> None:
        await self._finish(await self.client.reserved_ips.assign(self.ip, droplet), MOVE_S)


@dataclass(frozen=True)
class LoadBalancerNetwork(_Droplets):
    """A load balancer that has one droplet. The new one is added, and the old one taken out when it must have seen it.

    DigitalOcean does not say whether a load balancer finds a droplet healthy, so its own check's time is waited for.
    """

    id: str = ""

    @property
    def address(self) -> str:
        return f"load balancer {self.id}"

    async def serving(self) -> int | None:
        """Raises `Conflict` for one that has several droplets, or takes them by tag: that is no pair."""
        balancer = await self.client.load_balancers.get(self.id)
        if balancer.tag:
            raise Conflict(
                f"The load balancer {self.id} takes every droplet tagged {balancer.tag!r}.",
                hint="A pair needs one that names its droplet: remove the tag from it.",
            )
        if len(balancer.droplet_ids) > 1:
            raise Conflict(
                f"The load balancer {self.id} has {len(balancer.droplet_ids)} droplets, so no single one serves.",
                hint="A switch that was interrupted leaves two: take the old one out in the control panel.",
            )
        return next(iter(balancer.droplet_ids), None)

    async def point_at(self, droplet: int) -> None:
        balancer = await self.client.load_balancers.get(self.id)
        old = [id_ for id_ in balancer.droplet_ids if id_ != droplet]
        await self.client.load_balancers.add_droplets(self.id, [droplet])
        if old:
            check: dict[str, Any] = balancer.raw.get("health_check") or {}
            await self.sleep(
                float(check.get("check_interval_seconds", CHECK_INTERVAL_S))
                * (check.get("healthy_threshold", HEALTHY) + 1)
            )
            await self.client.load_balancers.remove_droplets(self.id, old)


@dataclass(frozen=True)
class DigitalOceanRemover:
    """`Remover` for DigitalOcean's registry, by its API: credentials for images may not delete there."""

    client: DigitalOcean
    registry: str
    """The team's registry, as in `registry.digitalocean.com/NAME`."""

    async def remove(self, repository: str, digest: str) -> None:
        name = repository.partition("/")[2].removeprefix(f"{self.registry}/")
        with contextlib.suppress(NotThere):
            await self.client.registry.delete_manifest(self.registry, name, digest)

    async def finish(self) -> str:
        """Begin its garbage collection: until that ends, nobody can push."""
        try:
            begun = await self.client.registry.collect_garbage(self.registry)
        except DigitalOceanRefused as error:  # one that runs already, for example
            return f"Garbage collection was not begun: {error}"
        return f"Garbage collection {begun.uuid} is {begun.status}; the registry takes no push until it ends."
