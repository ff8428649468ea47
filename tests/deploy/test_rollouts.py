import asyncio
import json

import pytest

from deploy.droplet import QUICK, SIGNER, Droplet, make_release, rollouts
from devtools_platform.core.errors import Conflict, Forbidden, NotFound, TooLate
from devtools_platform.deploy import signing
from devtools_platform.deploy.host.store import check_chain
from devtools_platform.deploy.types import Options, Step
from fakes.oci_registry import FakeRegistry

Droplets = dict[str, Droplet]


class Died(BaseException):
    """Stands for a kill of the deployer: no handler of ours catches it."""


async def test_a_release_is_staged_flipped_and_recorded_on_all_hosts(
    droplets: Droplets, registry: FakeRegistry
) -> None:
    outcome = await rollouts(*droplets.values()).deploy(*make_release(registry, 1), QUICK)

    assert (outcome.status, outcome.lost_volumes) == ("committed", ())
    assert [droplet.live_release() for droplet in droplets.values()] == ["1", "1"]
    status = await rollouts(*droplets.values()).status()
    assert {state.current.seq for state in status.states.values() if state.current} == {1}


async def test_one_host_that_fails_keeps_every_host_on_its_release(droplets: Droplets, registry: FakeRegistry) -> None:
    works = rollouts(*droplets.values())
    await works.deploy(*make_release(registry, 1), QUICK)
    droplets["web-2"].fail("compose up")

    outcome = await works.deploy(*make_release(registry, 2), QUICK)

    assert (outcome.status, outcome.failed_step) == ("reverted", "start@web-2")
    assert "told to fail" in outcome.why
    assert [droplet.live_release() for droplet in droplets.values()] == ["1", "1"]


async def test_a_broken_release_shows_the_last_words_of_what_failed(droplets: Droplets, registry: FakeRegistry) -> None:
    works = rollouts(droplets["web-1"])
    await works.deploy(*make_release(registry, 1), QUICK)

    outcome = await works.deploy(*make_release(registry, 2, is_bad=True), QUICK)

    assert outcome.failed_step == "health@web-1"
    assert outcome.last_words is not None
    assert "last words of shop-green-web" in outcome.last_words["web-1"]["web"]["log"]
    assert droplets["web-1"].live_release() == "1"


async def test_what_is_not_signed_by_a_key_of_the_host_is_refused_before_anything_is_pulled(
    droplets: Droplets, registry: FakeRegistry
) -> None:
    outcome = await rollouts(droplets["web-1"]).deploy(*make_release(registry, 1, signer=signing.make_key()), QUICK)

    assert outcome.failed_step == "verify@web-1"
    assert "No key of this host signed the release" in outcome.why
    assert droplets["web-1"].docker()["images"] == []


async def test_an_image_without_a_signature_is_refused(droplets: Droplets, registry: FakeRegistry) -> None:
    manifest, bundle = make_release(registry, 1)
    registry.manifests["acme/shop-web"].clear()

    outcome = await rollouts(droplets["web-1"]).deploy(manifest, bundle, QUICK)

    assert "is not signed" in outcome.why
    assert droplets["web-1"].docker()["images"] == []


async def test_a_registry_that_does_not_answer_is_a_refusal(droplets: Droplets, registry: FakeRegistry) -> None:
    registry_release = make_release(registry, 1)
    registry.fail_next = 503

    outcome = await rollouts(droplets["web-1"]).deploy(*registry_release, QUICK)

    assert outcome.failed_step == "verify@web-1"
    assert "HTTP 503" in outcome.why


async def test_a_compose_file_with_volumes_of_its_own_is_refused(droplets: Droplets, registry: FakeRegistry) -> None:
    from devtools_platform.deploy.host.verify import hash_of

    compose = json.dumps({"services": {"web": {}}, "volumes": {"pgdata": {}}})
    manifest, _ = make_release(registry, 1)
    manifest = manifest.model_copy(update={"compose_sha256": hash_of(compose.encode())})
    envelope = signing.make_envelope(signing.RELEASE_TYPE, manifest.model_dump_json().encode(), SIGNER)
    from devtools_platform.deploy.types import Bundle

    outcome = await rollouts(droplets["web-1"]).deploy(
        manifest, Bundle(envelope=json.dumps(envelope), compose=compose, config={}), QUICK
    )

    assert "declares volumes of its own: pgdata" in outcome.why


