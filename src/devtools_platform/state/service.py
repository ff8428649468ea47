"""Tasks and what happened to them, in the database. Every write may be repeated: the same event key is stored once.

The workflow that carries a task out lives above, in `agents`; it reports here through `append_event` and `finish`.
"""

import asyncio
import secrets
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import sqlalchemy as sa
from prometheus_client import Counter

from devtools_platform.core.errors import Conflict, NotFound, Unavailable
from devtools_platform.core.redact import redact, redact_text
from devtools_platform.core.tasks import FINAL, Event, Reason, Status, TaskRequest, TaskResult
from devtools_platform.kit import schema
from devtools_platform.kit.database import in_thread, insert_once, read_in_thread
from devtools_platform.kit.telemetry import trace_id_for
from devtools_platform.state.interfaces import Engine

TASK_WORKFLOW = "task"
ALPHABET = "abcdefghjkmnpqrstuvwxyz23456789"  # no letter that reads as another

TASKS_ENDED = Counter("devtools_tasks_ended_total", "Tasks that ended", ["status", "reason"])
TASKS_CREATED = Counter("devtools_tasks_created_total", "Tasks that were handed over")


@dataclass(frozen=True)
class StateService:
    """The ledger of tasks. `poll_s` is how often a follower looks for new events."""

    database: sa.Engine
    engine: Engine
    poll_s: float = 0.2

    async def is_reachable(self) -> bool:
        """Whether the database answers."""
        try:
            return await read_in_thread(self.database, lambda c: c.execute(sa.select(sa.literal(1))).scalar() == 1)
        except Unavailable:
            return False

    async def create_task(self, request: TaskRequest, idempotency_key: str | None = None) -> str:
        """Store a task and start its workflow. The same key gives the same task."""
        id_ = await in_thread(self.database, lambda c: _insert_task(c, request, idempotency_key))
        await self.append_event(id_, "queued", "queued", None, {"text": request.text})
        await self.engine.start(TASK_WORKFLOW, id_, {"id": id_})
        TASKS_CREATED.inc()
        return id_

    async def get_request(self, id_: str) -> TaskRequest:
        row = await read_in_thread(self.database, lambda c: _task_row(c, id_))
        return TaskRequest(text=row.text, repo=row.repo, agent=row.agent, without_sandbox=row.without_sandbox)

    async def get_task(self, id_: str) -> TaskResult:
        """The task as it stands; raises `NotFound`."""
        return _to_result(await read_in_thread(self.database, lambda c: _task_row(c, id_)))

    async def list_tasks(self, *, limit: int = 50, status: Status | None = None) -> list[TaskResult]:
        """Newest first."""
        query = sa.select(schema.tasks).order_by(schema.tasks.c.created_at.desc()).limit(limit)
        if status:
            query = query.where(schema.tasks.c.status == status)
        rows = await read_in_thread(self.database, lambda c: c.execute(query).all())
        return [_to_result(row) for row in rows]

    async def append_event(self, task_id: str, key: str, kind: str, agent: str | None, data: Mapping[str, Any]) -> int:
        """Store one event and return its sequence number. A key already stored is left as it was."""
        return await in_thread(self.database, lambda c: _append(c, task_id, key, kind, agent, redact(data)))

    async def list_events(self, task_id: str, after: int = 0, limit: int = 1000) -> list[Event]:
        query = (
            sa.select(schema.events)
            .where(schema.events.c.task_id == task_id, schema.events.c.seq > after)
            .order_by(schema.events.c.seq)
            .limit(limit)
        )
        rows = await read_in_thread(self.database, lambda c: c.execute(query).all())
        return [Event(seq=r.seq, task_id=r.task_id, kind=r.kind, at=r.at, agent=r.agent, data=r.data) for r in rows]

    async def follow_events(self, task_id: str, after: int = 0) -> AsyncIterator[Event]:
        """Events as they come, from `after` on; ends when the task has ended and all were given."""
        while True:
            has_ended = (await self.get_task(task_id)).status in FINAL
            events = await self.list_events(task_id, after)
            for event in events:
                after = event.seq
                yield event
            if not events and has_ended:
                return
            if not events:
                await asyncio.sleep(self.poll_s)

    async def mark_working(self, task_id: str) -> None:
        change = sa.update(schema.tasks).where(schema.tasks.c.id == task_id, schema.tasks.c.status.not_in(tuple(FINAL)))
        now = datetime.now(UTC)
        await in_thread(self.database, lambda c: c.execute(change.values(status="working", updated_at=now)))

    async def finish(
        self, task_id: str, status: Status, reason: Reason | None, message: str, result: Mapping[str, Any]
    ) -> None:
        """End a task. A task that has ended stays as it ended."""
        change = (
            sa.update(schema.tasks)
            .where(schema.tasks.c.id == task_id, schema.tasks.c.status.not_in(tuple(FINAL)))
            .values(
                status=status,
                reason=reason,
                message=redact_text(message),
                result=redact(result),
                branch=result.get("branch"),
                base_commit=result.get("base_commit"),
                updated_at=datetime.now(UTC),
                ended_at=datetime.now(UTC),
            )
        )
        changed = await in_thread(self.database, lambda c: c.execute(change).rowcount)
        if changed:
            TASKS_ENDED.labels(status, reason or "").inc()

    async def cancel_task(self, task_id: str) -> None:
        """Cancel a task; raises `Conflict` when it has already ended."""
        task = await self.get_task(task_id)
        if task.status in FINAL:
            raise Conflict(
                f"Task {task_id!r} is {task.status}; only a running task can be cancelled.",
                hint=f"Run `dev-tools task show {task_id}`.",
            )
        await self.engine.cancel(task_id)
        # The event first: a follower stops as soon as it sees a final status and no newer event.
        await self.append_event(task_id, "cancelled", "cancelled", None, {})
        await self.finish(task_id, "cancelled", "cancelled", "Cancelled by a person.", {})


