"""Spans and the cost ledger in the state database."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import sqlalchemy as sa

from devtools_platform.core.tasks import Usage
from devtools_platform.kit import schema
from devtools_platform.kit.database import in_thread, insert_each_once, read_in_thread, transaction
from devtools_platform.kit.schema import model_calls, tool_calls
from devtools_platform.kit.telemetry import trace_id_for
from devtools_platform.observability.interfaces import ModelCall, SpanRow


@dataclass(frozen=True)
class SqlSpanStore:
    database: sa.Engine

    def write(self, spans: Sequence[SpanRow]) -> None:
        rows = [asdict(span) for span in spans]
        with transaction(self.database) as connection:
            insert_each_once(connection, schema.spans, rows, on=["trace_id", "span_id"])

    async def read_trace(self, task_id: str) -> list[dict[str, Any]]:
        """The task's spans as rows, oldest first."""
        of_task = schema.spans.c.trace_id == trace_id_for(task_id)
        query = sa.select(schema.spans).where(of_task).order_by(schema.spans.c.started_at)
        rows = await read_in_thread(self.database, lambda c: c.execute(query).mappings().all())
        return [dict(row) for row in rows]


@dataclass(frozen=True)
class SqlLedger:
    database: sa.Engine

    async def record(self, call: ModelCall) -> None:
        row = {**asdict(call), "trace_id": trace_id_for(call.task_id)}
        await in_thread(self.database, lambda c: c.execute(sa.insert(model_calls).values(row)))

    async def usage(self, task_id: str) -> Usage:
        return await read_in_thread(self.database, lambda c: _sum(c, task_id))


def _sum(connection: sa.Connection, task_id: str) -> Usage:
    of_task = model_calls.c.task_id == task_id
    # A failed call has no usage to price; a call that was answered but not priced makes the cost unknown.
    answered = sa.and_(of_task, model_calls.c.error.is_(None))
    row = connection.execute(
        sa.select(
            sa.func.count(),
            sa.func.coalesce(sa.func.sum(model_calls.c.input_tokens), 0),
            sa.func.coalesce(sa.func.sum(model_calls.c.output_tokens), 0),
            sa.func.coalesce(sa.func.sum(model_calls.c.cost_usd), 0),
            sa.func.count().filter(model_calls.c.cost_usd.is_(None)),
        ).where(answered)
    ).one()
    tools = sa.select(sa.func.count()).where(tool_calls.c.task_id == task_id)
    return Usage(
        model_calls=row[0],
        input_tokens=row[1],
        output_tokens=row[2],
        cost_usd=None if row[4] else float(row[3]),
        tool_calls=connection.execute(tools).scalar_one(),
    )
