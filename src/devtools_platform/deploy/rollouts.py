"""Carries plans out: locks every host, runs the steps wave by wave, and returns all of them when one fails.

The only decisions here are when to stop and which way to leave; what is done stands in the plan, how in the host
program.
"""

import asyncio
import base64
import secrets
import time
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

from devtools_platform.core.errors import BadInput, Conflict, DevToolsError, TooLate, Unavailable
from devtools_platform.core.redact import redact
from devtools_platform.deploy.interfaces import AfterStep, Connect, Progress, Session, Vulnerabilities
from devtools_platform.deploy.plan import plan_deploy, plan_recovery, plan_rollback, steps_from, waves
from devtools_platform.deploy.types import (
    DEPLOYER,
    Bundle,
    GateResult,
    Host,
    HostState,
    Options,
    Outcome,
    Plan,
    ReleaseManifest,
    Step,
)

Sessions = Mapping[str, Session]
GATES: Mapping[str, Any] = {"vulnerabilities": "vulnerabilities", "traces": "traces", "gate": "alerts"}
"""Steps that say what they know, and what each asks."""


@dataclass(frozen=True)
class Situation:
    """What `rollout status` found, and what it did about an interrupted rollout."""

    states: Mapping[str, HostState]
    recovered: str
    """`nothing`, `held`, `reverted`, `finished`, or `busy` where somebody holds the lock."""
    unreachable: Mapping[str, str] = field(default_factory=dict[str, str])


class InDoubt(Unavailable):
    """A host was lost while it committed: nobody knows yet which release it recorded."""

    code = "in_doubt"


