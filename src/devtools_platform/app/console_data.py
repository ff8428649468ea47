"""What the console reads and does, answered by the parts it does not know."""

import asyncio
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass

import httpx2

from devtools_platform.agents.definitions import load_definitions
from devtools_platform.app.admission import Admission
from devtools_platform.app.runtimes import Runtimes
from devtools_platform.console.types import AgentStatus, ServiceStatus
from devtools_platform.core.tasks import Event, TaskRequest, TaskResult
from devtools_platform.gateway.service import Gateway
from devtools_platform.state.api import StateParts
from devtools_platform.state.service import Write

HEALTH_TIMEOUT_S = 2.0
ACTOR = "console"


@dataclass(frozen=True)
class ConsoleData:
    """The console's reader, writer and view of the stack in one."""

    state: StateParts
    admission: Admission
    gateway: Gateway
    runtimes: Runtimes
    urls: Mapping[str, str]

    async def list_tasks(self, limit: int) -> Sequence[TaskResult]:
        return (await self.state.service.list_tasks(limit=limit)).items

    async def get_task(self, id_: str) -> TaskResult:
        return await self.state.service.get_task(id_)

    async def list_events(self, id_: str, after: int) -> Sequence[Event]:
        await self.state.service.get_task(id_)
        return await self.state.events.list_events(id_, after)

    def follow_events(self, id_: str, after: int) -> AsyncIterator[Event]:
        return self.state.events.follow_events(id_, after)

    async def diff(self, id_: str) -> str | None:
        """The last diff the task wrote down; its workspace is gone when it has ended."""
        events = await self.list_events(id_, 0)
        texts = [str(event.data["text"]) for event in events if event.kind == "diff"]
        return texts[-1] if texts else None

    async def create_task(self, request: TaskRequest, idempotency_key: str | None) -> str:
        return await self.state.service.create_task(await self.admission.admit(request), Write(ACTOR, idempotency_key))

    async def cancel_task(self, id_: str) -> None:
        await self.state.service.cancel_task(id_, Write(ACTOR))

    async def services(self) -> Sequence[ServiceStatus]:
        async with httpx2.AsyncClient(timeout=HEALTH_TIMEOUT_S, trust_env=False) as http:
            return await asyncio.gather(*(_ask(http, name, url) for name, url in self.urls.items()))

    async def agents(self) -> Sequence[AgentStatus]:
        chains = self.runtimes.chains
        return [
            AgentStatus(
                name=name,
                role=definition.role,
                # Whoever runs on the stack's own model runs our loop on it.
                runtime="local" if chains[name][0].kind == "stack" else chains[name][0].kind,
                model=f"{info.name} ({info.provider})" if (info := chains[name][0].served.info) else None,
                tools=tuple(sorted(self.gateway.policy.tools_of(name))),
            )
            for name, definition in load_definitions(self.admission.settings.agent_definitions).items()
        ]


async def _ask(http: httpx2.AsyncClient, name: str, url: str) -> ServiceStatus:
    try:
        response = await http.get(f"{url}/health")
        return ServiceStatus(name, url, response.is_success, response.json())
    except (httpx2.HTTPError, ValueError) as error:
        return ServiceStatus(name, url, ok=False, facts={"error": str(error) or type(error).__name__})
