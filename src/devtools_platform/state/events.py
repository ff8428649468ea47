"""What happened to a task, numbered without gaps, each thing stored once however often it is reported."""

import asyncio
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa

from devtools_platform.core.redact import redact
from devtools_platform.core.tasks import FINAL, Event
from devtools_platform.kit import schema
from devtools_platform.kit.database import read_in_thread
from devtools_platform.state.tasks import read_row

PAGE = 1000


@dataclass(frozen=True)
class EventLog:
    """The events of all tasks. `poll_s` is how often a follower looks for new ones."""

    database: sa.Engine
    poll_s: float = 0.2

    async def list_events(self, task_id: str, after: int = 0, limit: int = PAGE) -> list[Event]:
        """Events with `seq` above `after`, in order. An unknown task has none."""
        return await read_in_thread(self.database, lambda c: _read_events(c, task_id, after, limit))

    async def follow_events(self, task_id: str, after: int = 0) -> AsyncIterator[Event]:
        """Events as they come, from `after` on; ends when the task has ended and all were given."""

        def look(connection: sa.Connection) -> tuple[bool, list[Event]]:
            # The status first: the last event is stored together with it.
            has_ended = _read_status(connection, task_id) in FINAL
            return has_ended, _read_events(connection, task_id, after, PAGE)

        while True:
            has_ended, events = await read_in_thread(self.database, look)
            for event in events:
                after = event.seq
                yield event
            if not events and has_ended:
                return
            if not has_ended and len(events) < PAGE:
                await asyncio.sleep(self.poll_s)


def _read_status(connection: sa.Connection, task_id: str) -> str:
    status = connection.execute(_STATUS, {"id": task_id}).scalar()
    return read_row(connection, task_id).status if status is None else str(status)


def _read_events(connection: sa.Connection, task_id: str, after: int, limit: int) -> list[Event]:
    rows = connection.execute(_AFTER, {"id": task_id, "after": after, "most": limit}).all()
    return [Event(seq=r.seq, task_id=r.task_id, kind=r.kind, at=r.at, agent=r.agent, data=r.data) for r in rows]


def append_event(
    connection: sa.Connection, task_id: str, key: str, kind: str, agent: str | None, data: Mapping[str, Any]
) -> int:
    """Store one event in the caller's transaction; returns its number. A key already stored is left as it was."""
    # Locking the task's row makes the numbers gapless and in commit order: a follower never skips one.
    connection.execute(_LOCK, {"id": task_id}).one()
    last, stored = connection.execute(_SEEN, {"id": task_id, "of_key": key}).one()
    if stored is not None:
        return int(stored)
    seq = (last or 0) + 1
    row = {"task_id": task_id, "seq": seq, "key": key, "kind": kind, "agent": agent, "data": redact(data)}
    connection.execute(_INSERT, row)
    return seq


def _seen() -> sa.Select[Any, Any]:
    """The last number, and that of a key."""
    table = schema.events
    of_task = table.c.task_id == sa.bindparam("id")
    last = sa.select(sa.func.max(table.c.seq)).where(of_task)
    of_key = sa.select(table.c.seq).where(of_task, table.c.key == sa.bindparam("of_key"))
    return sa.select(last.scalar_subquery(), of_key.scalar_subquery())


def _after() -> sa.Select[Any]:
    table = schema.events
    newer = table.c.task_id == sa.bindparam("id"), table.c.seq > sa.bindparam("after")
    return sa.select(table).where(*newer).order_by(table.c.seq).limit(sa.bindparam("most"))


# Built once: every model call and every tool call appends an event, every follower looks five times a second, and
# building a statement costs as much as running it.
_STATUS = sa.select(schema.tasks.c.status).where(schema.tasks.c.id == sa.bindparam("id"))
_AFTER = _after()
_LOCK = sa.select(schema.tasks.c.id).where(schema.tasks.c.id == sa.bindparam("id")).with_for_update()
_SEEN = _seen()
_INSERT = sa.insert(schema.events)


def copy_events(connection: sa.Connection, source: str, target: str, up_to: int) -> None:
    """Give `target` the events of `source` up to the number `up_to`: a fork shows what came before it."""
    table = schema.events
    columns = [table.c.seq, table.c.key, table.c.kind, table.c.agent, table.c.data, table.c.at]
    rows = sa.select(sa.literal(target), *columns).where(table.c.task_id == source, table.c.seq <= up_to)
    connection.execute(sa.insert(table).from_select(["task_id", *(column.name for column in columns)], rows))
