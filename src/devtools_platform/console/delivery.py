"""What the console is told about releases and rollouts: what the registry has, what each host says, what is done.

Unknown is None: a release whose signature could not be checked is neither signed nor refused.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Literal, Protocol

RolloutKind = Literal["deploy", "stage", "rollback", "promote", "abort"]
"""`stage` is a deployment that stops before any request goes there; `promote` goes on, `abort` undoes it."""
RolloutStatus = Literal["running", "committed", "reverted", "held", "failed"]


@dataclass(frozen=True)
class Release:
    """A release in the registry. All but `seq` is unknown until its signature holds."""

    seq: int
    is_signed: bool | None
    """Whether its manifest's signature is by our key; None when that could not be checked."""
    problem: str = ""
    git_sha: str | None = None
    created_at: datetime | None = None
    services: tuple[str, ...] = ()
    probes: tuple[str, ...] = ()
    """What must answer 200 before it gets requests: service, port and path."""


@dataclass(frozen=True)
class Colour:
    """One of the two places of a host in which a release can run."""

    name: Literal["blue", "green"]
    seq: int | None
    """The release in it; None when there is none."""
    is_live: bool
    """Whether requests go there."""
    is_up: bool


@dataclass(frozen=True)
class Doing:
    """A rollout that has begun on a host and not ended."""

    phase: str
    kind: str
    seq: int
    done: tuple[str, ...]
    """Steps carried out so far, in order."""


@dataclass(frozen=True)
class Host:
    """A droplet as it answered; `error` says why it did not, and the rest is unknown then."""

    name: str
    error: str = ""
    git_sha: str | None = None
    colours: tuple[Colour, ...] = ()
    doing: Doing | None = None
    recorded: tuple[int, ...] = ()
    """Releases that ran there, oldest first."""


@dataclass(frozen=True)
class HostDeed:
    """An entry of a host's own audit."""

    host: str
    at: datetime
    actor: str
    action: str
    seq: int | None
    why: str


@dataclass(frozen=True)
class Delivered:
    """Everything as it was at one moment."""

    at: datetime
    hosts: Sequence[Host]
    releases: Sequence[Release]
    """Newest first."""
    registry_problem: str = ""
    """Why the registry's list is not here."""
    deeds: Sequence[HostDeed] = ()
    """Newest first, of all hosts."""
    broken_audits: tuple[str, ...] = ()
    """Hosts whose audit chain does not hold."""

    @property
    def is_held(self) -> bool:
        """Whether a rollout waits on all hosts for somebody to promote it."""
        return bool(self.hosts) and all(h.doing is not None and h.doing.phase == "held" for h in self.hosts)

    @property
    def is_busy(self) -> bool:
        """Whether a rollout has begun on a host and not ended: no other one can begin."""
        return any(host.doing is not None for host in self.hosts)

    @property
    def newest_recorded(self) -> int:
        """The newest release that ever ran on a host; hosts refuse to deploy one that is not newer. 0 for none."""
        return max((seq for host in self.hosts for seq in host.recorded), default=0)

    @property
    def returnable(self) -> Sequence[int]:
        """Releases one could go back to: they ran on every host that answers, and are not the ones that serve."""
        answering = [host for host in self.hosts if not host.error]
        serving = {colour.seq for host in answering for colour in host.colours if colour.is_live}
        ran = [set(host.recorded) for host in answering]
        return sorted(ran[0].intersection(*ran) - serving) if ran else []


@dataclass(frozen=True)
class PlannedStep:
    phase: str
    action: str
    hosts: tuple[str, ...]


@dataclass(frozen=True)
class RolloutPlan:
    """What would be done. `hash` names exactly this; what is started is this or nothing."""

    kind: RolloutKind
    seq: int
    git_sha: str
    hash: str
    targets: tuple[tuple[str, int | None, str], ...]
    """Host, the release it comes from, the colour it goes to."""
    steps: tuple[PlannedStep, ...]


@dataclass(frozen=True)
class LogLine:
    at: datetime
    part: str
    text: str


@dataclass(frozen=True)
class Rollout:
    """A rollout this stack has begun since it started. What became of older ones stands in the hosts' audits."""

    id: str
    kind: RolloutKind
    seq: int | None
    by: str
    started_at: datetime
    status: RolloutStatus = "running"
    ended_at: datetime | None = None
    lines: tuple[LogLine, ...] = ()
    why: str = ""
    hint: str = ""
    failed_step: str | None = None
    last_words: Mapping[str, str] = field(default_factory=dict[str, str])
    """`service on host` -> its state and the end of its log, where the new release failed."""


class DeliveryDesk(Protocol):
    """Releases and rollouts. Hosts and registry that do not answer are facts here, never exceptions."""

    @property
    def is_set_up(self) -> bool:
        """Whether there is an inventory of hosts."""
        ...

    def glance(self) -> Delivered | None:
        """What was last seen, at once; None before the first look. Looks again in the background when that is old."""
        ...

    async def look(self) -> Delivered | None:
        """What hosts and registry say, some seconds old; what was seen last where they are slow; None before that."""
        ...

    async def plan(self, kind: RolloutKind, seq: int | None) -> RolloutPlan:
        """What would be done now. Changes nothing. Raises the delivery's own errors."""
        ...

    async def start(self, kind: RolloutKind, seq: int | None, plan: str, by: str) -> str:
        """Begin the plan with this hash in the background; returns the rollout's id.

        Raises `Conflict` while another one runs here. A plan that is another one by then ends as `failed`.
        """
        ...

    def rollout(self, id_: str) -> Rollout:
        """Raises `NotFound`."""
        ...

    def rollouts(self) -> Sequence[Rollout]:
        """Newest first."""
        ...

    async def aclose(self) -> None:
        """End what runs in the background."""
        ...
