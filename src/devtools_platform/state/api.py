"""The state service's HTTP side (:8008): tasks in, events and results out."""

import json
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Annotated, Any

from fastapi import FastAPI, Header, Query, Request
from sse_starlette import EventSourceResponse

from devtools_platform.core.errors import BadInput
from devtools_platform.core.tasks import Event, Status, TaskRequest, TaskResult
from devtools_platform.kit.http import create_app
from devtools_platform.state.interfaces import TraceReader
from devtools_platform.state.service import StateService

Admit = Callable[[TaskRequest], Awaitable[TaskRequest]]
"""Checks a request before anything is stored: repository, disk, sandbox, model. Raises a `DevToolsError`."""


def build_api(service: StateService, *, admit: Admit, traces: TraceReader, token: str) -> FastAPI:
    async def health() -> dict[str, Any]:
        return {"ok": await service.is_reachable(), "store": service.database.dialect.name}

    app = create_app("state", token=token, health=health)

    @app.post("/tasks", status_code=201, tags=["tasks"])
    async def create_task(
        request: TaskRequest,
        idempotency_key: Annotated[str | None, Header(max_length=200)] = None,
    ) -> TaskResult:
        id_ = await service.create_task(await admit(request), idempotency_key)
        return await service.get_task(id_)

    @app.get("/tasks", tags=["tasks"])
    async def list_tasks(
        limit: Annotated[int, Query(ge=1, le=500)] = 50, status: Status | None = None
    ) -> list[TaskResult]:
        return await service.list_tasks(limit=limit, status=status)

    @app.get("/tasks/{task_id}", tags=["tasks"])
    async def get_task(task_id: str) -> TaskResult:
        return await service.get_task(task_id)

    @app.get("/tasks/{task_id}/trace", tags=["tasks"])
    async def get_trace(task_id: str) -> list[dict[str, Any]]:
        await service.get_task(task_id)
        return [dict(span) for span in await traces.read_trace(task_id)]

    @app.post("/tasks/{task_id}/cancel", tags=["tasks"])
    async def cancel_task(task_id: str) -> TaskResult:
        await service.cancel_task(task_id)
        return await service.get_task(task_id)

    @app.get("/tasks/{task_id}/events", tags=["tasks"], response_model=None)
    async def read_events(
        request: Request,
        task_id: str,
        after: Annotated[int, Query(ge=0)] = 0,
        last_event_id: Annotated[str | None, Header()] = None,
    ) -> EventSourceResponse | list[Event]:
        await service.get_task(task_id)
        since = _sequence(last_event_id) if last_event_id else after
        if "text/event-stream" not in request.headers.get("accept", ""):
            return await service.list_events(task_id, since)
        return EventSourceResponse(_frames(service.follow_events(task_id, since)))

    _ = (create_task, list_tasks, get_task, get_trace, cancel_task, read_events)
    return app


def _sequence(last_event_id: str) -> int:
    if not last_event_id.isdigit():
        raise BadInput(f"Last-Event-ID is {last_event_id!r}; it is the number of the last event you have.")
    return int(last_event_id)


async def _frames(events: AsyncIterator[Event]) -> AsyncIterator[dict[str, str]]:
    async for event in events:
        body = event.model_dump(mode="json")
        yield {"id": str(event.seq), "event": event.kind, "data": json.dumps(body, ensure_ascii=False)}
