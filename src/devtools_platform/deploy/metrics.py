"""Rollouts as gauges: what each host says of itself and of its last rollout, read off its state and its audit.

A deployer is a command that ends; what it did stands on the hosts, so the stack asks them.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from prometheus_client import Gauge

from devtools_platform.deploy.types import HostState

State = Literal["idle", "staging", "held"]
STATES: tuple[State, ...] = ("idle", "staging", "held")
ENDS: Mapping[str, str] = {"commit": "committed", "revert": "reverted"}

UP = Gauge("devtools_rollout_host_up", "Whether the host answered when it was last asked", ["host"])
STATE = Gauge("devtools_rollout_state", "1 for what the host's rollout is doing now, else 0", ["host", "state"])
RELEASE = Gauge(
    "devtools_rollout_release", "Number of the release in a colour; the live one serves", ["host", "colour"]
)
LIVE = Gauge("devtools_rollout_colour_live", "1 for the colour that gets the requests, else 0", ["host", "colour"])
OUTCOME = Gauge("devtools_rollout_last_outcome", "1 for how the last rollout ended, else 0", ["host", "outcome"])
DURATION = Gauge("devtools_rollout_last_duration_seconds", "How long the last rollout that ended took", ["host"])
ENDED = Gauge("devtools_rollout_last_ended_timestamp_seconds", "When the last rollout ended", ["host"])


@dataclass(frozen=True)
class LastRollout:
    outcome: str
    duration_s: float | None
    """None where its beginning is not in the audit."""
    ended_at: float


def find_last(audit: Sequence[Mapping[str, Any]]) -> LastRollout | None:
    """How the newest rollout in a host's audit ended; None before the first."""
    end = next((entry for entry in reversed(audit) if entry["action"] in ENDS), None)
    if end is None:
        return None
    id_ = end["data"]["rollout"]
    began = [e["at"] for e in audit if e["action"] == "begin" and e["data"]["rollout"] == id_]
    return LastRollout(ENDS[end["action"]], end["at"] - began[0] if began else None, end["at"])


def show_host(host: str, state: HostState, audit: Sequence[Mapping[str, Any]]) -> None:
    """Set the gauges of a host that answered."""
    UP.labels(host).set(1)
    doing = "idle" if state.journal is None else "held" if state.journal.get("phase") == "held" else "staging"
    for name in STATES:
        STATE.labels(host, name).set(name == doing)
    _show_colours(host, state)
    last = find_last(audit)
    if last is None:
        return
    for outcome in ENDS.values():
        OUTCOME.labels(host, outcome).set(outcome == last.outcome)
    ENDED.labels(host).set(last.ended_at)
    if last.duration_s is not None:
        DURATION.labels(host).set(last.duration_s)


def show_silence(host: str) -> None:
    """A host that did not answer. What it said before stays: nobody knows better."""
    UP.labels(host).set(0)


def _show_colours(host: str, state: HostState) -> None:
    held: dict[str, int] = {}
    if state.live is not None and state.current is not None:
        held[state.live] = state.current.seq
    if state.idle is not None:
        held[state.idle.colour] = state.idle.seq
    for colour in ("blue", "green"):
        LIVE.labels(host, colour).set(colour == state.live)
        if colour in held:
            RELEASE.labels(host, colour).set(held[colour])
        else:
            RELEASE.remove(host, colour)
