"""What a task's workflow writes down and reads: its life as rows. Every write may be repeated after a crash.

Events carry keys, rows carry ids derived from the workflow, and what ends a task asks whether this workflow still
carries it: after a retry, a late word of the old attempt changes nothing.
"""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Literal

import sqlalchemy as sa
from prometheus_client import Counter

from devtools_platform.core.redact import redact, redact_text
from devtools_platform.core.tasks import FINAL, Reason, Status, TaskRequest
from devtools_platform.kit import schema
from devtools_platform.kit.database import in_thread, read_in_thread
from devtools_platform.state.events import append_event
from devtools_platform.state.service import TASKS_ENDED
from devtools_platform.state.tasks import read_row, to_request

RUNS_ENDED = Counter("devtools_agent_runs_ended_total", "Runs of agents that came to an end", ["agent", "outcome"])

MAX_ARTIFACT_BYTES = 2_000_000


@dataclass(frozen=True)
class Journal:
    database: sa.Engine
    worker_id: str

    async def get_request(self, id_: str) -> TaskRequest:
        return to_request(await in_thread(self.database, lambda c: read_row(c, id_)))

    async def mark_working(self, task_id: str, workflow_id: str) -> bool:
        """The task's work begins. False when this workflow does not carry the task any more."""
        change = _of_workflow(task_id, workflow_id).values(status="working", updated_at=datetime.now(UTC))
        return await in_thread(self.database, lambda c: c.execute(change).rowcount == 1)

    async def append_event(self, task_id: str, key: str, kind: str, agent: str | None, data: Mapping[str, Any]) -> int:
        """Store one event and return its sequence number. A key already stored is left as it was."""
        return await in_thread(self.database, lambda c: append_event(c, task_id, key, kind, agent, data))

    def append_in(
        self, connection: sa.Connection, task_id: str, key: str, kind: str, agent: str, data: Mapping[str, Any]
    ) -> None:
        """The same in the caller's transaction."""
        append_event(connection, task_id, key, kind, agent, data)

    async def append_and_take(
        self, task_id: str, key: str, kind: str, agent: str, data: Mapping[str, Any], taker: str
    ) -> list[str]:
        """`append_event` and `take_messages` in one transaction: after each tool call of an agent."""

        def append(connection: sa.Connection) -> list[str]:
            append_event(connection, task_id, key, kind, agent, data)
            return _take(connection, task_id, taker)

        return await in_thread(self.database, append)

    async def finish(
        self,
        task_id: str,
        workflow_id: str,
        status: Status,
        reason: Reason | None,
        message: str,
        result: Mapping[str, Any],
    ) -> None:
        """End a task, with its last event. A task that has ended, or that another workflow carries, stays as it is."""

        def end(connection: sa.Connection) -> bool:
            change = _of_workflow(task_id, workflow_id).values(
                status=status,
                reason=reason,
                message=redact_text(message),
                result=redact(result),
                branch=result.get("branch"),
                base_commit=result.get("base_commit"),
                is_paused=False,
                updated_at=datetime.now(UTC),
                ended_at=datetime.now(UTC),
            )
            read_row(connection, task_id, lock=True)
            if connection.execute(change).rowcount != 1:
                return False
            kind = "failed" if reason else "finished"
            facts = {"reason": reason, "message": message, "branch": result.get("branch"), **result["tokens"]}
            facts["cost_usd"] = result["cost_usd"]
            append_event(connection, task_id, f"end:{workflow_id}", kind, None, facts)
            return True

        if await in_thread(self.database, end):
            TASKS_ENDED.labels(status, reason or "").inc()

    # -- runs ----------------------------------------------------------------------------------------------------

    async def begin_run(self, id_: str, task_id: str, agent: str, n: int) -> None:
        """A run of an agent begins, or goes on in this worker after another one died."""

        def begin(connection: sa.Connection) -> None:
            task = read_row(connection, task_id, lock=True)
            if task.status == "queued":  # a retry: that its work began is part of the history it replays
                working = sa.update(schema.tasks).where(schema.tasks.c.id == task_id)
                connection.execute(working.values(status="working", updated_at=datetime.now(UTC)))
            table = schema.runs
            again = sa.update(table).where(table.c.id == id_).values(worker=self.worker_id)
            if connection.execute(again).rowcount:
                return
            row = {"id": id_, "task_id": task_id, "agent": agent, "n": n, "status": "working"}
            connection.execute(sa.insert(table).values({**row, "worker": self.worker_id}))

        await in_thread(self.database, begin)

    async def end_run(self, id_: str, status: Literal["suspended", "completed", "failed"], message: str) -> None:
        table = schema.runs
        change = sa.update(table).where(table.c.id == id_, table.c.status == "working")
        values = {"status": status, "message": redact_text(message), "ended_at": datetime.now(UTC)}
        ended = change.values(values).returning(table.c.agent)
        agent = await in_thread(self.database, lambda c: c.execute(ended).scalar())
        if agent is not None:  # else it was said before
            RUNS_ENDED.labels(agent, status).inc()

    # -- what people say meanwhile -------------------------------------------------------------------------------

    async def is_paused(self, task_id: str) -> bool:
        def read(connection: sa.Connection) -> bool:
            is_paused = connection.execute(_IS_PAUSED, {"id": task_id}).scalar()
            return bool(read_row(connection, task_id).is_paused if is_paused is None else is_paused)

        return await read_in_thread(self.database, read)

    async def mark_paused(self, task_id: str, workflow_id: str, key: str) -> bool:
        """Show that the task stands still. False when it was resumed in the meantime."""

        def mark(connection: sa.Connection) -> bool:
            row = read_row(connection, task_id, lock=True)
            if not row.is_paused or row.status in FINAL or row.workflow_id != workflow_id:
                return False
            change = _of_workflow(task_id, workflow_id).values(status="paused", updated_at=datetime.now(UTC))
            connection.execute(change)
            append_event(connection, task_id, key, "paused", None, {})
            return True

        return await in_thread(self.database, mark)

    async def take_messages(self, task_id: str, taker: str) -> list[str]:
        """What people have said and no agent has read; `taker` names the step, which gets the same ones again."""
        return await in_thread(self.database, lambda c: _take(c, task_id, taker))

    # -- artifacts -----------------------------------------------------------------------------------------------

    async def store_artifact(self, task_id: str, key: str, kind: str, name: str, text: str) -> str:
        """Keep a text for people to read, cut after 2 MB; returns its id. `key` is unique within the task."""
        content = redact_text(text).encode()[:MAX_ARTIFACT_BYTES]
        id_ = hashlib.sha256(f"{task_id}\n{key}".encode()).hexdigest()[:16]
        row = {
            "id": id_,
            "task_id": task_id,
            "kind": kind,
            "name": name,
            "media_type": "text/x-diff" if kind == "diff" else "text/plain",
            "size": len(content),
            "sha256": hashlib.sha256(content).hexdigest(),
            "content": content,
        }

        def store(connection: sa.Connection) -> None:
            table = schema.artifacts
            if connection.execute(sa.select(table.c.id).where(table.c.id == id_)).scalar() is None:
                connection.execute(sa.insert(table).values(row))

        await in_thread(self.database, store)
        return id_


