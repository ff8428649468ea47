"""Properties that hold for every plan, and what a plan is made from."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from devtools_platform.core.errors import BadInput, Conflict
from devtools_platform.deploy.host.commands import Command, Forbidden, Project, down, override, pull, remove_image
from devtools_platform.deploy.plan import plan_deploy, plan_recovery, plan_rollback, waves
from devtools_platform.deploy.types import Endpoint, HostState, Idle, Options, Plan, Recorded, ReleaseManifest, Smoke

SHA = "a" * 40
HASH = "b" * 64


def recorded(seq: int, rollout: str = "r", revision: str | None = None) -> Recorded:
    envelope = f"{seq:064x}"
    return Recorded(
        seq=seq,
        git_sha=f"{seq:040x}",
        envelope=envelope,
        rollout=f"{rollout}{seq}",
        kind="deploy",
        database_revision=revision,
    )


def manifest(seq: int, *, smoke: bool = False, traces: bool = False, revision: str | None = None) -> ReleaseManifest:
    from datetime import UTC, datetime

    return ReleaseManifest(
        application="shop",
        seq=seq,
        git_sha=SHA,
        created_at=datetime(2026, 1, 1, tzinfo=UTC),
        images={"web": f"r.example/acme/shop-web@sha256:{HASH}"},
        endpoints=(Endpoint(name="web", service="web", port=8000),),
        smoke=(Smoke(service="web", command=("true",)),) if smoke else (),
        traces=Smoke(service="web", command=("validate",)) if traces else None,
        compose_sha256=HASH,
        config_sha256=HASH,
        database_revision=revision,
    )


@st.composite
def host_states(draw: st.DrawFn) -> HostState:
    seqs = draw(st.lists(st.integers(1, 8), max_size=4, unique=True).map(sorted))
    history = tuple(recorded(seq) for seq in seqs)
    live = draw(st.sampled_from(["blue", "green"])) if history else None
    idle = None
    if len(history) > 1 and draw(st.booleans()):
        idle = Idle(seq=history[-2].seq, colour="green" if live == "blue" else "blue", is_up=draw(st.booleans()))
    current = history[-1] if history else None
    return HostState(application="shop", current=current, live=live, journal=None, idle=idle, recorded=history)


fleets = st.dictionaries(st.sampled_from(["web-1", "web-2", "web-3"]), host_states(), min_size=1)
options = st.builds(
    Options,
    watch_s=st.integers(0, 60),
    has_gate=st.booleans(),
    refuse_severity=st.none() | st.sampled_from(["low", "critical"]),
    is_held=st.booleans(),
)


def check_plan(plan: Plan, hosts: set[str]) -> None:
    """What is true of every plan."""
    actions = [(step.action, step.host) for step in plan.steps]
    for host in hosts:
        own = [action for action, where in actions if where == host]
        assert own.count("begin") == own.count("flip") == own.count("commit") == 1
        assert own[0] == "begin"
        assert own[-1] == "commit"
        assert max(own.index(a) for a in ("verify", "health", "probe")) < own.index("flip") < own.index("watch")
        assert "start" not in own or own.index("verify") < own.index("pull") < own.index("start")
    phases = [step.phase for step in plan.steps]
    assert phases == sorted(phases, key=["stage", "flip", "commit"].index), "one host flips only when all are staged"
    assert {target.host for target in plan.targets} == hosts
    assert len({plan.release}) == 1, "every host ends on the same release"
    assert [step for _, steps in waves(plan) for step in steps] == list(plan.steps)


@given(fleets, options, st.booleans(), st.booleans())
def test_a_deploy_never_flips_before_it_has_verified_and_probed_every_host_and_asked_the_gates(
    states: dict[str, HostState],
    chosen: Options,
    smoke: bool,  # noqa: FBT001 - hypothesis passes it
    traces: bool,  # noqa: FBT001 - hypothesis passes it
) -> None:
    plan = plan_deploy(manifest(9, smoke=smoke, traces=traces), HASH, states, chosen)

    check_plan(plan, set(states))
    order = [step.id for step in plan.steps]
    assert order.count("vulnerabilities@deployer") == (chosen.refuse_severity is not None)
    for host in states:
        assert (f"gate@{host}" in order) == chosen.has_gate
        assert (f"traces@{host}" in order) == (chosen.has_gate and traces)
        gates = [order.index(f"{name}@{host}") for name in ("gate", "traces") if f"{name}@{host}" in order]
        assert all(order.index(f"health@{host}") < gate < order.index(f"flip@{host}") for gate in gates)
        if chosen.refuse_severity:
            assert order.index("vulnerabilities@deployer") < order.index(f"pull@{host}")
    assert all(target.colour != states[target.host].live for target in plan.targets)


@given(fleets, st.none() | st.integers(1, 8))
def test_a_rollback_goes_to_one_recorded_release_on_all_hosts_or_nowhere(
    states: dict[str, HostState], seq: int | None
) -> None:
    try:
        plan = plan_rollback(states, seq)
    except Conflict:
        return
    check_plan(plan, set(states))
    assert not {step.action for step in plan.steps} & {"gate", "traces", "vulnerabilities"}
    for state in states.values():
        assert any(entry.seq == plan.seq and entry.envelope == plan.release for entry in state.recorded)
        assert state.current is None or state.current.seq != plan.seq
        assert plan.kind != "return" or (state.idle is not None and state.idle.is_up and state.idle.seq == plan.seq)


@given(fleets, options)
def test_the_same_situation_makes_the_same_plan_and_another_one_another_hash(
    states: dict[str, HostState], chosen: Options
) -> None:
    plan = plan_deploy(manifest(9), HASH, states, chosen)

    assert plan.hash == plan_deploy(manifest(9), HASH, states, chosen).hash
    assert plan.hash == Plan.model_validate_json(plan.model_dump_json()).hash
    assert plan.hash != plan_deploy(manifest(9), "c" * 64, states, chosen).hash


@given(fleets)
def test_a_release_that_is_not_newer_than_what_ran_is_not_planned(states: dict[str, HostState]) -> None:
    highest = max((entry.seq for state in states.values() for entry in state.recorded), default=0)
    if highest:
        with pytest.raises(Conflict, match="is not newer"):
            plan_deploy(manifest(highest), HASH, states)


def test_a_database_is_saved_before_a_release_that_migrates_it_and_only_there() -> None:
    here = HostState(
        application="shop",
        current=recorded(1, revision="0001"),
        live="blue",
        journal=None,
        idle=None,
        recorded=(recorded(1),),
    )
    same = [step.id for step in plan_deploy(manifest(2, revision="0001"), HASH, {"web-1": here}).steps]
    new = [step.id for step in plan_deploy(manifest(2, revision="0002"), HASH, {"web-1": here}).steps]

    assert "backup@web-1" not in same
    assert new.index("backup@web-1") < new.index("start@web-1")


def test_no_hosts_or_foreign_hosts_are_refused() -> None:
    with pytest.raises(BadInput, match="no hosts"):
        plan_deploy(manifest(1), HASH, {})
    foreign = HostState(application="other", current=None, live=None, journal=None, idle=None, recorded=())
    with pytest.raises(BadInput, match="is a host of 'other'"):
        plan_deploy(manifest(1), HASH, {"web-1": foreign})


@pytest.mark.parametrize(
    ("journals", "committed", "wanted"),
    [
        ([None, None], [], "nothing"),
        (["staging", None], [], "revert"),
        (["flipped", "flipped"], [], "revert"),
        (["held", "held"], [], "held"),
        (["held", None], [], "revert"),
        ([None, "flipped"], [0], "forward"),
        (["flipped", None], [1], "forward"),
    ],
)
def test_an_interrupted_rollout_goes_on_once_one_host_has_committed_and_back_before(
    journals: list[str | None], committed: list[int], wanted: str
) -> None:
    states = {
        f"web-{number}": HostState(
            application="shop",
            current=None,
            live="blue",
            journal=phase and {"rollout": "x7", "phase": phase},
            idle=None,
            recorded=(recorded(7, "x"),) if number in committed else (),
        )
        for number, phase in enumerate(journals)
    }

    assert plan_recovery(states) == wanted


words = st.text("abcdefghijklmnopqrstuvwxyz-_/:@.0123456789", min_size=1, max_size=20)


@given(
    st.lists(
        words | st.sampled_from(["volume", "rm", "prune", "system", "down", "-v", "--volumes", "compose"]), max_size=8
    )
)
def test_no_command_can_be_made_that_removes_a_volume(args: list[str]) -> None:
    try:
        command = Command(tuple(args))
    except Forbidden:
        return
    assert command.verb[0] != "system"
    assert "prune" not in command.verb
    assert command.verb != ("volume", "rm")
    assert command.verb == ("compose", "exec") or not {"-v", "--volumes"} & set(args)


@pytest.mark.parametrize(
    "args",
    [
        ("system", "prune", "--volumes", "-f"),
        ("volume", "rm", "pgdata"),
        ("volume", "prune", "-f"),
        ("compose", "--project-name", "x", "down", "--volumes"),
        ("compose", "--project-name", "x", "down", "-v"),
        ("compose", "--project-name", "x", "down", "--volumes=true"),
        ("compose", "-p", "x", "down"),
        ("rm", "-fv", "x"),
        ("--host", "tcp://x", "volume", "rm", "x"),
        ("image", "prune", "-af"),
        ("compose", "--project-name", "volume", "rm"),
    ],
)
def test_commands_that_reach_data_cannot_be_expressed(args: tuple[str, ...]) -> None:
    with pytest.raises(Forbidden):
        Command(args)


def test_the_commands_of_a_rollout_are_these() -> None:
    from pathlib import Path

    project = Project("shop-blue", (Path("/r/compose.yaml"), Path("/r/blue.json")), Path("/r"))

    assert " ".join(project.up().argv) == (
        "docker compose --project-name shop-blue --project-directory /r --file /r/compose.yaml --file /r/blue.json "
        "up --detach --no-build --pull never --quiet-pull --remove-orphans"
    )
    assert down("shop-blue").args == ("compose", "--project-name", "shop-blue", "down", "--timeout", "10")
    assert pull("r/x@sha256:1").args == ("pull", "--quiet", "r/x@sha256:1")
    assert remove_image("r/x@sha256:1").verb == ("image", "rm")
    assert override({"web": "r/x@sha256:1"}, {"web": ["127.0.0.1:1:2"]}, "7") == {
        "services": {"web": {"image": "r/x@sha256:1", "labels": {"dev-tools.release": "7"}, "ports": ["127.0.0.1:1:2"]}}
    }
