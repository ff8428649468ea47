"""The console's view of releases and rollouts, over the same parts as `dev-tools release` and `dev-tools rollout`.

Hosts are asked over SSH and the registry over HTTP, so answers are kept for some seconds, and Home never waits for
them. A rollout runs in this process: when the process dies, every host returns by itself, as for a deployer that
was killed, and `rollout status` tells.
"""

import asyncio
import contextlib
import logging
import secrets
import time
from collections.abc import Callable, Coroutine, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import Any, Protocol

from devtools_platform.app.console_desks import ConsoleAudit
from devtools_platform.console.delivery import (
    Colour,
    Delivered,
    Doing,
    Host,
    HostDeed,
    LogLine,
    PlannedStep,
    Release,
    Rollout,
    RolloutKind,
    RolloutPlan,
)
from devtools_platform.core.errors import Conflict, DevToolsError, NotFound
from devtools_platform.core.redact import redact_text
from devtools_platform.deploy.host.store import COLOURS, check_chain
from devtools_platform.deploy.plan import plan_recovery, waves
from devtools_platform.deploy.releases import Releases
from devtools_platform.deploy.rollouts import Rollouts
from devtools_platform.deploy.types import Bundle, HostState, Options, Outcome, Plan, ReleaseManifest

log = logging.getLogger(__name__)

FRESH_S = 4.0
"""How old what hosts and registry said may be on the page of releases; about what its polling asks for."""
GLANCE_S = 30.0
"""The same for Home."""
SHOWN_RELEASES = 15
SHOWN_DEEDS = 40
KEPT_ROLLOUTS = 20
MAX_LINES = 2000
TOLD_LINES = 80


class Works(Protocol):
    """`app.delivery.Delivery`, as far as it is used here."""

    def releases(self) -> Releases: ...

    def rollouts_as(self, actor: str, progress: Callable[[str, str], None]) -> Rollouts: ...

    def public_key(self) -> bytes: ...


