"""What the console reads and does about tasks and the stack, answered by the parts it does not know."""

import asyncio
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass

import httpx2

from devtools_platform.agents.carriers import Carriers, RunsOn
from devtools_platform.agents.definitions import load_definitions
from devtools_platform.agents.types import Definition
from devtools_platform.app.admission import Admission
from devtools_platform.app.doctor import examine
from devtools_platform.app.task_links import TaskLinks
from devtools_platform.config import Settings, explain
from devtools_platform.console.types import (
    AgentDetails,
    AgentStatus,
    Check,
    ServiceStatus,
    Setting,
    TaskLink,
    TestCall,
    Wanted,
    WorkerStatus,
)
from devtools_platform.core.errors import NotFound, Unavailable
from devtools_platform.core.tasks import Event, Page, Step, TaskRequest, TaskResult
from devtools_platform.gateway.types import Policy
from devtools_platform.kit.tls import tls_context
from devtools_platform.state.parts import StateParts
from devtools_platform.state.service import Write
from devtools_platform.state.supervision import list_workers
from devtools_platform.state.tasks import TaskFilter

HEALTH_TIMEOUT_S = 2.0
LOOKED_AT = 20
"""Tasks at work that are asked which agents they keep busy."""


@dataclass(frozen=True)
class ConsoleTasks:
    """The console's `TaskReader` and `TaskWriter`."""

    state: StateParts
    admission: Admission
    links: TaskLinks

    async def list_links(self, task: TaskResult) -> Sequence[TaskLink]:
        return await self.links.of(task)

    async def list_tasks(self, limit: int, wanted: Wanted, cursor: str | None = None) -> Page[TaskResult]:
        status = (wanted.status,) if wanted.status else ()
        found = TaskFilter(status, wanted.repo, wanted.agent, wanted.text)
        return await self.state.service.list_tasks(found, limit=limit, cursor=cursor)

    async def get_task(self, id_: str) -> TaskResult:
        return await self.state.service.get_task(id_)

    async def list_events(self, id_: str, after: int) -> Sequence[Event]:
        await self.state.service.get_task(id_)
        return await self.state.events.list_events(id_, after)

    def follow_events(self, id_: str, after: int) -> AsyncIterator[Event]:
        return self.state.events.follow_events(id_, after)

    async def list_steps(self, id_: str) -> Sequence[Step]:
        return await self.state.service.list_steps(id_)

    async def create_task(self, request: TaskRequest, idempotency_key: str | None, by: str) -> str:
        return await self.state.service.create_task(await self.admission.admit(request), Write(by, idempotency_key))

    async def cancel_task(self, id_: str, by: str) -> None:
        await self.state.service.cancel_task(id_, Write(by))

    async def pause_task(self, id_: str, by: str) -> None:
        await self.state.service.pause_task(id_, Write(by))

    async def resume_task(self, id_: str, by: str) -> None:
        await self.state.service.resume_task(id_, Write(by))

    async def steer_task(self, id_: str, text: str, by: str) -> None:
        await self.state.service.steer_task(id_, text, Write(by))

    async def retry_task(self, id_: str, step: int | None, by: str) -> None:
        await self.state.service.retry_task(id_, step, Write(by))

    async def fork_task(self, id_: str, step: int | None, by: str) -> str:
        return await self.state.service.fork_task(id_, step, Write(by))


@dataclass(frozen=True)
class ConsoleStack:
    """The console's `StackReader`."""

    config: Settings
    state: StateParts
    policy: Policy
    carriers: Carriers
    urls: Mapping[str, str]

    @property
    def environment(self) -> str:
        return self.config.environment

    async def services(self) -> Sequence[ServiceStatus]:
        async with httpx2.AsyncClient(verify=tls_context(), timeout=HEALTH_TIMEOUT_S, trust_env=False) as http:
            return await asyncio.gather(*(_ask(http, name, url) for name, url in self.urls.items()))

    async def agents(self) -> Sequence[AgentStatus]:
        busy = await self._busy_agents()
        runs_on = await self._runs_on()
        known = load_definitions(self.config.agent_definitions)
        return [self._status(definition, runs_on, busy.get(name)) for name, definition in known.items()]

    async def _runs_on(self) -> Mapping[str, RunsOn]:
        """Nothing while the agents, which know, are away: then what carries them is unknown."""
        try:
            return await self.carriers.list_runs_on()
        except Unavailable:
            return {}

    def _status(self, definition: Definition, runs_on: Mapping[str, RunsOn], task: str | None) -> AgentStatus:
        name = definition.name
        first = runs_on[name].chain[0] if name in runs_on else None
        return AgentStatus(
            name=name,
            role=definition.role,
            runtime=first.kind if first else "unknown",
            model=f"{first.model} ({first.provider})" if first and first.model else None,
            tools=tuple(sorted(self.policy.tools_of(name))),
            current_task=task,
        )

    async def agent(self, name: str) -> AgentDetails:
        definition = self._definition(name)
        runs_on = await self._runs_on()
        status = self._status(definition, runs_on, (await self._busy_agents()).get(name))
        chain = tuple(one.name for one in runs_on[name].chain) if name in runs_on else ()
        return AgentDetails(status, definition.instructions, definition.output, definition.max_turns, chain)

    async def test_agent(self, name: str) -> Sequence[TestCall]:
        results = await self.carriers.probe(self._definition(name).name)
        return [TestCall(one.runtime, one.ok, one.text, one.hint, one.duration_s) for one in results]

    def _definition(self, name: str) -> Definition:
        known = load_definitions(self.config.agent_definitions)
        if name not in known:
            raise NotFound(f"There is no agent {name!r}.", hint=f"The agents are: {', '.join(known)}.")
        return known[name]

    async def _busy_agents(self) -> dict[str, str]:
        """Agent -> a task it works on now."""
        at_work = await self.state.service.list_tasks(TaskFilter(status=("working",)), limit=LOOKED_AT)
        runs = [run for task in at_work.items for run in await self.state.service.list_runs(task.id)]
        return {run.agent: run.task_id for run in runs if run.status == "working"}

    async def workers(self) -> Sequence[WorkerStatus]:
        held = await self.state.service.control.list_held()
        return [
            WorkerStatus(worker.id, worker.host, worker.status, len(worker.holds), worker.queues, worker.silent_s)
            for worker in await list_workers(self.state.service.database, held)
        ]

    async def examine(self) -> Sequence[Check]:
        return [Check(check.name, check.is_ok, check.found, check.fix) for check in await examine(self.config)]

    async def settings(self) -> Sequence[Setting]:
        return [
            Setting(one.variable, one.value, one.is_secret, one.source, one.meaning) for one in explain(self.config)
        ]


async def _ask(http: httpx2.AsyncClient, name: str, url: str) -> ServiceStatus:
    try:
        response = await http.get(f"{url}/health")
        return ServiceStatus(name, url, response.is_success, response.json())
    except (httpx2.HTTPError, ValueError) as error:
        return ServiceStatus(name, url, ok=False, facts={"error": str(error) or type(error).__name__})
