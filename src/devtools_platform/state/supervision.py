"""Who is alive, and what becomes of the work of who is not. The engine leaves this to us.

Every worker writes a heartbeat, by the database's clock. A worker whose process is gone from this host is dead at
once; one on another host after `DEAD_AFTER_S` of silence. What a dead worker held is queued again, by any living
one; doing so twice does no harm, since a workflow goes to whoever takes it from the queue first, and the engine
fences off a worker that was only frozen. Such a one finds itself declared dead, and takes part again.
"""

import asyncio
import logging
import os
import socket
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any, get_args

import sqlalchemy as sa
from prometheus_client import Counter, Gauge

from devtools_platform.core.errors import DevToolsError
from devtools_platform.core.tasks import FINAL, Status, Worker
from devtools_platform.kit import schema
from devtools_platform.kit.database import in_thread
from devtools_platform.kit.life import DEAD_AFTER_S, HEARTBEAT_S, Life
from devtools_platform.kit.recurring import keep_doing
from devtools_platform.state.interfaces import Executor

ORPHANS_EVERY = 5
"""Heartbeats between two looks for workflows that nobody knows of."""
FORGET_AFTER = timedelta(days=7)
"""How long a worker that has ended stays in the list."""


log = logging.getLogger(__name__)

TAKEN_OVER = Counter("devtools_workflows_taken_over_total", "Workflows of dead workers that were queued again", ["why"])
ALIVE = Gauge("devtools_workers_alive", "Workers whose heartbeat is fresh")
PENDING = Gauge("devtools_approvals_waiting", "Approvals that wait for a person")
OPEN: tuple[Status, ...] = tuple(status for status in get_args(Status) if status not in FINAL)
OPEN_TASKS = Gauge("devtools_tasks_open", "Tasks that have not ended", ["status"])


def new_worker_id() -> str:
    """Of this process's life and no other: two with one id would take each other's running work for lost."""
    return f"{socket.gethostname()}-{os.getpid()}-{uuid.uuid4().hex[:8]}"


@dataclass
class Supervisor:
    """The heartbeat of this process's worker, and its share of looking after the others."""

    database: sa.Engine
    executor: Executor
    worker_id: str
    _beats: int = 0
    _task: asyncio.Task[None] | None = field(default=None, repr=False)

    async def start(self) -> None:
        """Say that this worker is there, take over what dead ones left, and go on doing both."""
        await self._beat()
        self._task = asyncio.create_task(self._run())

    async def stop(self) -> None:
        """Say good-bye: what this worker still held is free for others at once."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
        change = sa.update(schema.workers).where(schema.workers.c.id == self.worker_id).values(status="stopped")
        try:
            await in_thread(self.database, lambda c: c.execute(change))
        except DevToolsError as error:
            log.warning("could not say good-bye; others will notice: %s", error)

    async def _run(self) -> None:
        await asyncio.sleep(HEARTBEAT_S)
        await keep_doing("supervision", self._beat, HEARTBEAT_S)

    async def _beat(self) -> None:
        dead = await in_thread(self.database, self._say_alive)
        if dead:
            await self._take_over(dead)
        if self._beats % ORPHANS_EVERY == 0:
            await self._mend()
        self._beats += 1

    def _say_alive(self, connection: sa.Connection) -> list[str]:
        table = schema.workers
        mine = sa.update(table).where(table.c.id == self.worker_id)
        if not connection.execute(mine.values(heartbeat_at=schema.CurrentTime(), status="alive")).rowcount:
            connection.execute(sa.insert(table).values(self._facts()))
        rows = connection.execute(_workers().where(table.c.status != "dead", table.c.id != self.worker_id)).all()
        ALIVE.set(1 + sum(1 for row in rows if row.status == "alive" and _silent_s(row) < DEAD_AFTER_S))
        return [row.id for row in rows if _is_dead(row)]

    def _facts(self) -> dict[str, Any]:
        return {
            "id": self.worker_id,
            **Life.own().facts(),
            "queues": list(self.executor.queues),
            "status": "alive",
        }

    async def _take_over(self, dead: Sequence[str]) -> None:
        count = await self.executor.recover(dead)
        if count:
            log.warning("took over %d workflows of %s", count, ", ".join(dead))
            TAKEN_OVER.labels("dead").inc(count)
        # After the work is queued: a crash in between leaves them to be found again.
        change = sa.update(schema.workers).where(schema.workers.c.id.in_(dead)).values(status="dead")
        await in_thread(self.database, lambda c: c.execute(change))

    async def _mend(self) -> None:
        if await self.executor.list_orphans():
            count = await self.executor.recover([self.worker_id])
            log.warning("queued %d workflows again that this worker had lost", count)
            TAKEN_OVER.labels("orphan").inc(count)
        await in_thread(self.database, _count_and_forget)


async def list_workers(database: sa.Engine, held: Mapping[str, Sequence[str]]) -> list[Worker]:
    """Everybody who works or did in the last days, the living first. `held`: what each holds, by its id."""
    rows = await in_thread(database, lambda c: c.execute(_workers().order_by(schema.workers.c.started_at)).all())
    workers = [
        Worker(
            id=row.id,
            host=row.host,
            pid=row.pid,
            queues=tuple(row.queues),
            status="dead" if _is_dead(row) and row.status == "alive" else row.status,
            holds=tuple(held.get(row.id, ())),
            started_at=row.started_at,
            heartbeat_at=row.heartbeat_at,
            silent_s=round(_silent_s(row), 1),
        )
        for row in rows
    ]
    return sorted(workers, key=lambda worker: worker.status != "alive")


def _workers() -> sa.Select[Any]:
    table = schema.workers
    # The database's clock on both sides: hosts disagree about the time.
    return sa.select(table, schema.CurrentTime().label("now"))


def _silent_s(row: sa.Row[Any]) -> float:
    return (row.now - row.heartbeat_at).total_seconds()


def _is_dead(row: sa.Row[Any]) -> bool:
    if row.status == "stopped":
        return True
    return _silent_s(row) > DEAD_AFTER_S or not Life(row.process_space, row.pid, row.process_started_at).may_run()


def _count_and_forget(connection: sa.Connection) -> None:
    workers, tasks, approvals = schema.workers, schema.tasks, schema.approvals
    old = datetime.now(UTC) - FORGET_AFTER
    connection.execute(sa.delete(workers).where(workers.c.status == "dead", workers.c.heartbeat_at < old))
    waiting = sa.select(sa.func.count()).where(approvals.c.status == "pending")
    PENDING.set(int(connection.execute(waiting).scalar_one()))
    counts = (
        sa.select(tasks.c.status, sa.func.count()).where(tasks.c.status.not_in(tuple(FINAL))).group_by(tasks.c.status)
    )
    open_tasks: dict[str, int] = {row[0]: row[1] for row in connection.execute(counts)}
    for status in OPEN:
        OPEN_TASKS.labels(status).set(open_tasks.get(status, 0))
