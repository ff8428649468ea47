"""From what hosts say of themselves to what will be done: pure, so that a plan can be shown, approved and tested.

STAGE on all hosts, then FLIP on all, then COMMIT on all: one host that fails keeps every host on its release.
"""

from collections.abc import Sequence
from itertools import groupby
from typing import Literal

from devtools_platform.core.errors import BadInput, Conflict
from devtools_platform.deploy.types import (
    DEPLOYER,
    Action,
    Colour,
    HostState,
    Kind,
    Options,
    Phase,
    Plan,
    Recorded,
    ReleaseManifest,
    Step,
    Target,
)

Recovery = Literal["nothing", "held", "revert", "forward"]
_ALWAYS: tuple[Action, ...] = ("preflight", "verify", "pull", "backup", "start", "health", "probe")


def plan_deploy(
    manifest: ReleaseManifest, digest: str, states: dict[str, HostState], options: Options | None = None
) -> Plan:
    """The plan of a new release. Raises `BadInput` for no or foreign hosts, `Conflict` for an old release."""
    options = options or Options()
    _check_states(manifest.application, states)
    for host, state in sorted(states.items()):
        highest = max((entry.seq for entry in state.recorded), default=0)
        if manifest.seq <= highest:
            raise Conflict(
                f"Release {manifest.seq} is not newer than release {highest}, which ran on {host!r}.",
                hint="Build a new one, or go back with `dev-tools rollout rollback`.",
            )
    migrates = {
        host
        for host, state in states.items()
        if manifest.database_revision
        and state.current
        and state.current.database_revision != manifest.database_revision
    }
    stage = _stage("deploy", options, has_smoke=bool(manifest.smoke), has_traces=manifest.traces is not None)
    return Plan(
        application=manifest.application,
        kind="deploy",
        seq=manifest.seq,
        git_sha=manifest.git_sha,
        release=digest,
        targets=_targets(states),
        options=options,
        steps=tuple(_steps(sorted(states), stage, migrates, "deploy")),
    )


def plan_rollback(states: dict[str, HostState], seq: int | None = None, options: Options | None = None) -> Plan:
    """The plan back to a release that was recorded on every host; by default the one before the current.

    Where it still runs in the idle colour of every host, only the requests go back. Raises `Conflict` where there is
    nothing to go back to.
    """
    options = options or Options(watch_s=0)
    names = {state.application for state in states.values()}
    _check_states(next(iter(names), ""), states)
    wanted = _common_target(states, seq)
    runs = all(s.idle is not None and s.idle.is_up and s.idle.seq == wanted.seq for s in states.values())
    kind: Kind = "return" if runs else "restage"
    return Plan(
        application=next(iter(names)),
        kind=kind,
        seq=wanted.seq,
        git_sha=wanted.git_sha,
        release=wanted.envelope,
        targets=_targets(states),
        options=options,
        steps=tuple(_steps(sorted(states), _stage(kind, options), set(), kind)),
    )


def plan_recovery(states: dict[str, HostState]) -> Recovery:
    """What an interrupted rollout needs. Once one host has committed, all had flipped: go on; else go back."""
    journals = [state.journal for state in states.values() if state.journal]
    if not journals:
        return "nothing"
    rollouts = {journal["rollout"] for journal in journals}
    committed = {state.recorded[-1].rollout for state in states.values() if state.recorded}
    if rollouts & committed:
        return "forward"
    if len(journals) == len(states) and len(rollouts) == 1 and all(j["phase"] == "held" for j in journals):
        return "held"
    return "revert"


def waves(plan: Plan) -> list[tuple[Action, list[Step]]]:
    """The plan's steps in order, those that run side by side together: the same action on all hosts."""
    grouped = groupby(plan.steps, key=_action_of)
    return [(action, list(steps)) for action, steps in grouped]


def steps_from(plan: Plan, phase: Phase) -> Plan:
    """What is left of a held plan when it is promoted."""
    kept = tuple(step for step in plan.steps if step.phase != "stage" or phase == "stage")
    return plan.model_copy(update={"steps": kept})


def _stage(kind: Kind, options: Options, *, has_smoke: bool = False, has_traces: bool = False) -> list[Action]:
    if kind == "return":
        return ["begin", "verify", "health", "probe"]
    is_looked_up = kind == "deploy" and options.refuse_severity is not None
    steps: list[tuple[bool, Action]] = [
        (True, "begin"),
        (is_looked_up, "vulnerabilities"),
        *((True, action) for action in _ALWAYS),
        (has_smoke, "smoke"),
        (has_traces and options.has_gate, "traces"),
        # Alerts are why people go back: they must not keep them from it.
        (options.has_gate and kind == "deploy", "gate"),
        (options.is_held, "hold"),
    ]
    return [action for wanted, action in steps if wanted]


def _action_of(step: Step) -> Action:
    return step.action


def _steps(hosts: Sequence[str], stage: Sequence[Action], migrates: set[str], kind: Kind) -> list[Step]:
    steps = [
        Step(host=host, phase="stage", action=action)
        for action in stage
        for host in ([DEPLOYER] if action == "vulnerabilities" else hosts)
        if action != "backup" or host in migrates
    ]
    # Going back must be quick: the colour that is left keeps running, so its last requests need no waiting for.
    flips: list[Action] = ["flip", "watch"] if kind == "return" else ["flip", "drain", "watch"]
    steps += [Step(host=host, phase="flip", action=action) for action in flips for host in hosts]
    return steps + [Step(host=host, phase="commit", action="commit") for host in hosts]


def _targets(states: dict[str, HostState]) -> tuple[Target, ...]:
    return tuple(
        Target(host=host, colour=_idle(state), from_seq=state.current.seq if state.current else None)
        for host, state in sorted(states.items())
    )


def _idle(state: HostState) -> Colour:
    return "green" if state.live == "blue" else "blue"


def _common_target(states: dict[str, HostState], seq: int | None) -> Recorded:
    options = [_earlier(state, seq) for _, state in sorted(states.items())]
    found = options[0]
    if found is None or any(option is None or option.envelope != found.envelope for option in options):
        asked = "an earlier release" if seq is None else f"release {seq}"
        raise Conflict(
            f"{asked[0].upper()}{asked[1:]} was not recorded on every host.",
            hint="See `dev-tools rollout history`, and name one with --to.",
        )
    return found


def _earlier(state: HostState, seq: int | None) -> Recorded | None:
    """The release to go back to: by its number, or the last other one that ran before the current did."""
    current = state.current.seq if state.current else None
    candidates = [entry for entry in state.recorded if entry.seq != current]
    if seq is not None:
        candidates = [entry for entry in candidates if entry.seq == seq]
    elif current is not None:
        candidates = [entry for entry in candidates if entry.seq < current] or candidates
    return candidates[-1] if candidates else None


def _check_states(application: str, states: dict[str, HostState]) -> None:
    if not states:
        raise BadInput("There are no hosts to roll out to.", hint="Name them in the inventory: deploy/hosts.yaml.")
    for host, state in sorted(states.items()):
        if state.application != application:
            raise BadInput(
                f"{host!r} is a host of {state.application!r}, not of {application!r}.",
                hint="Look at the inventory, and at application in the release.",
            )
        if state.journal and state.journal["phase"] != "held":
            raise Conflict(f"A rollout on {host!r} was interrupted.", hint="Run `dev-tools rollout status` first.")
        if state.journal:
            raise Conflict(f"A rollout is held on {host!r}.", hint="`dev-tools rollout promote`, or `rollout abort`.")
