"""What the console sees and does of rollouts, over real host programs and a registry with signed releases."""

import asyncio
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from deploy.droplet import QUICK, SIGNER, rollouts
from deploy.fleet import Fleet, make_fleet
from devtools_platform.app.console_delivery import ConsoleDelivery
from devtools_platform.console.delivery import Delivered, Rollout, RolloutKind
from devtools_platform.core.errors import BadInput, Conflict, Unavailable
from devtools_platform.deploy import signing
from devtools_platform.deploy.adapters.oci import OciRegistry
from devtools_platform.deploy.releases import Releases
from devtools_platform.deploy.rollouts import Rollouts
from fakes.oci_registry import FakeRegistry


@dataclass
class Deeds:
    """The part of the audit that is written here."""

    written: list[tuple[str, str, Any]] = field(default_factory=list[tuple[str, str, Any]])

    async def record(self, actor: str, action: str, subject: str, data: Any) -> None:
        self.written.append((actor, action, data.get("status")))


@dataclass
class Works:
    fleet: Fleet
    key: bytes | None = SIGNER.public_pem

    def releases(self) -> Releases:
        host = self.fleet.registry.host
        return Releases("shop", f"{host}/acme", OciRegistry(plain=(host,)), lambda *_: None)

    def rollouts_as(self, actor: str, progress: Callable[[str, str], None]) -> Rollouts:
        works = rollouts(*self.fleet.droplets.values(), actor=actor)
        works.progress = progress
        return works

    def public_key(self) -> bytes:
        if self.key is None:
            raise BadInput("DEV_TOOLS_RELEASE_PUBLIC_KEY is not set.", hint="Set it.")
        return self.key


@pytest.fixture
def fleet(tmp_path: Path, registry: FakeRegistry) -> Fleet:
    return make_fleet(tmp_path, registry, "web-1")


@pytest.fixture
def deeds() -> Deeds:
    return Deeds()


@pytest.fixture
async def desk(fleet: Fleet, deeds: Deeds) -> AsyncIterator[ConsoleDelivery]:
    made = make_desk(Works(fleet), deeds)
    yield made
    await made.aclose()


def make_desk(works: Any, deeds: Any) -> ConsoleDelivery:
    return ConsoleDelivery(works, lambda: True, deeds, patience=QUICK, wait_s=60)


async def carry_out(desk: ConsoleDelivery, kind: RolloutKind, seq: int | None = None) -> Rollout:
    plan = await desk.plan(kind, seq)
    return await ended(desk, await desk.start(kind, seq, plan.hash, "ann"))


async def look(desk: ConsoleDelivery) -> Delivered:
    found = await desk.look()
    assert found is not None
    return found


async def ended(desk: ConsoleDelivery, id_: str) -> Rollout:
    await asyncio.gather(*desk._tasks)
    return desk.rollout(id_)


async def test_a_release_is_staged_promoted_and_gone_back_from_in_the_persons_name(
    desk: ConsoleDelivery, fleet: Fleet, deeds: Deeds
) -> None:
    fleet.publish(1)
    fleet.publish(2)
    assert (await carry_out(desk, "deploy", 1)).status == "committed"
    staged = await carry_out(desk, "stage", 2)
    assert staged.status == "held"
    assert ("start", "web-1") in [(line.part, line.text) for line in staged.lines]
    held = await look(desk)
    assert held.is_held
    assert [(c.seq, c.is_live) for c in held.hosts[0].colours] == [(1, True), (2, False)]

    assert (await desk.plan("promote", None)).steps[0].action == "flip"
    assert (await carry_out(desk, "promote")).status == "committed"
    assert fleet.droplets["web-1"].live_release() == "2"
    assert (await look(desk)).returnable == [1]
    assert (await carry_out(desk, "rollback")).status == "committed"
    assert fleet.droplets["web-1"].live_release() == "1"

    assert {deed.actor for deed in (await look(desk)).deeds} == {"ann@console"}
    assert deeds.written[:2] == [("ann", "rollout.deploy", None), ("ann", "rollout.end", "committed")]


async def test_a_broken_release_returns_and_shows_why_and_a_plan_that_is_old_changes_nothing(
    desk: ConsoleDelivery, fleet: Fleet
) -> None:
    fleet.publish(1)
    fleet.publish(2, is_bad=True)
    old = await desk.plan("deploy", 1)
    first = await desk.start("deploy", 1, old.hash, "ann")
    with pytest.raises(Conflict):
        await desk.start("deploy", 1, old.hash, "ben")
    await ended(desk, first)

    bad = await carry_out(desk, "deploy", 2)
    assert (bad.status, bad.failed_step) == ("reverted", "health@web-1")
    assert "last words of shop-green-web" in bad.last_words["web on web-1"]
    stale = await ended(desk, await desk.start("deploy", 2, old.hash, "ann"))
    assert stale.status == "failed"
    assert "approved was" in stale.why
    assert fleet.droplets["web-1"].live_release() == "1"


async def test_what_cannot_be_verified_is_told_from_what_is_refused(fleet: Fleet, deeds: Deeds) -> None:
    fleet.publish(1)
    fleet.publish(2, signer=signing.make_key())
    works = Works(fleet)
    desk = make_desk(works, deeds)
    assert [(r.seq, r.is_signed) for r in (await look(desk)).releases] == [(2, False), (1, True)]
    await desk.aclose()
    keyless = make_desk(Works(fleet, None), deeds)
    assert [(r.seq, r.is_signed) for r in (await keyless.look()).releases] == [(2, None), (1, None)]
    await keyless.aclose()


async def test_home_never_waits_and_a_host_that_is_away_is_a_fact(fleet: Fleet, deeds: Deeds) -> None:
    works = Works(fleet)

    def away(actor: str, progress: Callable[[str, str], None]) -> Rollouts:
        async def connect(*_: object) -> Any:
            raise Unavailable("web-1 does not answer.", hint="Is it on?")

        return Rollouts(Works.rollouts_as(works, actor, progress).hosts, connect, actor, progress)

    works.rollouts_as = away  # type: ignore[method-assign]
    desk = make_desk(works, deeds)
    assert desk.glance() is None
    await asyncio.gather(*desk._tasks)
    seen = desk.glance()
    assert seen is not None
    assert [(host.name, host.error) for host in seen.hosts] == [("web-1", "web-1 does not answer.")]
    await desk.aclose()