async def test_going_back_is_only_a_flip_while_the_old_release_still_runs(
    droplets: Droplets, registry: FakeRegistry
) -> None:
    works = rollouts(*droplets.values())
    for seq in (1, 2):
        await works.deploy(*make_release(registry, seq), QUICK)
    before = [len([c for c in d.docker()["calls"] if "up" in c]) for d in droplets.values()]

    outcome = await works.roll_back(None, QUICK)

    assert (outcome.status, outcome.seq) == ("committed", 1)
    assert [droplet.live_release() for droplet in droplets.values()] == ["1", "1"]
    assert [len([c for c in d.docker()["calls"] if "up" in c]) for d in droplets.values()] == before


async def test_going_further_back_starts_the_recorded_release_again_without_the_registry(
    droplets: Droplets, registry: FakeRegistry
) -> None:
    works = rollouts(droplets["web-1"])
    for seq in (1, 2, 3):
        await works.deploy(*make_release(registry, seq), QUICK)
    registry.manifests.clear()

    outcome = await works.roll_back(1, QUICK)

    assert (outcome.status, outcome.seq) == ("committed", 1)
    assert droplets["web-1"].live_release() == "1"


async def test_a_release_that_never_ran_is_nothing_to_go_back_to(droplets: Droplets, registry: FakeRegistry) -> None:
    works = rollouts(droplets["web-1"])
    await works.deploy(*make_release(registry, 1), QUICK)

    with pytest.raises(Conflict, match="was not recorded on every host"):
        await works.roll_back(7, QUICK)


async def test_a_second_deployer_meets_the_lock_and_learns_who_holds_it(
    droplets: Droplets, registry: FakeRegistry
) -> None:
    works, other = rollouts(droplets["web-1"]), rollouts(droplets["web-1"], actor="bob")
    async with works.locked():
        with pytest.raises(Conflict, match="A rollout is in progress, by ada"):
            await other.deploy(*make_release(registry, 1), QUICK)

    assert (await other.deploy(*make_release(registry, 1), QUICK)).status == "committed"


@pytest.mark.parametrize(
    ("action", "host"),
    [("verify", "web-1"), ("start", "web-2"), ("flip", "web-1"), ("commit", "web-1"), ("commit", "web-2")],
)
async def test_a_deployer_that_dies_after_any_step_leaves_hosts_that_come_together_again(
    droplets: Droplets, registry: FakeRegistry, action: str, host: str
) -> None:
    works = rollouts(*droplets.values())
    await works.deploy(*make_release(registry, 1), QUICK)

    def die(step: Step) -> None:
        if step.id == f"{action}@{host}":
            raise Died

    works.after_step = die
    with pytest.raises(Died):
        await works.deploy(*make_release(registry, 2), QUICK)
    works.after_step = None
    situation = await works.status()

    is_committed = action == "commit"
    finished = "nothing" if host == "web-2" else "finished"
    assert situation.recovered == (finished if is_committed else "reverted")
    wanted = 2 if is_committed else 1
    assert {state.current.seq for state in situation.states.values() if state.current} == {wanted}
    assert [droplet.live_release() for droplet in droplets.values()] == [str(wanted)] * 2
    assert all(droplet.docker()["volumes"] == ["pgdata"] for droplet in droplets.values())
    if not is_committed:
        assert (await works.deploy(*make_release(registry, 2), QUICK)).status == "committed"


async def test_a_held_rollout_waits_for_a_person_and_is_then_what_was_planned(
    droplets: Droplets, registry: FakeRegistry
) -> None:
    works = rollouts(*droplets.values())
    await works.deploy(*make_release(registry, 1), QUICK)
    held = await works.deploy(*make_release(registry, 2), Options(**{**QUICK.model_dump(), "is_held": True}))
    assert (held.status, droplets["web-1"].live_release()) == ("held", "1")
    assert (await works.status()).recovered == "held"
    with pytest.raises(TooLate):
        await works.promote("0" * 64)

    outcome = await works.promote(held.plan_hash)

    assert (outcome.status, outcome.plan_hash) == ("committed", held.plan_hash)
    assert [droplet.live_release() for droplet in droplets.values()] == ["2", "2"]


async def test_a_held_rollout_can_be_aborted(droplets: Droplets, registry: FakeRegistry) -> None:
    works = rollouts(*droplets.values())
    await works.deploy(*make_release(registry, 1), QUICK)
    await works.deploy(*make_release(registry, 2), Options(**{**QUICK.model_dump(), "is_held": True}))

    assert (await works.abort()).status == "reverted"
    assert [droplet.live_release() for droplet in droplets.values()] == ["1", "1"]


async def test_a_plan_that_is_no_longer_true_is_not_carried_out(droplets: Droplets, registry: FakeRegistry) -> None:
    works = rollouts(droplets["web-1"])
    release = make_release(registry, 2)
    plan = await works.plan(*release, QUICK)
    await works.deploy(*make_release(registry, 1), QUICK)

    with pytest.raises(TooLate, match="The hosts or the release changed"):
        await works.deploy(*release, QUICK, plan.hash)


