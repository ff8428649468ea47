"""Inbox, outbox, links, remote objects and sealed tokens in the state database, on PostgreSQL and SQLite."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql, sqlite

from devtools_platform.core.redact import redact, redact_text
from devtools_platform.integrations.types import Delivery, Link, Message, Outcome, Parcel, Received, Service
from devtools_platform.kit import schema
from devtools_platform.kit.database import in_thread, insert_each_once, insert_once

LEASE_S = 300.0
"""A message that another stack has been sending for so long is in doubt; ours are as soon as we start."""
KEEP = timedelta(days=30)
"""How long what is finished stays. Replays of a webhook are known for that long."""


@dataclass(frozen=True)
class SqlInbox:
    """See `interfaces.InboxStore`."""

    database: sa.Engine

    async def put(self, deliveries: Sequence[Delivery]) -> Sequence[bool]:
        return await in_thread(self.database, lambda c: _put_deliveries(c, deliveries))

    async def take(self, limit: int) -> Sequence[Received]:
        table = schema.inbox
        due = sa.select(table).where(table.c.state == "waiting", table.c.not_before <= _now())
        rows = await in_thread(self.database, lambda c: c.execute(due.order_by(table.c.id).limit(limit)).all())
        return [Received(r.id, r.service, r.delivery, r.event, r.body, r.attempts) for r in rows]

    async def finish(self, number: int, outcome: Outcome) -> None:
        await self._set(number, state=outcome.state, note=redact_text(outcome.note))

    async def postpone(self, number: int, until: datetime, note: str) -> None:
        table = schema.inbox
        await self._set(number, not_before=until, note=redact_text(note), attempts=table.c.attempts + 1)

    async def fail(self, number: int, note: str) -> None:
        await self._set(number, state="failed", note=redact_text(note))

    async def _set(self, number: int, **values: Any) -> None:
        table = schema.inbox
        change = sa.update(table).where(table.c.id == number).values(**values)
        await in_thread(self.database, lambda c: c.execute(change))

    async def forget(self) -> int:
        """Delete what was worked long ago; returns how many."""
        table = schema.inbox
        old = sa.delete(table).where(table.c.state != "waiting", table.c.received_at < _now() - KEEP)
        return await in_thread(self.database, lambda c: c.execute(old).rowcount)


def _put_deliveries(connection: sa.Connection, deliveries: Sequence[Delivery]) -> list[bool]:
    """One statement for all: a burst leaves no room for one each."""
    rows = [
        {
            "service": delivery.service,
            "delivery": delivery.id,
            "digest": delivery.digest,
            "event": delivery.event,
            "body": delivery.body,
            "not_before": _now(),
        }
        for delivery in deliveries
    ]
    insert = sqlite.insert if connection.dialect.name == "sqlite" else postgresql.insert
    table = schema.inbox
    # Without a target: neither the id nor the body may be known. Also those of one statement count for each other.
    stored = insert(table).values(rows).on_conflict_do_nothing().returning(table.c.service, table.c.delivery)
    new = {(row.service, row.delivery) for row in connection.execute(stored)}
    news: list[bool] = []
    for delivery in deliveries:
        known_as = (delivery.service, delivery.id)
        news.append(known_as in new)
        new.discard(known_as)
    return news


@dataclass(frozen=True)
class SqlOutbox:
    """See `interfaces.OutboxStore`, `Remotes` and `Links`. `owner` names this stack, also after a restart."""

    database: sa.Engine
    owner: str
    services: tuple[Service, ...] = ("github", "linear")
    """Whose messages are taken from it."""

    async def put(self, messages: Sequence[Message]) -> None:
        await in_thread(self.database, lambda c: _put(c, messages))

    async def tell(self, link: Link, messages: Sequence[Message], told: int) -> None:
        table = schema.task_links

        def store(connection: sa.Connection) -> None:
            _put(connection, messages)
            mine = sa.update(table).where(table.c.task_id == link.task_id, table.c.told < told)
            connection.execute(mine.values(told=told))

        await in_thread(self.database, store)

    async def recover(self) -> int:
        table = schema.outbox
        mine = sa.update(table).where(
            table.c.state == "sending", table.c.owner == self.owner, table.c.service.in_(self.services)
        )
        return await in_thread(self.database, lambda c: c.execute(mine.values(_IN_DOUBT)).rowcount)

    async def take(self, limit: int) -> Sequence[Parcel]:
        return await in_thread(self.database, lambda c: _take(c, self.owner, self.services, limit))

    async def arrive(self, parcel: Parcel, remote_id: str | None) -> None:
        place = parcel.message.place

        def store(connection: sa.Connection) -> None:
            if place is not None and remote_id is not None:
                insert_once(connection, schema.remote_objects, {"place": place, "remote_id": remote_id}, on=("place",))
            _end(connection, parcel.number, "done", None)

        await in_thread(self.database, store)

    async def postpone(self, parcel: Parcel, until: datetime, error: str, *, is_in_doubt: bool) -> None:
        table = schema.outbox
        values: dict[str, Any] = {"state": "waiting", "not_before": until, "error": redact_text(error)}
        if is_in_doubt:
            values["is_in_doubt"] = True
        change = sa.update(table).where(table.c.id == parcel.number).values(values)
        await in_thread(self.database, lambda c: c.execute(change))

    async def fail(self, parcel: Parcel, error: str) -> None:
        await in_thread(self.database, lambda c: _end(c, parcel.number, "failed", redact_text(error)))

    async def forget(self) -> int:
        """Delete what arrived long ago; returns how many. What failed stays, for people to see."""
        table = schema.outbox
        old = sa.delete(table).where(table.c.state.in_(("done", "replaced")), table.c.created_at < _now() - KEEP)
        return await in_thread(self.database, lambda c: c.execute(old).rowcount)

    async def find_remote(self, place: str) -> str | None:
        table = schema.remote_objects
        query = sa.select(table.c.remote_id).where(table.c.place == place)
        return await in_thread(self.database, lambda c: c.execute(query).scalar())

    async def add_link(self, link: Link, messages: Sequence[Message]) -> None:
        row = {"task_id": link.task_id, "service": link.service, "thread": link.thread, "origin": dict(link.origin)}

        def store(connection: sa.Connection) -> None:
            insert_once(connection, schema.task_links, row, on=("task_id",))
            _put(connection, messages)

        await in_thread(self.database, store)

    async def find_link(self, task_id: str) -> Link | None:
        table = schema.task_links
        query = sa.select(table).where(table.c.task_id == task_id)
        row = await in_thread(self.database, lambda c: c.execute(query).one_or_none())
        return None if row is None else _link(row)

    async def latest_link(self, thread: str) -> Link | None:
        table = schema.task_links
        query = sa.select(table).where(table.c.thread == thread).order_by(table.c.created_at.desc()).limit(1)
        row = await in_thread(self.database, lambda c: c.execute(query).one_or_none())
        return None if row is None else _link(row)

    async def list_links(self) -> Sequence[Link]:
        rows = await in_thread(self.database, lambda c: c.execute(sa.select(schema.task_links)).all())
        return [_link(row) for row in rows]


_IN_DOUBT = {"state": "waiting", "is_in_doubt": True}


def _put(connection: sa.Connection, messages: Sequence[Message]) -> None:
    now = _now()
    rows = [
        {
            "key": message.key,
            "subject": message.subject,
            "service": message.service,
            "kind": message.kind,
            "place": message.place,
            "body": redact(message.body),
            "not_before": now,
        }
        for message in messages
    ]
    insert_each_once(connection, schema.outbox, rows, on=("key",))


def _take(connection: sa.Connection, owner: str, services: Sequence[Service], limit: int) -> list[Parcel]:
    table, now = schema.outbox, _now()
    _give_up_dead(connection, now)
    _replace_outdated(connection)
    earlier = table.alias()
    is_first = ~sa.exists().where(
        earlier.c.subject == table.c.subject,
        earlier.c.id < table.c.id,
        earlier.c.state.in_(("waiting", "sending")),
    )
    due = sa.select(table).where(
        table.c.state == "waiting", table.c.not_before <= now, is_first, table.c.service.in_(services)
    )
    parcels: list[Parcel] = []
    for row in connection.execute(due.order_by(table.c.id).limit(limit)).all():
        # Of two stacks that want it, one finds it waiting.
        mine = sa.update(table).where(table.c.id == row.id, table.c.state == "waiting")
        values = {"state": "sending", "owner": owner, "attempts": row.attempts + 1, "not_before": now}
        if connection.execute(mine.values(values)).rowcount == 1:
            parcels.append(_parcel(row))
    return parcels


def _give_up_dead(connection: sa.Connection, now: datetime) -> None:
    table = schema.outbox
    dead = sa.update(table).where(table.c.state == "sending", table.c.not_before < now - timedelta(seconds=LEASE_S))
    connection.execute(dead.values(_IN_DOUBT))


def _replace_outdated(connection: sa.Connection) -> None:
    """Of the words that wait for one place the newest counts; it inherits the doubt whether an older one arrived."""
    table = schema.outbox
    waiting = sa.select(table.c.id, table.c.place, table.c.is_in_doubt).where(
        table.c.state == "waiting", table.c.place.is_not(None)
    )
    newest: dict[str, sa.Row[Any, Any, Any]] = {}
    for row in connection.execute(waiting.order_by(table.c.id.desc())).all():
        last = newest.setdefault(row.place, row)
        if last is row:
            continue
        _end(connection, row.id, "replaced", None)
        if row.is_in_doubt:
            connection.execute(sa.update(table).where(table.c.id == last.id).values(is_in_doubt=True))


def _end(connection: sa.Connection, number: int, state: str, error: str | None) -> None:
    table = schema.outbox
    values = {"state": state, "error": error, "ended_at": _now()}
    connection.execute(sa.update(table).where(table.c.id == number).values(values))


def _parcel(row: sa.Row[Any]) -> Parcel:
    message = Message(row.key, row.subject, row.service, row.kind, row.body, row.place)
    return Parcel(row.id, message, row.attempts, row.is_in_doubt)


def _link(row: sa.Row[Any]) -> Link:
    return Link(row.task_id, row.service, row.thread, row.origin, row.told)


def _now() -> datetime:
    return datetime.now(UTC)


@dataclass(frozen=True)
class SqlTokens:
    """Sealed tokens, one row a service."""

    database: sa.Engine

    async def read(self, service: str) -> str | None:
        table = schema.service_tokens
        query = sa.select(table.c.sealed).where(table.c.service == service)
        return await in_thread(self.database, lambda c: c.execute(query).scalar())

    async def write(self, service: str, sealed: str) -> None:
        table = schema.service_tokens

        def store(connection: sa.Connection) -> None:
            if not insert_once(connection, table, {"service": service, "sealed": sealed}, on=("service",)):
                values = {"sealed": sealed, "version": table.c.version + 1, "at": _now()}
                connection.execute(sa.update(table).where(table.c.service == service).values(values))

        await in_thread(self.database, store)
