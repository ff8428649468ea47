"""The console's interfaces in memory: tasks that live and end as a test says."""

import asyncio
from collections.abc import AsyncIterator, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

from devtools_platform.console.types import AgentStatus, ServiceStatus
from devtools_platform.core.agents import AGENTS
from devtools_platform.core.errors import Conflict, DiskFull, NotFound
from devtools_platform.core.tasks import FINAL, Event, TaskRequest, TaskResult

NOON = datetime(2026, 11, 23, 12, 0, tzinfo=UTC)
FULL_DISK = "/srv/full"
"""A repository no task can be made for."""


class MemoryTasks:
    """A `TaskReader` and a `TaskWriter`."""

    def __init__(self) -> None:
        self.tasks: dict[str, TaskResult] = {}
        self.events: dict[str, list[Event]] = {}
        self.diffs: dict[str, str] = {}
        self.keys: dict[str, str] = {}
        self.changed = asyncio.Condition()
        self.followers = 0
        self.trouble: Exception | None = None
        """Raised by the next list, and by a stream after the events it has."""

    def add(self, id_: str = "t1", **fields: Any) -> TaskResult:
        given: dict[str, Any] = {
            "id": id_,
            "status": "working",
            "reason": None,
            "message": "",
            "text": "Fix the pager",
            "repo": "/srv/shop",
            "plan": None,
            "branch": None,
            "base_commit": None,
            "commits": (),
            "diff": None,
            "tests": (),
            "review": None,
            "tokens": {},
            "cost_usd": None,
            "trace_id": "0af7651916cd43dd8448eb211c80319c",
            "model": None,
            "degraded": (),
            "attempt": 1,
            "forked_from": None,
            "version": 1,
            "created_at": NOON,
            "ended_at": None,
        }
        self.tasks[id_] = TaskResult.model_validate(given | fields)
        self.events.setdefault(id_, [])
        return self.tasks[id_]

    async def happen(
        self, id_: str, kind: str, data: Mapping[str, Any] | None = None, agent: str | None = None
    ) -> None:
        async with self.changed:
            seq = len(self.events[id_]) + 1
            at = NOON + timedelta(seconds=seq)
            self.events[id_].append(Event(seq=seq, task_id=id_, kind=kind, at=at, agent=agent, data=dict(data or {})))
            self.changed.notify_all()

    async def end(self, id_: str, **fields: Any) -> None:
        async with self.changed:
            self.tasks[id_] = self.tasks[id_].model_copy(update=fields)
            self.changed.notify_all()

    async def wait_for_followers(self, number: int) -> None:
        async with self.changed:
            await asyncio.wait_for(self.changed.wait_for(lambda: self.followers == number), 5)

    async def list_tasks(self, limit: int) -> Sequence[TaskResult]:
        self._check()
        return sorted(self.tasks.values(), key=lambda task: task.created_at, reverse=True)[:limit]

    async def get_task(self, id_: str) -> TaskResult:
        if id_ not in self.tasks:
            raise NotFound(f"There is no task {id_!r}.", hint="`dev-tools task list` shows those there are.")
        return self.tasks[id_]

    async def list_events(self, id_: str, after: int) -> Sequence[Event]:
        return [event for event in self.events[id_] if event.seq > after]

    async def follow_events(self, id_: str, after: int) -> AsyncIterator[Event]:
        async with self.changed:
            self.followers += 1
            self.changed.notify_all()
        while fresh := await self._wait_for_news(id_, after):
            for event in fresh:
                yield event
            after = fresh[-1].seq
            self._check()

    async def _wait_for_news(self, id_: str, after: int) -> Sequence[Event]:
        """Events after `after` as soon as there are any; none when the task has ended."""
        async with self.changed:
            await self.changed.wait_for(lambda: len(self.events[id_]) > after or self.tasks[id_].status in FINAL)
            return await self.list_events(id_, after)

    def _check(self) -> None:
        if self.trouble:
            raise self.trouble

    async def diff(self, id_: str) -> str | None:
        return self.diffs.get(id_)

    async def create_task(self, request: TaskRequest, idempotency_key: str | None) -> str:
        if request.repo == FULL_DISK:
            raise DiskFull("Only 12 MB are free.", hint="Free some.")
        if idempotency_key in self.keys:
            return self.keys[idempotency_key]
        id_ = f"t{len(self.tasks) + 1}"
        self.add(id_, text=request.text, repo=request.repo, status="queued")
        if idempotency_key:
            self.keys[idempotency_key] = id_
        return id_

    async def cancel_task(self, id_: str) -> None:
        task = await self.get_task(id_)
        if task.status in FINAL:
            raise Conflict(f"Task {id_!r} has ended already.", hint=f"`dev-tools task show {id_}` says how.")
        await self.end(id_, status="cancelled", reason="cancelled", ended_at=NOON + timedelta(minutes=1))


class MemoryStack:
    """A `StackReader`."""

    def __init__(self) -> None:
        self.service_list: list[ServiceStatus] = [
            ServiceStatus("gateway", "http://127.0.0.1:8000", ok=True, facts={"tools": 24}),
            ServiceStatus("state", "http://127.0.0.1:8008", ok=False, facts={"problem": "no answer"}),
        ]
        self.agent_list: list[AgentStatus] = [
            AgentStatus(name, f"Does {name} work.", "local", "qwen3:4b", ("read_file", "search")) for name in AGENTS
        ]

    async def services(self) -> Sequence[ServiceStatus]:
        return self.service_list

    async def agents(self) -> Sequence[AgentStatus]:
        return self.agent_list
