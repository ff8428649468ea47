"""From self-hosted agent containers to managed agents, and back. The containers stop last, and only when every managed
agent has answered; what is no agent is never touched. Each step is written down before it is taken."""

import asyncio
import json
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from devtools_platform.agents.carriers import ProbeResult
from devtools_platform.app.agent_probe import probe_runtimes
from devtools_platform.app.agent_sync import AgentSync, Change
from devtools_platform.app.home import Home
from devtools_platform.app.self_hosted import COMPOSE_SERVICE, Container, Inspected, SelfHosted, read_inspected
from devtools_platform.config import Settings
from devtools_platform.config.environment import docker_environment
from devtools_platform.core.errors import BadInput, NotFound, ProgramFailed, Unavailable

FILE = "migrations.json"
DOCKER_S = 120.0
STOP_S = 30
START_S = 120.0

Progress = Callable[[str, str], None]
Phase = Literal["creating", "stopping", "done", "going_back", "back"]


@dataclass(frozen=True)
class Stopped:
    """A container that was stopped, and what `docker start` does not bring back: its restart policy."""

    id: str
    name: str
    restart: str


@dataclass(frozen=True)
class Record:
    """What a migration has done so far. Kept in the data directory."""

    phase: Phase
    created: tuple[str, ...] = ()
    """Agents whose managed agent did not exist before."""
    stopped: tuple[Stopped, ...] = ()


@dataclass(frozen=True)
class Plan:
    agents: Mapping[str, Container]
    kept: tuple[str, ...]
    """Containers that go on as they are."""
    changes: tuple[Change, ...]


@dataclass(frozen=True)
class Migrated:
    plan: Plan
    answers: Mapping[str, ProbeResult]
    stopped: tuple[str, ...]
    exported: Path


@dataclass
class Docker:
    """The engine whose containers they are: this machine's, or the one DOCKER_HOST names."""

    program: str = "docker"
    environment: Mapping[str, str] = field(default_factory=docker_environment)

    async def run(self, *arguments: str) -> str:
        """What it printed. Raises `ProgramFailed`."""
        return await asyncio.to_thread(self._run, arguments)

    def _run(self, arguments: Sequence[str]) -> str:
        argv = [self.program, *arguments]
        try:
            done = subprocess.run(
                argv, capture_output=True, text=True, env=dict(self.environment), timeout=DOCKER_S, check=False
            )
        except (OSError, subprocess.TimeoutExpired) as error:
            raise ProgramFailed(
                f"`{' '.join(argv)}` did not run: {error}.", hint="Is Docker there? See DOCKER_HOST."
            ) from None
        if done.returncode != 0:
            raise ProgramFailed(f"`{' '.join(argv)}` failed: {done.stderr.strip()[-500:]}", hint="See DOCKER_HOST.")
        return done.stdout

    async def inspect(self, container: str) -> Inspected:
        return read_inspected(await self.run("inspect", "--type", "container", container))[0]


