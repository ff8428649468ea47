"""What the stack's metrics say of hosts: before, during and after a rollout, and of one that does not answer."""

from dataclasses import replace
from typing import Any

from prometheus_client import REGISTRY

from deploy.droplet import QUICK, Droplet, make_release, rollouts
from devtools_platform.app.rollout_metrics import look_at
from devtools_platform.core.errors import Unavailable
from fakes.oci_registry import FakeRegistry


def metric(name: str, host: str, **labels: str) -> Any:
    return REGISTRY.get_sample_value(f"devtools_rollout_{name}", {"host": host, **labels})


async def test_state_release_outcome_and_duration_are_the_hosts_own_word(
    droplets: dict[str, Droplet], registry: FakeRegistry
) -> None:
    works = rollouts(droplets["web-1"])
    await look_at("web-1", works)
    assert metric("host_up", "web-1") == 1
    assert metric("last_outcome", "web-1", outcome="committed") is None, "no rollout has ended yet"
    assert metric("release", "web-1", colour="blue") is None

    done = await works.deploy(*make_release(registry, 1), QUICK)
    await look_at("web-1", works)
    assert metric("last_outcome", "web-1", outcome="committed") == 1
    assert 0 < metric("last_duration_seconds", "web-1") <= done.seconds
    first = "blue" if metric("colour_live", "web-1", colour="blue") else "green"
    assert metric("release", "web-1", colour=first) == 1

    await works.deploy(*make_release(registry, 2), QUICK.model_copy(update={"is_held": True}))
    await look_at("web-1", works)
    assert [metric("state", "web-1", state=state) for state in ("idle", "staging", "held")] == [0, 0, 1]
    await works.abort()
    await look_at("web-1", works)
    assert [metric("state", "web-1", state=state) for state in ("idle", "staging", "held")] == [1, 0, 0]
    assert [metric("last_outcome", "web-1", outcome=one) for one in ("committed", "reverted")] == [0, 1]
    assert metric("colour_live", "web-1", colour=first) == 1


async def test_a_host_that_does_not_answer_is_down_and_keeps_what_it_last_said(
    droplets: dict[str, Droplet], registry: FakeRegistry
) -> None:
    works = rollouts(droplets["web-2"])
    await works.deploy(*make_release(registry, 1), QUICK)
    await look_at("web-2", works)

    async def refuse(*_: Any) -> Any:
        raise Unavailable("'web-2' does not answer.")

    await look_at("web-2", replace(works, connect=refuse))
    assert metric("host_up", "web-2") == 0
    assert metric("last_outcome", "web-2", outcome="committed") == 1
