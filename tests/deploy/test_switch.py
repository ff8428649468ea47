"""Blue/green between droplets: real host programs, and the fake DigitalOcean that its own description judges."""

from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest
from pydantic import SecretStr

from deploy.droplet import QUICK, Droplet, make_release, rollouts
from devtools_platform.core.errors import BadInput, Conflict, TooLate
from devtools_platform.deploy.adapters.digitalocean import LoadBalancerNetwork, ReservedIpNetwork
from devtools_platform.deploy.interfaces import CloudNetwork
from devtools_platform.deploy.inventory import load_network
from devtools_platform.deploy.rollouts import Rollouts
from devtools_platform.deploy.switch import Switches, SwitchOptions
from devtools_platform.kit.digitalocean import DigitalOcean
from fakes.digitalocean_server import FakeDigitalOcean, Fault
from fakes.oci_registry import FakeRegistry

IP = "203.0.113.7"
URLS = ("https://app.example.org/health",)
OPTIONS = SwitchOptions(settle_s=5, watch_s=3)


class World:
    """Time that passes only when somebody waits, and what the public address answers."""

    def __init__(self, fake: FakeDigitalOcean) -> None:
        self.fake = fake
        self.now = 0.0
        self.ill: set[int] = set()
        """Droplets that do not answer from outside."""

    def clock(self) -> float:
        return self.now

    async def sleep(self, seconds: float) -> None:
        self.now += seconds

    async def ask(self, url: str) -> int | None:
        balanced = self.fake.resources.balancer["droplet_ids"]
        serving = {self.fake.resources.reserved[IP], *balanced} - {None}
        return None if not serving or serving & self.ill else 200


@pytest.fixture
def cloud() -> Iterator[FakeDigitalOcean]:
    with FakeDigitalOcean() as running:
        yield running
    running.check()


@pytest.fixture
async def client(cloud: FakeDigitalOcean) -> AsyncIterator[DigitalOcean]:
    async with DigitalOcean(SecretStr(cloud.token), cloud.url, sleep=World(cloud).sleep) as opened:
        yield opened


@pytest.fixture
def world(cloud: FakeDigitalOcean) -> World:
    return World(cloud)


@pytest.fixture
async def pair(client: DigitalOcean, droplets: dict[str, Droplet], registry: FakeRegistry) -> Rollouts:
    """Two hosts that are droplets, both on release 1."""
    works = rollouts(*droplets.values())
    await works.deploy(*make_release(registry, 1), QUICK)
    ids = [
        (await client.droplets.create(name, region="nyc3", size="s-1vcpu-1gb", image="debian-12-x64")).id
        for name in droplets
    ]
    works.hosts = [host.model_copy(update={"droplet": id_}) for host, id_ in zip(works.hosts, ids, strict=True)]
    return works


@pytest.fixture(params=["reserved_ip", "load_balancer"])
def network(
    request: pytest.FixtureRequest, client: DigitalOcean, cloud: FakeDigitalOcean, world: World
) -> CloudNetwork:
    if request.param == "reserved_ip":
        return ReservedIpNetwork(client, world.sleep, world.clock, ip=IP)
    return LoadBalancerNetwork(client, world.sleep, world.clock, id=cloud.resources.balancer["id"])


def numbers(works: Rollouts) -> dict[str, int]:
    return {host.name: host.droplet or 0 for host in works.hosts}


