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
            # In one statement: the last event is stored together with the status.
            rows = connection.execute(_FOLLOWED, {"id": task_id, "after": after, "most": PAGE}).all()
            status = rows[0].status if rows else read_row(connection, task_id).status
            return status in FINAL, [_to_event(row) for row in rows if row.seq is not None]

        while True:
            has_ended, events = await read_in_thread(self.database, look)
            for event in events:
                after = event.seq
                yield event
            if not events and has_ended:
                return
            if not has_ended and len(events) < PAGE:
                await asyncio.sleep(self.poll_s)


def _read_events(connection: sa.Connection, task_id: str, after: int, limit: int) -> list[Event]:
    rows = connection.execute(_AFTER, {"id": task_id, "after": after, "most": limit}).all()
    return [_to_event(row) for row in rows]


def _to_event(row: sa.Row[Any]) -> Event:
    return Event(seq=row.seq, task_id=row.task_id, kind=row.kind, at=row.at, agent=row.agent, data=row.data)


def append_event(
    connection: sa.Connection, task_id: str, key: str, kind: str, agent: str | None, data: Mapping[str, Any]
) -> int:
    """Store one event in the caller's transaction; returns its number. A key already stored is left as it was."""
    # Locking the task's row makes the numbers gapless and in commit order: a follower never skips one.
    connection.execute(_LOCK, {"id": task_id}).one()
    row = {"of_task": task_id, "of_key": key, "of_kind": kind, "of_agent": agent, "given": redact(data)}
    made = connection.execute(_INSERT, row).scalar()
    return int(connection.execute(_STORED, {"id": task_id, "of_key": key}).scalar_one() if made is None else made)


def _insert() -> sa.Insert:
    """An event under the next number of its task, unless its key is there. Gives the number."""
    table = schema.events
    task_id, key = sa.bindparam("of_task", type_=sa.Text), sa.bindparam("of_key", type_=sa.Text)
    seq = sa.select(sa.func.coalesce(sa.func.max(table.c.seq), 0) + 1).where(table.c.task_id == task_id)
    given = [
        task_id,
        seq.scalar_subquery(),
        key,
        sa.bindparam("of_kind", type_=sa.Text),
        sa.bindparam("of_agent", type_=sa.Text),
        sa.bindparam("given", type_=table.c.data.type),
    ]
    is_stored = sa.exists().where(table.c.task_id == task_id, table.c.key == key)
    names = ["task_id", "seq", "key", "kind", "agent", "data"]
    return sa.insert(table).from_select(names, sa.select(*given).where(~is_stored)).returning(table.c.seq)


def _after() -> sa.Select[Any]:
    table = schema.events
    newer = table.c.task_id == sa.bindparam("id"), table.c.seq > sa.bindparam("after")
    return sa.select(table).where(*newer).order_by(table.c.seq).limit(sa.bindparam("most"))


def _followed() -> sa.Select[Any]:
    """The task's status beside each of its newer events; beside nothing where there is none."""
    tasks, table = schema.tasks, schema.events
    newer = sa.and_(table.c.task_id == tasks.c.id, table.c.seq > sa.bindparam("after"))
    both = sa.outerjoin(tasks, table, newer)
    found = sa.select(tasks.c.status, table).select_from(both).where(tasks.c.id == sa.bindparam("id"))
    return found.order_by(table.c.seq).limit(sa.bindparam("most"))


# Built once: every model call and every tool call appends an event, every follower looks five times a second, and
# building a statement costs as much as running it.
_AFTER = _after()
_FOLLOWED = _followed()
_LOCK = sa.select(schema.tasks.c.id).where(schema.tasks.c.id == sa.bindparam("id")).with_for_update()
_STORED = sa.select(schema.events.c.seq).where(
    schema.events.c.task_id == sa.bindparam("id"), schema.events.c.key == sa.bindparam("of_key")
)
_INSERT = _insert()


def copy_events(connection: sa.Connection, source: str, target: str, up_to: int) -> None:
    """Give `target` the events of `source` up to the number `up_to`: a fork shows what came before it."""
    table = schema.events
    columns = [table.c.seq, table.c.key, table.c.kind, table.c.agent, table.c.data, table.c.at]
    rows = sa.select(sa.literal(target), *columns).where(table.c.task_id == source, table.c.seq <= up_to)
    connection.execute(sa.insert(table).from_select(["task_id", *(column.name for column in columns)], rows))