@dataclass
class ConsoleDelivery:
    """The console's `DeliveryDesk`. Use `aclose`."""

    works: Works
    has_hosts: Callable[[], bool]
    audit: ConsoleAudit
    patience: Options = field(default_factory=Options)
    """Of rollouts begun here: as `dev-tools rollout start` has it by default."""
    wait_s: float = 2.5
    """How long a page waits for hosts and registry, before it shows what was seen last."""
    _is_stale: bool = False
    """A rollout has changed what was seen: it may still be shown, and is looked at anew."""
    _seen: tuple[float, Delivered] | None = None
    _looking: asyncio.Task[None] | None = None
    _releases: Releases | None = None
    _rollouts: dict[str, Rollout] = field(default_factory=dict[str, Rollout])
    _tasks: set[asyncio.Task[Any]] = field(default_factory=set[asyncio.Task[Any]])
    _checked: dict[tuple[int, str], Release] = field(default_factory=dict[tuple[int, str], Release])

    @property
    def is_set_up(self) -> bool:
        return self.has_hosts()

    def glance(self) -> Delivered | None:
        if not self.is_set_up:
            return None
        if not self._is_seen_since(GLANCE_S):
            self._start_looking()
        return self._seen[1] if self._seen else None

    async def look(self) -> Delivered | None:
        if not self._is_seen_since(FRESH_S):
            await asyncio.wait({self._start_looking()}, timeout=self.wait_s)
        return self._seen[1] if self._seen else None

    def _start_looking(self) -> asyncio.Task[None]:
        """One look at a time, for however many pages."""
        if self._looking is None or self._looking.done():
            self._looking = self._spawn(self._look())
        return self._looking

    async def plan(self, kind: RolloutKind, seq: int | None) -> RolloutPlan:
        return _planned(kind, await self._plan(self._rollouts_of("console", _quiet), kind, seq))

    async def start(self, kind: RolloutKind, seq: int | None, plan: str, by: str) -> str:
        if any(one.status == "running" for one in self._rollouts.values()):
            raise Conflict("A rollout is running already.", hint="Watch it on Releases, and wait for its end.")
        id_ = secrets.token_hex(6)
        # Before the first step: what was begun is in the audit even when this process never comes to its end.
        self._rollouts[id_] = Rollout(id_, kind, seq, by, datetime.now(UTC))
        await self.audit.record(by, f"rollout.{kind}", f"rollout:{id_}", {"release": seq, "plan": plan})
        for old in list(self._rollouts)[:-KEPT_ROLLOUTS]:
            del self._rollouts[old]
        self._spawn(self._run(id_, kind, seq, plan, by))
        return id_

    def rollout(self, id_: str) -> Rollout:
        if id_ not in self._rollouts:
            raise NotFound(
                f"This stack began no rollout {id_!r} since it started.",
                hint="What became of older ones stands under Releases, as the hosts recorded it.",
            )
        return self._rollouts[id_]

    def rollouts(self) -> Sequence[Rollout]:
        return list(reversed(self._rollouts.values()))

    async def aclose(self) -> None:
        """Ends what runs. Hosts whose rollout is cut off return by themselves."""
        for task in list(self._tasks):
            task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.gather(*self._tasks, return_exceptions=True)
        if self._releases is not None:
            self._releases.registry.close()

    # -- carrying out --------------------------------------------------------------------------------------------

    async def _run(self, id_: str, kind: RolloutKind, seq: int | None, plan: str, by: str) -> None:
        def note(part: str, text: str) -> None:
            lines = (*self._rollouts[id_].lines, LogLine(datetime.now(UTC), part, redact_text(text)))
            self._change(id_, lines=lines[-MAX_LINES:])

        try:
            outcome = await self._carry_out(self._rollouts_of(by, note), kind, seq, plan)
            self._change(id_, **_told(outcome))
        except DevToolsError as error:
            self._change(id_, status="failed", why=str(error), hint=error.hint)
        except Exception:
            log.exception("rollout %s", id_)
            self._change(id_, status="failed", why="Something broke on our side.", hint="The stack's log says what.")
        finally:
            self._change(id_, ended_at=datetime.now(UTC))
            self._is_stale = True
        done = self._rollouts[id_]
        facts = {"status": done.status, "release": done.seq, "why": done.why}
        await self.audit.record(by, "rollout.end", f"rollout:{id_}", facts)

    async def _carry_out(self, rollouts: Rollouts, kind: RolloutKind, seq: int | None, plan: str) -> Outcome:
        match kind:
            case "deploy" | "stage":
                manifest, bundle = await self._fetch(seq)
                return await rollouts.deploy(manifest, bundle, self._options(kind), plan)
            case "rollback":
                return await rollouts.roll_back(seq, self._options(kind), plan)
            case "promote":
                return await rollouts.promote(plan)
            case "abort":
                return await rollouts.abort()

    async def _plan(self, rollouts: Rollouts, kind: RolloutKind, seq: int | None) -> Plan:
        match kind:
            case "deploy" | "stage":
                manifest, bundle = await self._fetch(seq)
                return await rollouts.plan(manifest, bundle, self._options(kind))
            case "rollback":
                return await rollouts.plan_rollback(seq, self._options(kind))
            case "promote" | "abort":
                return _held((await rollouts.status(recover=False)).states)

    def _registry(self) -> Releases:
        """One client for as long as we are there. Raises `BadInput` where no registry is set."""
        if self._releases is None:
            self._releases = self.works.releases()
        return self._releases

    def _options(self, kind: RolloutKind) -> Options:
        change: dict[str, Any] = {"watch_s": 0.0} if kind == "rollback" else {"is_held": kind == "stage"}
        return self.patience.model_copy(update=change)

    async def _fetch(self, seq: int | None) -> tuple[ReleaseManifest, Bundle]:
        """The release, its signature checked. The registry's client waits, so it waits elsewhere."""
        name, key = str(seq or "latest"), self.works.public_key()
        return await asyncio.to_thread(self._registry().fetch, name, key)

    def _rollouts_of(self, by: str, progress: Callable[[str, str], None]) -> Rollouts:
        return self.works.rollouts_as(f"{by}@console", progress)

    def _change(self, id_: str, **fields: Any) -> None:
        self._rollouts[id_] = replace(self._rollouts[id_], **fields)

    # -- looking -------------------------------------------------------------------------------------------------

    async def _look(self) -> None:
        self._is_stale = False
        (hosts, deeds, broken), (releases, problem) = await asyncio.gather(
            self._ask_hosts(), asyncio.to_thread(self._ask_registry)
        )
        self._seen = (time.monotonic(), Delivered(datetime.now(UTC), hosts, releases, problem, deeds, broken))

    async def _ask_hosts(self) -> tuple[list[Host], list[HostDeed], tuple[str, ...]]:
        try:
            rollouts = self._rollouts_of("console", _quiet)
            situation = await rollouts.status(recover=False)
        except DevToolsError as error:
            return [Host("inventory", error=f"{error} {error.hint}")], [], ()
        hosts = [_host(name, state) for name, state in situation.states.items()]
        hosts += [Host(name, error=why) for name, why in situation.unreachable.items()]
        chains: Mapping[str, list[dict[str, Any]]] = {}
        with contextlib.suppress(DevToolsError):  # a host that is away is told of above
            chains = await rollouts.history()
        deeds = [_deed(name, entry) for name, chain in chains.items() for entry in chain]
        broken = tuple(name for name, chain in chains.items() if check_chain(chain) is not None)
        deeds.sort(key=lambda deed: deed.at, reverse=True)
        return sorted(hosts, key=lambda host: host.name), deeds[:SHOWN_DEEDS], broken

    def _ask_registry(self) -> tuple[list[Release], str]:
        try:
            releases = self._registry()
            listed = releases.list_releases()[-SHOWN_RELEASES:]
        except DevToolsError as error:
            return [], f"{error} {error.hint}"
        return [self._check(releases, entry.seq) for entry in reversed(listed)], ""

    def _check(self, releases: Releases, seq: int) -> Release:
        """A release and whether its signature holds; one that held is not fetched again under the same key."""
        try:
            key = self.works.public_key()
        except DevToolsError as error:
            return Release(seq, None, str(error))
        known = self._checked.get((seq, key.hex()))
        if known is not None:
            return known
        try:
            manifest, _ = releases.fetch(str(seq), key)
        except DevToolsError as error:
            is_refused = error.status == 403  # noqa: PLR2004 - `Forbidden`: its signature or its files
            return Release(seq, False if is_refused else None, str(error))
        probes = tuple(f"{one.service}:{one.port}{one.probe}" for one in manifest.endpoints)
        found = Release(seq, True, "", manifest.git_sha, manifest.created_at, tuple(sorted(manifest.images)), probes)
        self._checked[seq, key.hex()] = found
        return found

    def _is_seen_since(self, seconds: float) -> bool:
        return self._seen is not None and not self._is_stale and time.monotonic() - self._seen[0] < seconds

    def _spawn(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task


def _quiet(part: str, text: str) -> None:
    """Looking tells nobody what it does."""


def _host(name: str, state: HostState) -> Host:
    current, idle, journal = state.current, state.idle, state.journal
    colours = tuple(
        Colour(
            colour,
            current.seq if is_live and current else idle.seq if idle and idle.colour == colour else None,
            is_live,
            is_live or bool(idle and idle.colour == colour and idle.is_up),
        )
        for colour in COLOURS
        for is_live in (state.live == colour,)
    )
    doing = None
    if journal:
        doing = Doing(journal["phase"], journal["kind"], journal["seq"], tuple(journal["done"]))
    recorded = tuple(entry.seq for entry in state.recorded)
    return Host(name, "", current.git_sha if current else None, colours, doing, recorded)


def _deed(host: str, entry: Mapping[str, Any]) -> HostDeed:
    data = entry["data"]
    at = datetime.fromtimestamp(entry["at"], UTC)
    return HostDeed(host, at, entry["actor"], entry["action"], data.get("seq"), redact_text(str(data.get("why", ""))))


def _held(states: Mapping[str, HostState]) -> Plan:
    """The plan of the rollout that waits on all hosts. Raises `Conflict` when there is none."""
    journal = next((state.journal for state in states.values() if state.journal), None)
    if journal is None or plan_recovery(dict(states)) != "held":
        raise Conflict("No rollout is held on all hosts.", hint="Look at Releases.")
    return Plan.model_validate(journal["model"])


def _planned(kind: RolloutKind, plan: Plan) -> RolloutPlan:
    steps = [PlannedStep(group[0].phase, action, tuple(s.host for s in group)) for action, group in waves(plan)]
    if kind == "promote":
        steps = [step for step in steps if step.phase != "stage"]
    if kind == "abort":
        steps = [PlannedStep("stage", "revert", tuple(target.host for target in plan.targets))]
    targets = tuple((target.host, target.from_seq, target.colour) for target in plan.targets)
    return RolloutPlan(kind, plan.seq, plan.git_sha, plan.hash, targets, tuple(steps))


def _told(outcome: Outcome) -> dict[str, Any]:
    why = outcome.why
    if outcome.lost_volumes:
        why = f"{why} ALARM: volumes are missing: {', '.join(outcome.lost_volumes)}.".strip()
    if outcome.unreachable:
        why = f"{why} Not told: {', '.join(outcome.unreachable)}; run `dev-tools rollout status`.".strip()
    words = {
        f"{service} on {host}": redact_text(f"{said['state']}, exit code {said['exit_code']}\n{_tail(said['log'])}")
        for host, services in (outcome.last_words or {}).items()
        for service, said in services.items()
    }
    return {
        "status": outcome.status,
        "seq": outcome.seq,
        "why": redact_text(why),
        "failed_step": outcome.failed_step,
        "last_words": words,
    }


def _tail(text: str) -> str:
    return "\n".join(text.rstrip().splitlines()[-TOLD_LINES:])
