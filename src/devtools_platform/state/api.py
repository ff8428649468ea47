"""The state service's HTTP side (:8008): tasks in, events and results out, decisions by people, the audit.

Every write takes an `Idempotency-Key`; sent twice with the same content, it is done once. `If-Match` carries the
version one has read and refuses the write when it is no longer that. `Dev-Tools-Actor` says who acts: a name the
holder of the token gives, so it is a claim and no proof.
"""

import json
import re
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import asdict
from typing import Annotated, Any

from fastapi import Depends, FastAPI, Header, Query, Request, Response
from pydantic import AwareDatetime, Field
from sse_starlette import EventSourceResponse

from devtools_platform.core.approvals import Approval, ApprovalStatus, Verdict
from devtools_platform.core.errors import BadInput
from devtools_platform.core.tasks import (
    MAX_TASK_TEXT,
    Artifact,
    Event,
    Frozen,
    Page,
    Run,
    Status,
    Step,
    TaskRequest,
    TaskResult,
    Worker,
)
from devtools_platform.kit.http import create_app
from devtools_platform.state.approvals import ApprovalDesk
from devtools_platform.state.interfaces import TraceReader
from devtools_platform.state.parts import StateParts
from devtools_platform.state.service import StateService, Write
from devtools_platform.state.supervision import list_workers
from devtools_platform.state.tasks import TaskFilter

Admit = Callable[[TaskRequest], Awaitable[TaskRequest]]
"""Checks a request before anything is stored: repository, disk, sandbox, model. Raises a `DevToolsError`."""


class Message(Frozen):
    """What a person says into a running task."""

    text: str = Field(min_length=1, max_length=MAX_TASK_TEXT)


class FromStep(Frozen):
    """Where to start: a step's number as `GET /tasks/{id}/steps` lists it; None: where the last agent began."""

    step: int | None = Field(default=None, ge=1)


class Chain(Frozen):
    """Whether the audit's entries are all there and as they were written."""

    entries: int
    head: str
    broken_at: int | None
    problem: str


def read_write(
    idempotency_key: Annotated[str | None, Header(min_length=1, max_length=200)] = None,
    if_match: Annotated[str | None, Header(max_length=30)] = None,
    dev_tools_actor: Annotated[str, Header(min_length=1, max_length=100)] = "token",
) -> Write:
    """The headers of a request that changes something."""
    return Write(dev_tools_actor, idempotency_key, None if if_match is None else _version(if_match))


Writing = Annotated[Write, Depends(read_write)]
Limit = Annotated[int, Query(ge=1, le=500)]


def build_api(parts: StateParts, *, admit: Admit, traces: TraceReader, token: str) -> FastAPI:
    service = parts.service

    async def health() -> dict[str, Any]:
        return {"ok": await service.is_reachable(), "store": service.database.dialect.name}

    app = create_app("state", token=token, health=health)
    _add_tasks(app, parts, admit)
    _add_actions(app, service)
    _add_events(app, parts, traces)
    _add_approvals(app, parts.approvals)
    _add_audit(app, parts)
    return app


def _add_tasks(app: FastAPI, parts: StateParts, admit: Admit) -> None:
    service = parts.service

    @app.post("/tasks", status_code=201, tags=["tasks"])
    async def create_task(request: TaskRequest, write: Writing) -> TaskResult:
        id_ = await service.create_task(await admit(request), write)
        return await service.get_task(id_)

    @app.get("/tasks", tags=["tasks"])
    async def list_tasks(
        status: Annotated[list[Status] | None, Query()] = None,
        repo: str | None = None,
        agent: str | None = None,
        text: Annotated[str | None, Query(max_length=200)] = None,
        created_after: AwareDatetime | None = None,
        created_before: AwareDatetime | None = None,
        limit: Limit = 50,
        cursor: Annotated[str | None, Query(max_length=200)] = None,
    ) -> Page[TaskResult]:
        wanted = TaskFilter(status or (), repo, agent, text, created_after, created_before)
        return await service.list_tasks(wanted, limit=limit, cursor=cursor)

    @app.get("/tasks/{task_id}", tags=["tasks"])
    async def get_task(task_id: str, response: Response) -> TaskResult:
        task = await service.get_task(task_id)
        response.headers["ETag"] = f'"{task.version}"'
        return task

    @app.get("/tasks/{task_id}/runs", tags=["tasks"])
    async def list_runs(task_id: str) -> list[Run]:
        return await service.list_runs(task_id)

    @app.get("/tasks/{task_id}/steps", tags=["tasks"])
    async def list_steps(task_id: str) -> list[Step]:
        return await service.list_steps(task_id)

    @app.get("/tasks/{task_id}/artifacts", tags=["tasks"])
    async def list_artifacts(task_id: str) -> list[Artifact]:
        return await service.list_artifacts(task_id)

    @app.get("/artifacts/{artifact_id}", tags=["tasks"], response_class=Response)
    async def read_artifact(artifact_id: str) -> Response:
        artifact, content = await service.read_artifact(artifact_id)
        # Never shown as a page: what stands in it came from a repository.
        headers = {"Content-Disposition": "attachment", "X-Content-Type-Options": "nosniff"}
        return Response(content, media_type=artifact.media_type, headers=headers)

    _ = (create_task, list_tasks, get_task, list_runs, list_steps, list_artifacts, read_artifact)