@dataclass
class Rollouts:
    """Rollouts over a set of hosts."""

    hosts: Sequence[Host]
    connect: Connect
    actor: str
    progress: Progress
    login: Mapping[str, tuple[str, str]] = field(default_factory=dict[str, tuple[str, str]])
    after_step: AfterStep | None = None
    vulnerabilities: Vulnerabilities | None = None
    """Asked where a plan has that step."""

    async def plan(self, manifest: ReleaseManifest, bundle: Bundle, options: Options) -> Plan:
        """What `deploy` would do now. Changes nothing."""
        async with self._sessions() as sessions:
            return plan_deploy(manifest, bundle.sha256, await _states(sessions), options)

    async def plan_rollback(self, seq: int | None, options: Options) -> Plan:
        async with self._sessions() as sessions:
            return plan_rollback(await _states(sessions), seq, options)

    async def deploy(
        self, manifest: ReleaseManifest, bundle: Bundle, options: Options, approved: str | None = None
    ) -> Outcome:
        """Roll a release out. `approved` is the hash of the plan a person saw: another plan raises `TooLate`."""
        async with self.locked() as (sessions, states):
            plan = plan_deploy(manifest, bundle.sha256, states, options)
            check_approval(plan.hash, approved)
            return await self._carry_out(plan, sessions, bundle, manifest=manifest)

    async def roll_back(self, seq: int | None, options: Options, approved: str | None = None) -> Outcome:
        """Go back to a recorded release; see `plan_rollback`."""
        async with self.locked() as (sessions, states):
            plan = plan_rollback(states, seq, options)
            check_approval(plan.hash, approved)
            return await self._carry_out(plan, sessions, None)

    async def promote(self, approved: str | None = None) -> Outcome:
        """Go on with a rollout that is held. Raises `Conflict` when there is none."""
        async with self.locked(recover=False) as (sessions, states):
            if plan_recovery(dict(states)) != "held":
                raise Conflict("No rollout is held on all hosts.", hint="Look with `dev-tools rollout status`.")
            journal = next(iter(states.values())).journal or {}
            plan = Plan.model_validate(journal["model"])
            check_approval(plan.hash, approved)
            return await self._carry_out(steps_from(plan, "flip"), sessions, None, rollout=journal["rollout"], of=plan)

    async def abort(self) -> Outcome:
        """Undo a rollout that is held, or was interrupted before it was committed anywhere."""
        async with self.locked(recover=False) as (sessions, states):
            if plan_recovery(dict(states)) not in {"held", "revert"}:
                raise Conflict("There is no rollout to abort.", hint="Look with `dev-tools rollout status`.")
            journal = next(state.journal for state in states.values() if state.journal)
            began = time.perf_counter()
            told = await self._revert(sessions, f"aborted by {self.actor}")
            seconds = time.perf_counter() - began
            return Outcome(journal["rollout"], "reverted", journal["seq"], journal["plan"], seconds, "aborted", **told)

    async def status(self, *, recover: bool = True) -> Situation:
        """What every host says. An interrupted rollout is finished or undone first, unless `recover` is false."""
        sessions, unreachable = await self._open_reachable()
        try:
            states = await _states(sessions)
            if not recover or unreachable or plan_recovery(states) in {"nothing", "held"}:
                return Situation(states, plan_recovery(states) if recover else "nothing", unreachable)
            try:
                states = await self._lock(sessions)
            except Conflict:
                return Situation(states, "busy", unreachable)
            done = await self._recover(sessions, states)
            return Situation(await _states(sessions), done, unreachable)
        finally:
            await _close(sessions)

    async def history(self) -> dict[str, list[dict[str, Any]]]:
        """The audit of every host, oldest first."""
        async with self._sessions() as sessions:
            return {host: await session.call("audit", {}) for host, session in sessions.items()}

    async def overview(self) -> dict[str, dict[str, Any]]:
        async with self._sessions() as sessions:
            return {host: await session.call("overview", {}) for host, session in sessions.items()}

    async def debug(self, service: str, lines: int) -> dict[str, dict[str, Any]]:
        """What every host knows of a service. Read-only, and possible while a rollout runs."""
        async with self._sessions() as sessions:
            args = {"service": service, "lines": lines}
            return {host: redact(await session.call("debug", args)) for host, session in sessions.items()}

    async def check(self, now: float) -> dict[str, dict[str, Any]]:
        """Whether each host could take a rollout: the preflight, alone."""
        async with self.locked(recover=False) as (sessions, _):
            args = {"now": now, "nonce": secrets.token_hex(8)}
            return {host: await session.call("preflight", args) for host, session in sessions.items()}

    async def prune(self, keep: int, *, recover: bool = True) -> dict[str, dict[str, Any]]:
        """Remove images but those of the current and the last `keep` releases."""
        async with self.locked(recover=recover) as (sessions, _):
            return {host: await session.call("prune", {"keep": keep}) for host, session in sessions.items()}

    # -- carrying out --------------------------------------------------------------------------------------------

    async def _carry_out(
        self,
        plan: Plan,
        sessions: Sessions,
        bundle: Bundle | None,
        *,
        rollout: str | None = None,
        of: Plan | None = None,
        manifest: ReleaseManifest | None = None,
    ) -> Outcome:
        began = time.perf_counter()
        id_ = rollout or secrets.token_hex(6)
        args = self._arguments(of or plan, id_, bundle)

        gates: list[GateResult] = []

        def outcome(status: Any, why: str = "", step: str | None = None, **more: Any) -> Outcome:
            seconds = time.perf_counter() - began
            return Outcome(id_, status, plan.seq, (of or plan).hash, seconds, why, step, gates=tuple(gates), **more)

        lost: set[str] = set()
        for action, steps in waves(plan):
            self.progress(action, ", ".join(step.host for step in steps))
            if action == "commit":
                return outcome("committed", **await self._commit(steps, sessions, args, lost))
            failed = await self._run_wave(steps, sessions, args, plan, manifest, gates)
            if failed is not None:
                step, error = failed
                self.progress("return", f"{step.id} failed: {error}")
                return outcome("reverted", str(error), step.id, **await self._revert(sessions, f"{step.id}: {error}"))
            if action == "hold":
                return outcome("held")
        raise AssertionError(plan)

    async def _run_wave(
        self,
        steps: Sequence[Step],
        sessions: Sessions,
        args: Mapping[str, Any],
        plan: Plan,
        manifest: ReleaseManifest | None,
        gates: list[GateResult],
    ) -> tuple[Step, DevToolsError] | None:
        """The same action on all hosts, side by side. The first that failed, or None; `gates` gets what they said."""
        results = await asyncio.gather(
            *(
                self._look_up(step, plan.options, manifest)
                if step.host == DEPLOYER
                else self._run_step(step, sessions, args)
                for step in steps
            ),
            return_exceptions=True,
        )
        for step, result in zip(steps, results, strict=True):
            if isinstance(result, DevToolsError):
                return step, result
            if isinstance(result, BaseException):
                raise result
            if step.action in GATES:
                gates.append(_read_gate(step, result))
        return None

    async def _look_up(self, step: Step, options: Options, manifest: ReleaseManifest | None) -> dict[str, Any]:
        """The step of the deployer itself: known vulnerabilities of what is to go out."""
        if self.vulnerabilities is None or manifest is None or options.refuse_severity is None:
            raise AssertionError(step)
        check = self.vulnerabilities.check
        found = await asyncio.to_thread(
            check, manifest, options.refuse_severity, accepts_unknown=options.accepts_unknown
        )
        if self.after_step:
            self.after_step(step)
        return found.model_dump(exclude={"gate"})

    async def _run_step(self, step: Step, sessions: Sessions, args: Mapping[str, Any]) -> Any:
        own = {**args, "colour": args["colours"][step.host]}
        result = await sessions[step.host].call(step.action, own)
        if self.after_step:
            self.after_step(step)
        return result

    async def _commit(
        self, steps: Sequence[Step], sessions: Sessions, args: Mapping[str, Any], lost: set[str]
    ) -> dict[str, Any]:
        """One host after the other: the first that records the release decides for all.

        Raises `InDoubt` when that one is lost on the way: it may or may not have recorded.
        """
        unreachable: list[str] = []
        for place, step in enumerate(steps):
            try:
                lost |= set((await self._run_step(step, sessions, args))["lost_volumes"])
            except DevToolsError as error:
                if place == 0:
                    raise InDoubt(
                        f"{step.host!r} did not confirm that it recorded the release: {error}",
                        hint="`dev-tools rollout status` finds out, and finishes or undoes the rollout everywhere.",
                    ) from None
                unreachable.append(step.host)
        return {"lost_volumes": tuple(sorted(lost)), "unreachable": tuple(unreachable)}

    async def _revert(self, sessions: Sessions, why: str) -> dict[str, Any]:
        words: dict[str, Any] = {}
        lost: set[str] = set()
        unreachable: list[str] = []

        async def tell(host: str, session: Session) -> None:
            try:
                said = await session.call("revert", {"why": why})
            except DevToolsError as error:
                self.progress(host, f"could not be told to return: {error}")
                unreachable.append(host)
                return
            lost.update(said.get("lost_volumes", []))
            if said.get("last_words"):
                words[host] = redact(said["last_words"])

        await asyncio.gather(*(tell(host, session) for host, session in sessions.items()))
        return {"last_words": words, "lost_volumes": tuple(sorted(lost)), "unreachable": tuple(sorted(unreachable))}

    async def _recover(self, sessions: Sessions, states: Mapping[str, HostState]) -> str:
        """Bring hosts that an interrupted rollout left apart together again."""
        match plan_recovery(dict(states)):
            case "forward":
                for host in (host for host, state in states.items() if state.journal):
                    self.progress(host, "finishing a rollout that another host has recorded")
                    await sessions[host].call("forward", {})
                return "finished"
            case "revert":
                self.progress("return", "undoing a rollout that was interrupted")
                told = await self._revert(sessions, "the deployer was gone")
                if told["unreachable"]:
                    raise Unavailable(f"Not told to return: {', '.join(told['unreachable'])}.", hint="Try again.")
                return "reverted"
            case other:
                return other

    def _arguments(self, plan: Plan, rollout: str, bundle: Bundle | None) -> dict[str, Any]:
        args: dict[str, Any] = {
            "rollout": rollout,
            "plan": plan.hash,
            "model": plan.model_dump(mode="json"),
            "kind": plan.kind,
            "seq": plan.seq,
            "colours": {target.host: target.colour for target in plan.targets},
            "now": time.time(),
            "nonce": secrets.token_hex(8),
            "login": {host: list(pair) for host, pair in self.login.items()},
            **plan.options.model_dump(mode="json", include={"health_s", "drain_s", "watch_s"}),
        }
        if bundle is not None:
            args |= {"envelope": base64.b64encode(bundle.envelope.encode()).decode()}
            args |= {"compose": bundle.compose, "config": bundle.config}
        return args

    # -- connections ---------------------------------------------------------------------------------------------

    async def _open_reachable(self) -> tuple[dict[str, Session], dict[str, str]]:
        if not self.hosts:
            raise BadInput("The inventory names no hosts.", hint="Write deploy/hosts.yaml; see docs/how-to/deploy.md.")
        results = await asyncio.gather(*(self.connect(h, self.progress) for h in self.hosts), return_exceptions=True)
        sessions: dict[str, Session] = {}
        failed: dict[str, str] = {}
        for host, result in zip(self.hosts, results, strict=True):
            if isinstance(result, DevToolsError):
                failed[host.name] = str(result)
            elif isinstance(result, BaseException):
                await _close(sessions)
                raise result
            else:
                sessions[host.name] = result
        return sessions, failed

    @asynccontextmanager
    async def _sessions(self) -> AsyncGenerator[dict[str, Session]]:
        """Connections to every host. Raises `Unavailable` when one cannot be reached."""
        sessions, failed = await self._open_reachable()
        try:
            if failed:
                raise Unavailable(" ".join(failed.values()), hint=f"Try `dev-tools host check {min(failed)}`.")
            yield sessions
        finally:
            await _close(sessions)

    @asynccontextmanager
    async def locked(self, *, recover: bool = True) -> AsyncGenerator[tuple[dict[str, Session], dict[str, HostState]]]:
        """Every host's lock, and what each says; an interrupted rollout is finished or undone first."""
        async with self._sessions() as sessions:
            states = await self._lock(sessions)
            if recover and plan_recovery(states) in {"forward", "revert"}:
                await self._recover(sessions, states)
                states = await _states(sessions)
            yield sessions, states

    async def _lock(self, sessions: Sessions) -> dict[str, HostState]:
        """In the order of names, so that two deployers never hold one half each."""
        states: dict[str, HostState] = {}
        for host in sorted(sessions):
            states[host] = HostState.model_validate(await sessions[host].call("lock", {"actor": self.actor}))
        return states


async def _states(sessions: Sessions) -> dict[str, HostState]:
    answers = await asyncio.gather(*(session.call("state", {}) for session in sessions.values()))
    return {host: HostState.model_validate(answer) for host, answer in zip(sessions, answers, strict=True)}


def _read_gate(step: Step, said: Mapping[str, Any]) -> GateResult:
    where = "" if step.host == DEPLOYER else f"{step.host}: "
    return GateResult(gate=GATES[step.action], verdict=said["verdict"], why=f"{where}{said['why']}")


async def _close(sessions: Sessions) -> None:
    await asyncio.gather(*(session.aclose() for session in sessions.values()))


def check_approval(plan_hash: str, approved: str | None) -> None:
    """Raises `TooLate` when another plan was approved. None: nobody asked for one."""
    if approved is not None and approved != plan_hash:
        raise TooLate(
            f"The hosts or the release changed: now it would be plan {plan_hash[:12]}, approved was {approved[:12]}.",
            hint="Make and approve a new plan: `dev-tools rollout plan`.",
        )
