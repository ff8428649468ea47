"""Blue/green between droplets: a public address moves from one droplet to the other, and back when that goes wrong.

The release is on the other droplet before (`rollout start --host`); here requests follow it. What each droplet holds
beside its containers does not move: the database must be one that both reach.
"""

import asyncio
import hashlib
import json
import secrets
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from devtools_platform.core.errors import BadInput, Conflict, DevToolsError, Unavailable
from devtools_platform.deploy.interfaces import CloudNetwork
from devtools_platform.deploy.rollouts import Rollouts, check_approval
from devtools_platform.deploy.types import Digest, GitSha, Host, HostState, Model, Name

SwitchStep = Literal["ready", "snapshot", "point", "watch", "record"]
ASK_EVERY_S = 1.0

Ask = Callable[[str], Awaitable[int | None]]
"""The HTTP status of an address; None when nothing answers."""


class SwitchOptions(Model):
    """How careful a switch is, in seconds."""

    takes_snapshot: bool = True
    """Of the droplet that serves now, before anything moves."""
    settle_s: float = 60
    """How long the address may take to answer from the new droplet."""
    watch_s: float = 30
    """How long it must then answer without a break."""


class SwitchPlan(Model):
    """What a switch will do; `hash` names exactly this."""

    application: Name
    address: str
    from_host: Name | None
    """None: the address points at no droplet yet, so there is none to snapshot, nor to go back to."""
    to_host: Name
    seq: int
    git_sha: GitSha
    release: Digest
    check_urls: tuple[str, ...]
    options: SwitchOptions
    steps: tuple[SwitchStep, ...]

    @property
    def hash(self) -> str:
        text = json.dumps(self.model_dump(mode="json"), sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(text.encode()).hexdigest()


@dataclass(frozen=True)
class SwitchOutcome:
    """What a switch came to. `serving` is where requests go now; None when the cloud could not be asked."""

    status: Literal["switched", "returned"]
    serving: str | None
    plan_hash: str
    seconds: float
    snapshot: str | None = None
    failed_step: str | None = None
    why: str = ""


def plan_switch(
    to_host: str,
    serving: int | None,
    hosts: Sequence[Host],
    states: Mapping[str, HostState],
    address: str,
    check_urls: tuple[str, ...],
    options: SwitchOptions,
) -> SwitchPlan:
    """Pure. Raises `BadInput` for hosts that are no pair, `Conflict` for one that serves or has nothing to serve."""
    droplets = {host.name: host.droplet for host in hosts}
    if droplets.get(to_host) is None:
        raise BadInput(
            f"The inventory does not say which droplet {to_host!r} is.",
            hint=f"Write its number: `{to_host}: {{address: ..., droplet: 12345}}`.",
        )
    if not check_urls:
        raise BadInput(
            "The inventory names no address to watch after the switch.",
            hint="Write `network: {check_urls: [https://app.example.org/health]}`.",
        )
    from_host = next((name for name, droplet in droplets.items() if droplet == serving and serving is not None), None)
    if serving is not None and from_host is None:
        raise Conflict(
            f"Droplet {serving} serves, and the inventory does not have it.",
            hint="Add it to the inventory: there must be something to go back to.",
        )
    if from_host == to_host:
        raise Conflict(f"{to_host!r} serves already.", hint="Nothing is to be done.")
    state = states[to_host]
    if state.journal is not None:
        raise Conflict(f"A rollout on {to_host!r} is not finished.", hint="Run `dev-tools rollout status` first.")
    if state.current is None:
        raise Conflict(f"{to_host!r} has no release.", hint=f"`dev-tools rollout start --host {to_host}` first.")
    snapshot: tuple[SwitchStep, ...] = ("snapshot",) if options.takes_snapshot and from_host else ()
    return SwitchPlan(
        application=state.application,
        address=address,
        from_host=from_host,
        to_host=to_host,
        seq=state.current.seq,
        git_sha=state.current.git_sha,
        release=state.current.envelope,
        check_urls=check_urls,
        options=options,
        steps=("ready", *snapshot, "point", "watch", "record"),
    )


@dataclass(frozen=True)
class Switches:
    """Switches between the hosts of `rollouts`, which stay locked meanwhile."""

    rollouts: Rollouts
    network: CloudNetwork
    check_urls: tuple[str, ...]
    ask: Ask
    sleep: Callable[[float], Awaitable[None]] = asyncio.sleep
    clock: Callable[[], float] = time.monotonic

    async def plan(self, to_host: str, options: SwitchOptions) -> SwitchPlan:
        """What `switch` would do now. Changes nothing."""
        situation = await self.rollouts.status(recover=False)
        if situation.unreachable:
            raise Unavailable(" ".join(situation.unreachable.values()), hint="Bring the host back first.")
        return await self._plan(to_host, situation.states, options)

    async def switch(self, to_host: str, options: SwitchOptions, approved: str | None = None) -> SwitchOutcome:
        """Move the address. A failure after the move moves it back. `approved` is the hash of the plan seen."""
        async with self.rollouts.locked() as (sessions, states):
            plan = await self._plan(to_host, states, options)
            check_approval(plan.hash, approved)
            return await self._carry_out(plan, sessions)

    async def _plan(self, to_host: str, states: Mapping[str, HostState], options: SwitchOptions) -> SwitchPlan:
        hosts = self.rollouts.hosts
        if to_host not in states:
            known = ", ".join(host.name for host in hosts)
            raise BadInput(f"The inventory has no host {to_host!r}; it has {known}.", hint="Name one of them.")
        serving = await self.network.serving()
        return plan_switch(to_host, serving, hosts, states, self.network.address, self.check_urls, options)

    async def _carry_out(self, plan: SwitchPlan, sessions: Mapping[str, Any]) -> SwitchOutcome:
        began, snapshot = self.clock(), None
        step: SwitchStep = plan.steps[0]
        is_moved = False
        try:
            for step in plan.steps:
                self.rollouts.progress(step, plan.to_host)
                match step:
                    case "ready":
                        await sessions[plan.to_host].call("ready", {"seq": plan.seq})
                    case "snapshot":
                        snapshot = await self._take_snapshot(plan)
                    case "point":
                        is_moved = True
                        await self.network.point_at(self._droplet(plan.to_host))
                    case "watch":
                        await self._watch(plan)
                    case "record":
                        await self._record(plan, sessions, snapshot)
        except DevToolsError as error:
            self.rollouts.progress("return", f"{step} failed: {error}")
            serving, also = await self._return(plan) if is_moved else (plan.from_host, "")
            seconds = self.clock() - began
            return SwitchOutcome("returned", serving, plan.hash, seconds, snapshot, step, f"{error}{also}")
        return SwitchOutcome("switched", plan.to_host, plan.hash, self.clock() - began, snapshot)

    async def _take_snapshot(self, plan: SwitchPlan) -> str:
        name = f"{plan.application}-before-{plan.seq}-{secrets.token_hex(3)}"
        return await self.network.snapshot(self._droplet(plan.from_host or ""), name)

    async def _watch(self, plan: SwitchPlan) -> None:
        """Wait until every address answers 200, then see that it goes on. Raises `Unavailable`."""
        deadline = self.clock() + plan.options.settle_s
        while bad := await self._silent(plan.check_urls):
            if self.clock() >= deadline:
                raise Unavailable(f"{bad} within {plan.options.settle_s:g} s of the switch.", hint="See `debug`.")
            await self.sleep(ASK_EVERY_S)
        deadline = self.clock() + plan.options.watch_s
        while self.clock() < deadline:
            await self.sleep(ASK_EVERY_S)
            if bad := await self._silent(plan.check_urls):
                raise Unavailable(f"{bad} while it was watched.", hint="See `dev-tools debug`.")

    async def _silent(self, urls: Sequence[str]) -> str:
        """What does not answer 200; empty when all do."""
        statuses = {url: await self.ask(url) for url in urls}
        return "; ".join(f"{url} answered {status or 'nothing'}" for url, status in statuses.items() if status != 200)  # noqa: PLR2004 - HTTP's own number

    async def _return(self, plan: SwitchPlan) -> tuple[str | None, str]:
        """Back to the droplet that served. Where requests go now, and what there is to say about it."""
        if plan.from_host is None:
            return plan.to_host, " There was no droplet to go back to."
        try:
            await self.network.point_at(self._droplet(plan.from_host))
        except DevToolsError as error:
            return None, f" GOING BACK FAILED TOO: {error} Point {plan.address} at {plan.from_host} by hand."
        return plan.from_host, ""

    async def _record(self, plan: SwitchPlan, sessions: Mapping[str, Any], snapshot: str | None) -> None:
        data = {"seq": plan.seq, "from": plan.from_host, "to": plan.to_host, "address": plan.address}
        for host in filter(None, (plan.to_host, plan.from_host)):
            await sessions[host].call("note_switch", {**data, "plan": plan.hash, "snapshot": snapshot})

    def _droplet(self, name: str) -> int:
        return next(host.droplet for host in self.rollouts.hosts if host.name == name and host.droplet is not None)
