"""What each remote sink has still to be sent, in the state database."""

from collections.abc import Sequence
from dataclasses import dataclass, fields

import sqlalchemy as sa

from devtools_platform.kit import schema
from devtools_platform.kit.database import in_thread, insert_each_once
from devtools_platform.kit.schema import span_outbox
from devtools_platform.observability.interfaces import Batch, SpanRow

COLUMNS = [schema.spans.c[field.name] for field in fields(SpanRow)]


@dataclass(frozen=True)
class SqlOutbox:
    database: sa.Engine

    async def read(self, sink: str, limit: int) -> Batch:
        return await in_thread(self.database, lambda c: _read(c, sink, limit))

    async def remove(self, sink: str, rows: Sequence[SpanRow]) -> None:
        await in_thread(self.database, lambda c: _remove(c, sink, [(row.trace_id, row.span_id) for row in rows]))


def queue(connection: sa.Connection, sinks: Sequence[str], rows: Sequence[SpanRow]) -> None:
    """In the transaction that stores the spans: none is stored and not sent."""
    listed = [{"sink": sink, "trace_id": row.trace_id, "span_id": row.span_id} for sink in sinks for row in rows]
    insert_each_once(connection, span_outbox, listed, on=["sink", "trace_id", "span_id"])


def _read(connection: sa.Connection, sink: str, limit: int) -> Batch:
    pending = connection.execute(sa.select(sa.func.count()).where(span_outbox.c.sink == sink)).scalar_one()
    if not pending:
        return Batch([], 0, 0)
    is_stored = sa.and_(
        schema.spans.c.trace_id == span_outbox.c.trace_id, schema.spans.c.span_id == span_outbox.c.span_id
    )
    query = (
        sa.select(*COLUMNS, span_outbox.c.trace_id.label("out_trace"), span_outbox.c.span_id.label("out_span"))
        .select_from(span_outbox.outerjoin(schema.spans, is_stored))
        .where(span_outbox.c.sink == sink)
        .order_by(span_outbox.c.queued_at)
        .limit(limit)
    )
    found = connection.execute(query).mappings().all()
    gone = [(row["out_trace"], row["out_span"]) for row in found if row["name"] is None]
    _remove(connection, sink, gone)
    rows = [SpanRow(**{column.name: row[column.name] for column in COLUMNS}) for row in found if row["name"]]
    return Batch(rows, len(gone), pending - len(gone))


def _remove(connection: sa.Connection, sink: str, ids: Sequence[tuple[str, str]]) -> None:
    table = span_outbox
    of_sink = sa.delete(table).where(
        table.c.sink == sink, table.c.trace_id == sa.bindparam("t"), table.c.span_id == sa.bindparam("s")
    )
    if ids:
        connection.execute(of_sink, [{"t": trace_id, "s": span_id} for trace_id, span_id in ids])