async def test_a_volume_that_is_missing_afterwards_is_an_alarm(droplets: Droplets, registry: FakeRegistry) -> None:
    works = rollouts(droplets["web-1"])

    def lose(step: Step) -> None:
        if step.action == "flip":
            droplets["web-1"].set_docker(volumes=[])

    works.after_step = lose
    outcome = await works.deploy(*make_release(registry, 1), QUICK)

    assert outcome.lost_volumes == ("pgdata",)


async def test_the_audit_is_a_chain_that_shows_what_was_bent(droplets: Droplets, registry: FakeRegistry) -> None:
    works = rollouts(droplets["web-1"])
    await works.deploy(*make_release(registry, 1), QUICK)
    await works.deploy(*make_release(registry, 2, is_bad=True), QUICK)
    chain = (await works.history())["web-1"]

    assert [entry["action"] for entry in chain] == ["begin", "commit", "begin", "revert"]
    assert check_chain(chain) is None
    chain[1]["actor"] = "mallory"
    assert check_chain(chain) == 2


async def test_prune_keeps_what_can_be_gone_back_to(droplets: Droplets, registry: FakeRegistry) -> None:
    works = rollouts(droplets["web-1"])
    for seq in (1, 2, 3, 4):
        await works.deploy(*make_release(registry, seq), QUICK)

    done = (await works.prune(1))["web-1"]

    assert (done["kept"], len(done["removed"]), done["lost_volumes"]) == ([4, 3], 2, [])
    assert (await works.roll_back(None, QUICK)).status == "committed"


async def test_debug_says_what_a_person_needs(droplets: Droplets, registry: FakeRegistry) -> None:
    works = rollouts(droplets["web-1"])
    await works.deploy(*make_release(registry, 1), QUICK)

    facts = (await works.debug("web", 20))["web-1"]

    assert facts["containers"][0] | {"log": ""} == facts["containers"][0] | {
        "log": "",
        "state": "healthy",
        "is_current": True,
    }
    assert facts["audit_broken_at"] is None
    assert facts["volumes"] == ["pgdata"]


async def test_debug_finds_the_service_that_an_agent_runs_in(droplets: Droplets, registry: FakeRegistry) -> None:
    works = rollouts(droplets["web-1"])
    await works.deploy(*make_release(registry, 1), QUICK)
    containers = droplets["web-1"].docker()["containers"]
    for container in containers.values():
        container["labels"]["dev-tools.agents"] = "cicd code-review"
    droplets["web-1"].set_docker(containers=containers)

    facts = (await works.debug("code-review", 20))["web-1"]
    with pytest.raises(NotFound, match="'feature-dev'") as raised:
        await works.debug("feature-dev", 20)

    assert [one["service"] for one in facts["containers"]] == ["web"]
    assert raised.value.hint == "There are: cicd, code-review, web."


async def test_steps_without_the_lock_are_refused(droplets: Droplets) -> None:
    works = rollouts(droplets["web-1"])
    async with works._sessions() as sessions:
        for action in ("begin", "flip", "prune", "revert"):
            with pytest.raises(Exception, match="needs the lock"):
                await sessions["web-1"].call(action, {})


async def test_a_session_that_hears_nothing_frees_its_lock(droplets: Droplets) -> None:
    works = rollouts(droplets["web-1"])
    async with works._sessions() as sessions:
        session = sessions["web-1"]
        await session.call("lock", {"actor": "ada"})
        session._beats.cancel()
        began = asyncio.get_running_loop().time()
        await asyncio.wait_for(session.process.wait(), 5)
        assert asyncio.get_running_loop().time() - began < 5


def test_an_old_release_cannot_be_offered_again(droplets: Droplets, registry: FakeRegistry) -> None:
    async def offer() -> None:
        works = rollouts(droplets["web-1"])
        old = make_release(registry, 1)
        await works.deploy(*old, QUICK)
        await works.deploy(*make_release(registry, 2), QUICK)
        async with works.locked() as (sessions, _):
            args = {"rollout": "x", "plan": "x", "kind": "deploy", "seq": 1, "colour": "blue"}
            await sessions["web-1"].call("begin", args)
            import base64

            envelope = base64.b64encode(old[1].envelope.encode()).decode()
            with pytest.raises(Forbidden, match="Release 1 is older than release 2"):
                await sessions["web-1"].call("verify", {"envelope": envelope, "compose": old[1].compose, "config": {}})

    asyncio.run(offer())