@dataclass
class Migration:
    """The agents of one environment. `settings.environment` says which."""

    settings: Settings
    progress: Progress
    docker: Docker = field(default_factory=Docker)

    @property
    def home(self) -> Home:
        return Home.of(self.settings)

    # -- forward -------------------------------------------------------------------------------------------------------

    async def plan(self, found: SelfHosted) -> Plan:
        """What `run` would do. Raises `BadInput` for a container whose agent the environments file does not manage."""
        async with AgentSync.open(self.settings, self.settings.environment, self.progress) as sync:
            return await self._plan(found, sync)

    async def _plan(self, found: SelfHosted, sync: AgentSync) -> Plan:
        managed = sync.managed()
        if missing := [agent for agent in found.agents if agent not in managed]:
            raise BadInput(
                f"{', '.join(missing)} would stop and have nothing in their place: the environments file does not give "
                f"them the runtime `gradient` in {self.settings.environment!r}.",
                hint="Make a file to begin with: `dev-tools migrate draft FILE`.",
            )
        changes = [change for change in await sync.sync(is_dry=True) if change.agent in found.agents]
        return Plan(found.agents, tuple(one.name for one in found.others), tuple(changes))

    async def run(self, found: SelfHosted, *, wait_s: float) -> Migrated:
        """Export, create, wait, test each, then stop the containers. May be called again after any failure.

        Raises `Unavailable` when a managed agent does not run or answer; then no container was stopped.
        """
        async with AgentSync.open(self.settings, self.settings.environment, self.progress) as sync:
            plan = await self._plan(found, sync)
            exported = await asyncio.to_thread(self._export, found)
            before = self.find_record() or Record("creating")
            created = {change.agent for change in plan.changes if change.action == "create"} | set(before.created)
            self._keep(replace(before, phase="creating", created=tuple(sorted(created))))
            await sync.sync(is_dry=False)
            if not await sync.wait(wait_s):
                states = ", ".join(f"{one['agent']} is {one['status']}" for one in await sync.status())
                raise Unavailable(
                    f"Not all managed agents run, so no container was stopped: {states}.",
                    hint="Run `dev-tools migrate run` again, or take it back with `dev-tools migrate back`.",
                )
        answers = {agent: await self._test(agent) for agent in found.agents}
        if bad := [f"{agent}: {answer.text}" for agent, answer in answers.items() if not answer.ok]:
            raise Unavailable(
                f"No container was stopped, because these do not answer: {'; '.join(bad)}.",
                hint="Run `dev-tools agents test NAME`, mend it, then `dev-tools migrate run` again.",
            )
        stopped = await self._stop(found)
        return Migrated(plan, answers, stopped, exported)

    async def _test(self, agent: str) -> ProbeResult:
        self.progress(agent, "asked for one word")
        return (await probe_runtimes(self.settings, agent, self.progress))[0]

    def _export(self, found: SelfHosted) -> Path:
        """What each container was told, without secrets, as files a person can read and compare."""
        folder = self.settings.data_dir / "migration" / self.settings.environment
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        for agent, container in found.agents.items():
            (folder / f"{agent}.json").write_text(json.dumps(asdict(container), indent=2, sort_keys=True) + "\n")
        return folder

    async def _stop(self, found: SelfHosted) -> tuple[str, ...]:
        record = self._need_record()
        for agent, container in found.agents.items():
            now = await self.docker.inspect(await self._find(container))
            if not now.state.running:
                continue
            if now.id not in {one.id for one in record.stopped}:
                record = replace(record, stopped=(*record.stopped, Stopped(now.id, container.name, now.restart)))
            self._keep(record := replace(record, phase="stopping"))
            self.progress(agent, f"{container.name} stops; it stays, for `dev-tools migrate back`")
            await self.docker.run("update", "--restart=no", now.id)
            await self.docker.run("stop", "-t", str(STOP_S), now.id)
        self._keep(replace(record, phase="done"))
        return tuple(one.name for one in record.stopped)

    async def _find(self, container: Container) -> str:
        if container.id is not None:
            return container.id
        label = f"label={COMPOSE_SERVICE}={container.service}"
        ids = (await self.docker.run("ps", "--all", "--quiet", "--no-trunc", "--filter", label)).split()
        if len(ids) != 1:
            raise NotFound(
                f"{len(ids)} containers are the compose service {container.service!r}, where one was looked for.",
                hint="Give --inspect with `docker inspect` of the containers that are meant.",
            )
        return ids[0]

    # -- back ----------------------------------------------------------------------------------------------------------

    async def back(self, *, keep_managed: bool = False) -> Record:
        """Start the containers as they were; when all run, take away the managed agents that the migration made."""
        record = replace(self._need_record(), phase="going_back")
        self._keep(record)
        for one in record.stopped:
            self.progress(one.name, "starts")
            await self.docker.run("update", f"--restart={one.restart}", one.id)
            await self.docker.run("start", one.id)
        for one in record.stopped:
            await self._wait_for(one)
        if not keep_managed and record.created:
            async with AgentSync.open(self.settings, self.settings.environment, self.progress) as sync:
                for agent in record.created:
                    self.progress(agent, "its managed agent is deleted")
                    await sync.remove(agent)
            record = replace(record, created=())
        record = replace(record, phase="back")
        self._keep(record)
        return record

    async def _wait_for(self, one: Stopped) -> None:
        deadline = time.monotonic() + START_S
        while True:
            state = (await self.docker.inspect(one.id)).state
            health = state.health.status if state.health else "none"
            if state.running and health in {"none", "healthy"}:
                return
            if health == "unhealthy" or time.monotonic() > deadline:
                raise Unavailable(
                    f"{one.name} does not run: {state.status}, health {health}. The managed agents stay.",
                    hint=f"Look at `docker logs {one.name}`, then run `dev-tools migrate back` again.",
                )
            await asyncio.sleep(1)

    # -- what is known -------------------------------------------------------------------------------------------------

    def find_record(self) -> Record | None:
        raw = self._read().get(self.settings.environment)
        if raw is None:
            return None
        stopped = tuple(Stopped(**one) for one in raw["stopped"])
        return Record(raw["phase"], tuple(raw["created"]), stopped)

    def _need_record(self) -> Record:
        record = self.find_record()
        if record is None:
            raise NotFound(
                f"Nothing was migrated in {self.settings.environment!r}.", hint="Start with `dev-tools migrate plan`."
            )
        return record

    def _keep(self, record: Record) -> None:
        self.home.keep_secret(FILE, json.dumps(self._read() | {self.settings.environment: asdict(record)}, indent=2))

    def _read(self) -> dict[str, Any]:
        text = self.home.find_secret(FILE)
        return json.loads(text) if text else {}