async def test_requests_go_to_the_other_droplet_after_a_snapshot_of_the_one_that_served(
    pair: Rollouts, network: CloudNetwork, world: World, cloud: FakeDigitalOcean
) -> None:
    droplet = numbers(pair)
    await network.point_at(droplet["web-1"])
    cloud.requests.clear()
    switches = Switches(pair, network, URLS, world.ask, world.sleep, world.clock)
    plan = await switches.plan("web-2", OPTIONS)

    outcome = await switches.switch("web-2", OPTIONS, plan.hash)

    assert (outcome.status, outcome.serving, outcome.plan_hash) == ("switched", "web-2", plan.hash)
    assert (plan.from_host, plan.seq, plan.steps) == ("web-1", 1, ("ready", "snapshot", "point", "watch", "record"))
    assert await network.serving() == droplet["web-2"]
    assert [(str(one["id"]), one["resource_id"]) for one in cloud.resources.snapshots] == [
        (outcome.snapshot, str(droplet["web-1"]))
    ]
    changes = [one.path for one in cloud.requests if one.method in {"POST", "DELETE"}]
    assert changes[0] == f"/v2/droplets/{droplet['web-1']}/actions"
    completed = [i for i, one in enumerate(cloud.requests) if one.path.startswith("/v2/actions/")]
    moved = next(i for i, one in enumerate(cloud.requests) if one.path.endswith(("/droplets", f"{IP}/actions")))
    assert [i < moved for i in completed[:2]] == [True, True], "the snapshot had ended before anything moved"
    history = await pair.history()
    for chain in history.values():
        assert (chain[-1]["action"], chain[-1]["data"]["from"], chain[-1]["data"]["to"]) == ("switch", "web-1", "web-2")


async def test_a_droplet_that_does_not_answer_from_outside_gives_the_address_back(
    pair: Rollouts, network: CloudNetwork, world: World
) -> None:
    droplet = numbers(pair)
    await network.point_at(droplet["web-1"])
    world.ill.add(droplet["web-2"])

    outcome = await Switches(pair, network, URLS, world.ask, world.sleep, world.clock).switch("web-2", OPTIONS)

    assert (outcome.status, outcome.failed_step, outcome.serving) == ("returned", "watch", "web-1")
    assert "https://app.example.org/health answered nothing within 5 s" in outcome.why
    assert await network.serving() == droplet["web-1"]


async def test_an_unhealthy_release_is_never_switched_to(
    pair: Rollouts, network: CloudNetwork, world: World, droplets: dict[str, Droplet]
) -> None:
    droplet = numbers(pair)
    await network.point_at(droplet["web-1"])
    droplets["web-2"].set_docker(containers={})

    outcome = await Switches(pair, network, URLS, world.ask, world.sleep, world.clock).switch("web-2", OPTIONS)

    assert (outcome.failed_step, outcome.serving) == ("ready", "web-1")
    assert world.now == 0 or await network.serving() == droplet["web-1"]


@pytest.mark.parametrize("step", ["snapshot", "point"])
async def test_what_the_cloud_does_not_do_leaves_requests_where_they_were(
    step: str, pair: Rollouts, client: DigitalOcean, world: World, cloud: FakeDigitalOcean
) -> None:
    droplet = numbers(pair)
    network = ReservedIpNetwork(client, world.sleep, world.clock, ip=IP)
    await network.point_at(droplet["web-1"])
    path = f"/v2/droplets/{droplet['web-1']}/actions" if step == "snapshot" else f"/v2/reserved_ips/{IP}/actions"
    cloud.inject(Fault("status", path, method="POST", status=422))

    outcome = await Switches(pair, network, URLS, world.ask, world.sleep, world.clock).switch("web-2", OPTIONS)

    assert (outcome.status, outcome.failed_step, outcome.serving) == ("returned", step, "web-1")
    assert cloud.resources.reserved[IP] == droplet["web-1"]


async def test_an_action_that_fails_at_the_cloud_or_never_ends_is_no_success(
    pair: Rollouts, client: DigitalOcean, world: World, cloud: FakeDigitalOcean
) -> None:
    network = ReservedIpNetwork(client, world.sleep, world.clock, ip=IP)
    cloud.resources.actions_end = "errored"
    with pytest.raises(Exception, match=r"could not do assign_ip .* it is errored"):
        await network.point_at(1001)
    cloud.finishes_after = 10_000
    with pytest.raises(Exception, match=r"has not finished assign_ip .* within 120 s"):
        await network.point_at(1001)


