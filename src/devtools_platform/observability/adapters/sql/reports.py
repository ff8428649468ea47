"""The ledger added up by the state database."""

from datetime import UTC, date, datetime
from decimal import Decimal
from typing import Any

import sqlalchemy as sa

from devtools_platform.kit.database import read_in_thread
from devtools_platform.kit.schema import model_calls
from devtools_platform.observability.reports import By, CostLine

MAX_LINES = 1000


async def add_up(database: sa.Engine, by: By, since: date, until: date) -> list[CostLine]:
    """Calls from `since` to before `until`; the newest day first, else the dearest first. At most 1000 lines."""
    return await read_in_thread(database, lambda c: _add_up(c, by, since, until))


def _add_up(connection: sa.Connection, by: By, since: date, until: date) -> list[CostLine]:
    table, key = model_calls, _key(connection, by)
    is_answered = table.c.error.is_(None)
    query = (
        sa.select(
            key.label("key"),
            sa.func.count().filter(is_answered).label("calls"),
            sa.func.count().filter(table.c.error.is_not(None)).label("failed"),
            sa.func.coalesce(sa.func.sum(table.c.input_tokens), 0).label("input"),
            sa.func.coalesce(sa.func.sum(table.c.output_tokens), 0).label("output"),
            sa.func.coalesce(sa.func.sum(table.c.cached_tokens), 0).label("cached"),
            sa.func.sum(table.c.cost_usd).label("cost"),
            sa.func.count().filter(is_answered, table.c.cost_usd.is_(None)).label("unpriced"),
        )
        .where(table.c.at >= _midnight(since), table.c.at < _midnight(until))
        .group_by(key)
    )
    lines = [
        CostLine(
            str(row.key or "unknown"), row.calls, row.failed, int(row.input), int(row.output), int(row.cached),
            Decimal(row.cost or 0), row.unpriced,
        )
        for row in connection.execute(query).all()
    ]  # fmt: skip
    if by == "day":
        lines.sort(key=lambda line: line.key, reverse=True)
    else:
        lines.sort(key=lambda line: (line.priced_usd, line.calls), reverse=True)
    return lines[:MAX_LINES]


def _key(connection: sa.Connection, by: By) -> sa.ColumnElement[Any]:
    table = model_calls
    if by == "day":
        at = table.c.at if connection.dialect.name == "sqlite" else sa.func.timezone("UTC", table.c.at)
        return sa.func.date(at)
    if by == "model":
        return table.c.provider + " " + table.c.model
    return table.c["task_id" if by == "task" else by]


def _midnight(day: date) -> datetime:
    return datetime(day.year, day.month, day.day, tzinfo=UTC)