def _insert_task(connection: sa.Connection, request: TaskRequest, key: str | None) -> str:
    id_ = "".join(secrets.choice(ALPHABET) for _ in range(8))
    values: dict[str, Any] = {
        "id": id_,
        "text": redact_text(request.text),
        "repo": request.repo,
        "agent": request.agent,
        "without_sandbox": request.without_sandbox,
        "status": "queued",
        "idempotency_key": key,
        "trace_id": trace_id_for(id_),
    }
    if insert_once(connection, schema.tasks, values, on=["idempotency_key"]):
        return id_
    existing = sa.select(schema.tasks.c.id).where(schema.tasks.c.idempotency_key == key)
    return str(connection.execute(existing).scalar_one())


def _task_row(connection: sa.Connection, id_: str) -> sa.Row[Any]:
    row = connection.execute(sa.select(schema.tasks).where(schema.tasks.c.id == id_)).one_or_none()
    if row is None:
        raise NotFound(f"No task {id_!r} is stored.", hint="Run `dev-tools task list`.")
    return row


def _append(
    connection: sa.Connection, task_id: str, key: str, kind: str, agent: str | None, data: Mapping[str, Any]
) -> int:
    # Locking the task's row makes sequence numbers gapless and in commit order: a follower never skips one.
    connection.execute(sa.select(schema.tasks.c.id).where(schema.tasks.c.id == task_id).with_for_update()).one()
    table = schema.events
    of_key = sa.select(table.c.seq).where(table.c.task_id == task_id, table.c.key == key)
    if (stored := connection.execute(of_key).scalar()) is not None:
        return int(stored)
    last = connection.execute(sa.select(sa.func.max(table.c.seq)).where(table.c.task_id == task_id)).scalar()
    seq = (last or 0) + 1
    row = {"task_id": task_id, "seq": seq, "key": key, "kind": kind, "agent": agent, "data": data}
    connection.execute(sa.insert(table).values(row))
    return seq


def _to_result(row: sa.Row[Any]) -> TaskResult:
    stored: Mapping[str, Any] = row.result or {}
    optional: Sequence[str] = ("plan", "diff", "review", "model", "cost_usd")
    return TaskResult.model_validate(
        {
            "id": row.id,
            "status": row.status,
            "reason": row.reason,
            "message": row.message,
            "text": row.text,
            "repo": row.repo,
            "branch": row.branch,
            "base_commit": row.base_commit,
            "commits": stored.get("commits", ()),
            "tests": stored.get("tests", ()),
            "degraded": stored.get("degraded", ()),
            "tokens": stored.get("tokens", {}),
            "trace_id": row.trace_id,
            "created_at": row.created_at,
            "ended_at": row.ended_at,
            **{name: stored.get(name) for name in optional},
        }
    )