def _add_actions(app: FastAPI, service: StateService) -> None:
    @app.post("/tasks/{task_id}/cancel", tags=["actions"])
    async def cancel_task(task_id: str, write: Writing) -> TaskResult:
        await service.cancel_task(task_id, write)
        return await service.get_task(task_id)

    @app.post("/tasks/{task_id}/pause", tags=["actions"])
    async def pause_task(task_id: str, write: Writing) -> TaskResult:
        await service.pause_task(task_id, write)
        return await service.get_task(task_id)

    @app.post("/tasks/{task_id}/resume", tags=["actions"])
    async def resume_task(task_id: str, write: Writing) -> TaskResult:
        await service.resume_task(task_id, write)
        return await service.get_task(task_id)

    @app.post("/tasks/{task_id}/messages", status_code=201, tags=["actions"])
    async def steer_task(task_id: str, message: Message, write: Writing) -> TaskResult:
        await service.steer_task(task_id, message.text, write)
        return await service.get_task(task_id)

    @app.post("/tasks/{task_id}/retry", tags=["actions"])
    async def retry_task(task_id: str, write: Writing, start: FromStep | None = None) -> TaskResult:
        await service.retry_task(task_id, start.step if start else None, write)
        return await service.get_task(task_id)

    @app.post("/tasks/{task_id}/fork", status_code=201, tags=["actions"])
    async def fork_task(task_id: str, write: Writing, start: FromStep | None = None) -> TaskResult:
        new = await service.fork_task(task_id, start.step if start else None, write)
        return await service.get_task(new)

    _ = (cancel_task, pause_task, resume_task, steer_task, retry_task, fork_task)


def _add_events(app: FastAPI, parts: StateParts, traces: TraceReader) -> None:
    stream: dict[int | str, dict[str, Any]] = {200: {"content": {"text/event-stream": {}, "application/json": {}}}}

    @app.get("/tasks/{task_id}/events", tags=["events"], response_model=None, responses=stream)
    async def read_events(
        request: Request,
        task_id: str,
        after: Annotated[int, Query(ge=0, le=2**31 - 1)] = 0,
        last_event_id: Annotated[str | None, Header()] = None,
    ) -> EventSourceResponse | list[Event]:
        await parts.service.get_task(task_id)
        since = _sequence(last_event_id) if last_event_id else after
        if "text/event-stream" not in request.headers.get("accept", ""):
            return await parts.events.list_events(task_id, since)
        return EventSourceResponse(_frames(parts.events.follow_events(task_id, since)))

    @app.get("/tasks/{task_id}/trace", tags=["events"])
    async def get_trace(task_id: str) -> list[dict[str, Any]]:
        await parts.service.get_task(task_id)
        return [dict(span) for span in await traces.read_trace(task_id)]

    _ = (read_events, get_trace)


def _add_approvals(app: FastAPI, desk: ApprovalDesk) -> None:
    @app.get("/approvals", tags=["approvals"])
    async def list_approvals(
        status: ApprovalStatus | None = None, task_id: str | None = None, limit: Limit = 100
    ) -> list[Approval]:
        return await desk.list_approvals(status=status, task_id=task_id, limit=limit)

    @app.get("/approvals/{approval_id}", tags=["approvals"])
    async def get_approval(approval_id: str, response: Response) -> Approval:
        approval = await desk.get_approval(approval_id)
        response.headers["ETag"] = f'"{approval.version}"'
        return approval

    @app.post("/approvals/{approval_id}/decision", tags=["approvals"])
    async def decide_approval(approval_id: str, verdict: Verdict, write: Writing) -> Approval:
        return await desk.decide(approval_id, verdict, by=write.actor, key=write.key, version=write.version)

    _ = (list_approvals, get_approval, decide_approval)


def _add_audit(app: FastAPI, parts: StateParts) -> None:
    @app.get("/audit", tags=["audit"])
    async def list_audit(
        subject: str | None = None,
        before: Annotated[int | None, Query(ge=1, le=2**62)] = None,
        limit: Limit = 100,
    ) -> list[dict[str, Any]]:
        return await parts.audit.list_entries(subject=subject, before=before, limit=limit)

    @app.get("/audit/verification", tags=["audit"])
    async def verify_audit() -> Chain:
        return Chain.model_validate(asdict(await parts.audit.verify()))

    @app.get("/workers", tags=["workers"])
    async def list_all_workers() -> list[Worker]:
        return await list_workers(parts.service.database, await parts.service.control.list_held())

    _ = (list_audit, verify_audit, list_all_workers)


def _sequence(last_event_id: str) -> int:
    if not re.fullmatch(r"[0-9]{1,9}", last_event_id):
        raise BadInput(f"Last-Event-ID is {last_event_id[:40]!r}; it is the number of the last event you have.")
    return int(last_event_id)


def _version(if_match: str) -> int:
    match = re.fullmatch(r'(?:W/)?"?([0-9]{1,9})"?', if_match)
    if match is None:
        raise BadInput(f'If-Match is {if_match!r}; it is the `version` you have read, for example "3".')
    return int(match[1])


async def _frames(events: AsyncIterator[Event]) -> AsyncIterator[dict[str, str]]:
    async for event in events:
        body = event.model_dump(mode="json")
        yield {"id": str(event.seq), "event": event.kind, "data": json.dumps(body, ensure_ascii=False)}