def _take(connection: sa.Connection, task_id: str, taker: str) -> list[str]:
    given = {"of_task": task_id, "by": taker}
    if connection.execute(_SAID, given).first() is None:  # nearly always: then one statement is all
        return []
    connection.execute(_TAKE, given)
    return [str(row.text) for row in connection.execute(_TAKEN, given)]


def _of_workflow(task_id: str, workflow_id: str) -> sa.Update:
    """The row of a task that is open and carried by this workflow."""
    table = schema.tasks
    return sa.update(table).where(
        table.c.id == task_id, table.c.workflow_id == workflow_id, table.c.status.not_in(tuple(FINAL))
    )


_MESSAGES = schema.messages
_OF_TASK = _MESSAGES.c.task_id == sa.bindparam("of_task")
_WAITS, _IS_MINE = _MESSAGES.c.taken_by.is_(None), _MESSAGES.c.taken_by == sa.bindparam("by")

# Built once: these run before and after each tool call of an agent.
_IS_PAUSED = sa.select(schema.tasks.c.is_paused).where(schema.tasks.c.id == sa.bindparam("id"))
_SAID = sa.select(_MESSAGES.c.id).where(_OF_TASK, sa.or_(_WAITS, _IS_MINE)).limit(1)
_TAKE = sa.update(_MESSAGES).where(_OF_TASK, _WAITS).values(taken_by=sa.bindparam("by"))
_TAKEN = sa.select(_MESSAGES.c.text).where(_OF_TASK, _IS_MINE).order_by(_MESSAGES.c.at, _MESSAGES.c.id)