async def test_a_way_back_that_fails_too_is_said_and_where_requests_go_is_unknown(
    pair: Rollouts, client: DigitalOcean, world: World, cloud: FakeDigitalOcean
) -> None:
    droplet = numbers(pair)
    network = ReservedIpNetwork(client, world.sleep, world.clock, ip=IP)
    await network.point_at(droplet["web-1"])
    world.ill.add(droplet["web-2"])
    switches = Switches(pair, network, URLS, world.ask, world.sleep, world.clock)

    def lose(step: str, host: str) -> None:
        if step == "watch":
            cloud.inject(Fault("status", f"/v2/reserved_ips/{IP}/actions", method="POST", status=422))

    pair.progress = lose
    outcome = await switches.switch("web-2", OPTIONS)

    assert (outcome.status, outcome.serving) == ("returned", None)
    assert f"Point reserved IP {IP} at web-1 by hand" in outcome.why


async def test_a_switch_that_makes_no_sense_is_refused(
    pair: Rollouts, client: DigitalOcean, world: World, cloud: FakeDigitalOcean
) -> None:
    droplet = numbers(pair)
    network = ReservedIpNetwork(client, world.sleep, world.clock, ip=IP)
    switches = Switches(pair, network, URLS, world.ask, world.sleep, world.clock)
    first = await switches.plan("web-1", OPTIONS)
    assert (first.from_host, "snapshot" in first.steps) == (None, False)
    await network.point_at(droplet["web-1"])

    with pytest.raises(TooLate):
        await switches.switch("web-2", OPTIONS, first.hash)
    with pytest.raises(Conflict, match="serves already"):
        await switches.plan("web-1", OPTIONS)
    with pytest.raises(BadInput, match="no host 'web-9'; it has web-1, web-2"):
        await switches.plan("web-9", OPTIONS)
    with pytest.raises(BadInput, match="no address to watch"):
        await Switches(pair, network, (), world.ask).plan("web-2", OPTIONS)
    pair.hosts = [host.model_copy(update={"droplet": None}) for host in pair.hosts]
    with pytest.raises(BadInput, match="which droplet 'web-2' is"):
        await switches.plan("web-2", OPTIONS)


async def test_a_load_balancer_over_several_droplets_or_a_tag_is_no_pair(
    client: DigitalOcean, world: World, cloud: FakeDigitalOcean
) -> None:
    network = LoadBalancerNetwork(client, world.sleep, world.clock, id=cloud.resources.balancer["id"])
    cloud.resources.balancer["droplet_ids"] = [1, 2]
    with pytest.raises(Conflict, match="has 2 droplets"):
        await network.serving()
    cloud.resources.balancer |= {"droplet_ids": [], "tag": "web"}
    with pytest.raises(Conflict, match="every droplet tagged 'web'"):
        await network.serving()


def test_an_inventory_says_what_stands_before_its_hosts_or_what_is_wrong_with_that(tmp_path: Path) -> None:
    file = tmp_path / "hosts.yaml"
    hosts = "hosts: {web-1: {address: x, droplet: 1}}\n"

    def read(text: str) -> Any:
        file.write_text(hosts + text)
        return load_network(file)

    assert read("network: {reserved_ip: 203.0.113.9, check_urls: [https://a/health]}").reserved_ip == "203.0.113.9"
    for text, words in {
        "": "says nothing of a network",
        "network: {}": "either a reserved_ip or a load_balancer",
        "network: {reserved_ip: 203.0.113.9, load_balancer: 4de7ac8b-495b}": "either a reserved_ip or",
        "network: {reserved_ip: 'x/../y'}": "reserved_ip",
        "network: {reservd_ip: 203.0.113.9}": "reservd_ip",
    }.items():
        with pytest.raises(BadInput, match=words):
            read(text)
