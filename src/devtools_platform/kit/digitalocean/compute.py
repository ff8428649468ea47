"""Droplets and what stands before them: snapshots, reserved addresses, load balancers."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from devtools_platform.kit.digitalocean.transport import Transport
from devtools_platform.kit.digitalocean.types import (
    Action,
    ActionBody,
    Droplet,
    DropletBody,
    LoadBalancer,
    LoadBalancerBody,
    Nothing,
    ReservedIp,
    ReservedIpBody,
    Snapshot,
    SnapshotListing,
)

DROPLETS = "/v2/droplets"
DropletAction = Literal["power_on", "power_off", "shutdown", "reboot", "power_cycle"]

#: What a load balancer's answer holds and its update does not take.
_READ_ONLY = frozenset({"id", "ip", "ipv6", "status", "created_at", "region"})


@dataclass(frozen=True)
class Droplets:
    transport: Transport

    async def create(
        self, name: str, *, region: str, size: str, image: str, tags: Sequence[str] = (), user_data: str = ""
    ) -> Droplet:
        """A new droplet, which is not there at once: `get` until its status is `active`."""
        body: dict[str, Any] = {"name": name, "region": region, "size": size, "image": image, "tags": list(tags)}
        if user_data:
            body["user_data"] = user_data
        return (await self.transport.send("POST", DROPLETS, DropletBody, body=body)).droplet

    async def get(self, id_: int) -> Droplet:
        return (await self.transport.read(DropletBody, f"{DROPLETS}/{id_}")).droplet

    async def destroy(self, id_: int) -> None:
        await self.transport.send("DELETE", f"{DROPLETS}/{id_}", Nothing)

    async def act(self, id_: int, action: DropletAction) -> Action:
        return await self._act(id_, {"type": action})

    async def take_snapshot(self, id_: int, name: str) -> Action:
        return await self._act(id_, {"type": "snapshot", "name": name})

    async def list_snapshots(self, id_: int) -> list[Snapshot]:
        path = f"{DROPLETS}/{id_}/snapshots"
        return [one async for page in self.transport.pages(path, SnapshotListing) for one in page.snapshots]

    async def _act(self, id_: int, body: Mapping[str, Any]) -> Action:
        return (await self.transport.send("POST", f"{DROPLETS}/{id_}/actions", ActionBody, body=body)).action


@dataclass(frozen=True)
class Snapshots:
    transport: Transport

    async def list_all(self) -> list[Snapshot]:
        """Those of droplets."""
        pages = self.transport.pages("/v2/snapshots", SnapshotListing, {"resource_type": "droplet"})
        return [one async for page in pages for one in page.snapshots]

    async def delete(self, id_: str) -> None:
        await self.transport.send("DELETE", f"/v2/snapshots/{id_}", Nothing)


@dataclass(frozen=True)
class Actions:
    transport: Transport

    async def get(self, id_: int) -> Action:
        """How far something is that another call began: most of them only begin."""
        return (await self.transport.read(ActionBody, f"/v2/actions/{id_}")).action


@dataclass(frozen=True)
class ReservedIps:
    transport: Transport

    async def get(self, ip: str) -> ReservedIp:
        return (await self.transport.read(ReservedIpBody, f"/v2/reserved_ips/{ip}")).reserved_ip

    async def assign(self, ip: str, droplet_id: int) -> Action:
        """Move the address to a droplet: the whole switch of a blue/green pair is this one action."""
        return await self._act(ip, {"type": "assign", "droplet_id": droplet_id})

    async def unassign(self, ip: str) -> Action:
        return await self._act(ip, {"type": "unassign"})

    async def _act(self, ip: str, body: Mapping[str, Any]) -> Action:
        return (await self.transport.send("POST", f"/v2/reserved_ips/{ip}/actions", ActionBody, body=body)).action


@dataclass(frozen=True)
class LoadBalancers:
    transport: Transport

    async def get(self, id_: str) -> LoadBalancer:
        return _balancer(await self.transport.read(LoadBalancerBody, f"/v2/load_balancers/{id_}"))

    async def update(self, id_: str, changes: Mapping[str, Any]) -> LoadBalancer:
        """Change some fields. The API replaces the whole object, so what is not named here is read and sent back."""
        now = await self.get(id_)
        kept = {key: value for key, value in now.raw.items() if key not in _READ_ONLY}
        body = {**kept, "region": now.raw["region"]["slug"], **changes}
        if "tag" in changes:
            body.pop("droplet_ids", None)
        elif not body.get("tag"):
            body.pop("tag", None)
        else:
            body.pop("droplet_ids", None)
        return _balancer(await self.transport.send("PUT", f"/v2/load_balancers/{id_}", LoadBalancerBody, body=body))

    async def add_droplets(self, id_: str, droplet_ids: Sequence[int]) -> None:
        await self._members("POST", id_, droplet_ids)

    async def remove_droplets(self, id_: str, droplet_ids: Sequence[int]) -> None:
        await self._members("DELETE", id_, droplet_ids)

    async def _members(self, method: str, id_: str, droplet_ids: Sequence[int]) -> None:
        body = {"droplet_ids": list(droplet_ids)}
        await self.transport.send(method, f"/v2/load_balancers/{id_}/droplets", Nothing, body=body)


def _balancer(answer: LoadBalancerBody) -> LoadBalancer:
    return LoadBalancer.model_validate({**answer.load_balancer, "raw": answer.load_balancer})
