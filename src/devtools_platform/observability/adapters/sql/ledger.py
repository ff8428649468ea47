"""Spans and the cost ledger in the state database."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

import sqlalchemy as sa

from devtools_platform.core.tasks import Usage
from devtools_platform.kit import schema
from devtools_platform.kit.database import in_thread, insert_each_once, read_in_thread, transaction
from devtools_platform.kit.schema import model_calls, tool_calls
from devtools_platform.kit.telemetry import trace_id_for
from devtools_platform.observability.adapters.sql.budget_accounts import (
    list_stale_holds,
    place_hold,
    raise_account,
    read_accounts,
    settle,
)
from devtools_platform.observability.adapters.sql.outbox import queue
from devtools_platform.observability.budgets import Account, Budgets, Spender, to_nano
from devtools_platform.observability.interfaces import BudgetWarning, Hold, ModelCall, SpanRow

_OF_CALL = sa.select(model_calls.c.id).where(model_calls.c.call_id == sa.bindparam("call"))
INTERRUPTED = "interrupted: the process ended while the call was being made"


@dataclass(frozen=True)
class Records:
    """Everything that was recorded of some tasks, as rows."""

    tasks: list[str]
    model_calls: list[dict[str, Any]]
    tool_calls: list[dict[str, Any]]
    spans: list[dict[str, Any]]


@dataclass(frozen=True)
class SqlSpanStore:
    """`sinks`: who else gets every span; see `outbox`."""

    database: sa.Engine
    sinks: Sequence[str] = ()

    def write(self, spans: Sequence[SpanRow]) -> None:
        rows = [vars(span) for span in spans]  # not `asdict`, which copies every attribute
        with transaction(self.database) as connection:
            insert_each_once(connection, schema.spans, rows, on=["trace_id", "span_id"])
            queue(connection, self.sinks, spans)

    async def read_trace(self, task_id: str) -> list[dict[str, Any]]:
        """The task's spans as rows, oldest first."""
        of_task = schema.spans.c.trace_id == trace_id_for(task_id)
        query = sa.select(schema.spans).where(of_task).order_by(schema.spans.c.started_at)
        rows = await read_in_thread(self.database, lambda c: c.execute(query).mappings().all())
        return [dict(row) for row in rows]

    async def read_records(self, task_id: str | None, newest: int) -> Records:
        """Of one task, or of the `newest` tasks that have ended."""
        return await read_in_thread(self.database, lambda c: _read_records(c, task_id, newest))


def _read_records(connection: sa.Connection, task_id: str | None, newest: int) -> Records:
    tasks = schema.tasks
    ended = sa.select(tasks.c.id).where(tasks.c.ended_at.is_not(None)).order_by(tasks.c.ended_at.desc()).limit(newest)
    ids = [task_id] if task_id is not None else list(connection.execute(ended).scalars())

    def rows(table: sa.Table) -> list[dict[str, Any]]:
        return [dict(row) for row in connection.execute(sa.select(table).where(table.c.task_id.in_(ids))).mappings()]

    return Records(ids, rows(model_calls), rows(tool_calls), rows(schema.spans))


@dataclass(frozen=True)
class SqlLedger:
    """Every model call, and the budgets they count against: a call and what it settles are one transaction."""

    database: sa.Engine
    budgets: Budgets = field(default_factory=Budgets)

    async def hold(self, hold: Hold) -> None:
        await in_thread(self.database, lambda c: place_hold(c, self.budgets, hold))

    async def record(
        self, call: ModelCall, *, keep_held: bool = False, also: Callable[[Any], None] | None = None
    ) -> list[BudgetWarning]:
        def record(connection: sa.Connection) -> list[BudgetWarning]:
            if also is not None:
                also(connection)
            return self._record(connection, call, keep_held=keep_held)

        return await in_thread(self.database, record)

    async def raise_limit(self, id_: str, key: str, usd: Decimal) -> None:
        await in_thread(self.database, lambda c: raise_account(c, self.budgets, id_, key, to_nano(usd)))

    async def settle_interrupted(self, older_than_s: float) -> int:
        """Book what is held for calls whose process ended in the middle: the provider may charge for them.

        Each gets its row in the ledger, with an error and without a cost. Returns how many.
        """
        stale = await in_thread(self.database, lambda c: list_stale_holds(c, older_than_s))
        for row in stale:
            call = ModelCall(
                row.task_id, row.agent, row.provider, row.model, None, None, None, 0.0, INTERRUPTED,
                call_id=row.id, environment=row.environment,
            )  # fmt: skip
            await self.record(call, keep_held=True)
        return len(stale)

    async def list_accounts(self) -> list[Account]:
        return await read_in_thread(self.database, lambda c: read_accounts(c, self.budgets, now=datetime.now(UTC)))

    async def usage(self, task_id: str) -> Usage:
        return await read_in_thread(self.database, lambda c: _sum(c, task_id))

    def _record(self, connection: sa.Connection, call: ModelCall, *, keep_held: bool) -> list[BudgetWarning]:
        row = {**vars(call), "trace_id": trace_id_for(call.task_id)}
        spent = _spent(call, keep_held=keep_held)
        if spent == 0 and not self.budgets.is_limited:  # free, or failed, and nothing can be held: one statement
            insert_each_once(connection, model_calls, [row], on=["call_id"])
            return []
        if call.call_id is not None and _is_recorded(connection, call.call_id):
            return []
        spender = Spender(call.task_id, call.agent, call.environment or "")
        warnings = settle(connection, self.budgets, spender, call.call_id, spent)
        insert_each_once(connection, model_calls, [row], on=["call_id"])
        return warnings


def _spent(call: ModelCall, *, keep_held: bool) -> int | None:
    """What to book: a failed call costs nothing unless nobody knows; an answered one of unknown cost, what was held."""
    if keep_held:
        return None
    if call.cost_usd is not None:
        return to_nano(call.cost_usd)
    return 0 if call.error is not None else None


def _is_recorded(connection: sa.Connection, call_id: str) -> bool:
    return connection.execute(_OF_CALL, {"call": call_id}).first() is not None


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
