"""What happened to a task, numbered without gaps, each thing stored once however often it is reported."""

import asyncio
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa

from devtools_platform.core.redact import redact
from devtools_platform.core.tasks import FINAL, Event
from devtools_platform.kit import schema
from devtools_platform.kit.database import in_thread
from devtools_platform.state.tasks import read_row


@dataclass(frozen=True)
class EventLog:
    """The events of all tasks. `poll_s` is how often a follower looks for new ones."""

    database: sa.Engine
    poll_s: float = 0.2

    async def list_events(self, task_id: str, after: int = 0, limit: int = 1000) -> list[Event]:
        """Events with `seq` above `after`, in order. An unknown task has none."""
        table = schema.events
        query = (
            sa.select(table).where(table.c.task_id == task_id, table.c.seq > after).order_by(table.c.seq).limit(limit)
        )
        rows = await in_thread(self.database, lambda c: c.execute(query).all())
        return [Event(seq=r.seq, task_id=r.task_id, kind=r.kind, at=r.at, agent=r.agent, data=r.data) for r in rows]

    async def follow_events(self, task_id: str, after: int = 0) -> AsyncIterator[Event]:
        """Events as they come, from `after` on; ends when the task has ended and all were given."""
        while True:
            has_ended = await in_thread(self.database, lambda c: read_row(c, task_id).status in FINAL)
            events = await self.list_events(task_id, after)
            for event in events:
                after = event.seq
                yield event
            if not events and has_ended:
                return
            if not events:
                await asyncio.sleep(self.poll_s)


def append_event(
    connection: sa.Connection, task_id: str, key: str, kind: str, agent: str | None, data: Mapping[str, Any]
) -> int:
    """Store one event in the caller's transaction; returns its number. A key already stored is left as it was."""
    # Locking the task's row makes the numbers gapless and in commit order: a follower never skips one.
    connection.execute(sa.select(schema.tasks.c.id).where(schema.tasks.c.id == task_id).with_for_update()).one()
    table = schema.events
    of_key = sa.select(table.c.seq).where(table.c.task_id == task_id, table.c.key == key)
    if (stored := connection.execute(of_key).scalar()) is not None:
        return int(stored)
    last = connection.execute(sa.select(sa.func.max(table.c.seq)).where(table.c.task_id == task_id)).scalar()
    seq = (last or 0) + 1
    row = {"task_id": task_id, "seq": seq, "key": key, "kind": kind, "agent": agent, "data": redact(data)}
    connection.execute(sa.insert(table).values(row))
    return seq


def copy_events(connection: sa.Connection, source: str, target: str, up_to: int) -> None:
    """Give `target` the events of `source` up to the number `up_to`: a fork shows what came before it."""
    table = schema.events
    columns = [table.c.seq, table.c.key, table.c.kind, table.c.agent, table.c.data, table.c.at]
    rows = sa.select(sa.literal(target), *columns).where(table.c.task_id == source, table.c.seq <= up_to)
    connection.execute(sa.insert(table).from_select(["task_id", *(column.name for column in columns)], rows))
