"""Who did what: a chain of entries, each sealed with a hash over itself and the entry before it.

An entry is written in the transaction of the deed, so neither is there without the other. It also carries the
deed's idempotency key: a write that is sent twice is found here and done once. What the chain shows is that
nobody changed, removed or reordered an entry after the fact; whoever can write to the whole table could make a
new chain, which is why `verify` prints the last hash for keeping elsewhere.
"""

import hashlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import sqlalchemy as sa

from devtools_platform.core.errors import KeyReused
from devtools_platform.core.redact import redact
from devtools_platform.kit import schema
from devtools_platform.kit.database import in_thread

FIRST_HASH = "0" * 64
HEAD_ID = 1
_BATCH = 1000

Body = Mapping[str, Any]


@dataclass(frozen=True)
class Deed:
    """Something a person or the stack does: `actor` did `action` to `subject`."""

    actor: str
    action: str
    """Noun and verb: `approval.decide`, `task.cancel`."""
    subject: str
    """Kind and id: `task:gv4m2xpc`."""
    data: Body
    key: str | None = None
    """Idempotency key of the request that asked for it."""
    makes_subject: bool = False
    """Whether the subject came to be by this deed: then its id is no part of what a repeated request must match."""

    @property
    def fingerprint(self) -> str:
        """What the same key must stand for when it is sent again."""
        subject = "" if self.makes_subject else self.subject
        return _digest(_canonical({"action": self.action, "subject": subject, "data": redact(self.data)}))


@dataclass(frozen=True)
class ChainReport:
    """What checking the chain came to. `broken_at` is the first entry that does not fit, None for a whole chain."""

    entries: int
    head: str
    """The last hash. Keep it elsewhere to notice later that the whole chain was replaced."""
    broken_at: int | None
    problem: str


def record(connection: sa.Connection, deed: Deed) -> str | None:
    """Append `deed` to the chain, in the caller's transaction.

    Returns None when it is new. When its key is known already, returns the subject that the first request was
    about, and the caller must change nothing. Raises `KeyReused` when that request asked for something else.
    """
    head, last = schema.audit_head, lock_chain(connection)
    if deed.key is not None and (subject := _find_key(connection, deed)) is not None:
        return subject
    seq = int(last.seq) + 1
    body = _canonical(
        {
            "seq": seq,
            "at": datetime.now(UTC).isoformat(),
            "actor": deed.actor,
            "action": deed.action,
            "subject": deed.subject,
            "data": redact(deed.data),
            "fingerprint": deed.fingerprint,
        }
    )
    sealed = _seal(str(last.hash), body)
    row = {"seq": seq, "body": body, "hash": sealed, "subject": deed.subject, "idempotency_key": deed.key}
    connection.execute(sa.insert(schema.audit).values(row))
    connection.execute(sa.update(head).where(head.c.id == HEAD_ID).values(seq=seq, hash=sealed))
    return None


def is_recorded(connection: sa.Connection, deed: Deed) -> bool:
    """Whether the deed's key is known already. Raises `KeyReused` when it stands for something else."""
    return deed.key is not None and _find_key(connection, deed) is not None


def lock_chain(connection: sa.Connection) -> sa.Row[int, str]:
    """Have the chain to oneself until the transaction ends; returns where it ends.

    Whoever needs it takes it before any row of a task, so that no two writers wait for each other.
    """
    head = schema.audit_head
    lock = sa.update(head).where(head.c.id == HEAD_ID).values(id=HEAD_ID).returning(head.c.seq, head.c.hash)
    return connection.execute(lock).one()


def _find_key(connection: sa.Connection, deed: Deed) -> str | None:
    table = schema.audit
    stored = connection.execute(sa.select(table.c.body).where(table.c.idempotency_key == deed.key)).scalar()
    if stored is None:
        return None
    body = json.loads(stored)
    if body["fingerprint"] != deed.fingerprint:
        raise KeyReused(
            f"The idempotency key {deed.key!r} was used for {body['action']} of {body['subject']} with other content.",
            hint="Send a new key with a new request; the old key only with the very same one.",
        )
    return str(body["subject"])


@dataclass(frozen=True)
class AuditLog:
    """The chain, for reading."""

    database: sa.Engine

    async def list_entries(
        self, *, subject: str | None = None, before: int | None = None, limit: int = 100
    ) -> list[dict[str, Any]]:
        """Newest first; of one subject, or all; those with a `seq` under `before`."""
        table = schema.audit
        query = sa.select(table.c.body, table.c.hash).order_by(table.c.seq.desc()).limit(limit)
        if subject is not None:
            query = query.where(table.c.subject == subject)
        if before is not None:
            query = query.where(table.c.seq < before)
        rows = await in_thread(self.database, lambda c: c.execute(query).all())
        return [{**json.loads(row.body), "hash": row.hash} for row in rows]

    async def verify(self) -> ChainReport:
        """Read the whole chain and check every link of it."""
        return await in_thread(self.database, _verify)


def _verify(connection: sa.Connection) -> ChainReport:
    head = connection.execute(sa.select(schema.audit_head)).one()
    last, count = FIRST_HASH, 0
    for row in _read_all(connection):
        count += 1
        if problem := _problem(row, count, last):
            return ChainReport(count, last, int(row.seq), problem)
        last = str(row.hash)
    if (count, last) != (head.seq, head.hash):
        return ChainReport(count, last, count + 1, f"The chain ends at entry {count}, but {head.seq} were written.")
    return ChainReport(count, last, None, "")


def _read_all(connection: sa.Connection) -> Iterator[sa.Row[Any]]:
    table, after = schema.audit, 0
    while True:
        query = sa.select(table).where(table.c.seq > after).order_by(table.c.seq).limit(_BATCH)
        rows = connection.execute(query).all()
        yield from rows
        if len(rows) < _BATCH:
            return
        after = int(rows[-1].seq)


def _problem(row: sa.Row[Any], place: int, last: str) -> str:
    if row.seq != place:
        return f"Entry {place} is missing."
    if _seal(last, row.body) != row.hash:
        return f"Entry {place} was changed, or the one before it was."
    body = json.loads(row.body)
    if (body["seq"], body["subject"]) != (row.seq, row.subject):
        return f"Entry {place} is filed under another number or subject than it says."
    return ""


def _canonical(value: Body) -> str:
    return json.dumps(schema.storable(value), sort_keys=True, separators=(",", ":"), ensure_ascii=False, default=str)


def _seal(last: str, body: str) -> str:
    return _digest(f"{last}\n{body}")


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()
