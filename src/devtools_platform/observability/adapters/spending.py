"""What model calls cost and used, added up by agent, model, task and day from the ledger's table."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from typing import Any

import sqlalchemy as sa

from devtools_platform.kit.database import read_in_thread
from devtools_platform.kit.schema import model_calls


@dataclass(frozen=True)
class Sum:
    """Calls that share a key. `cost_usd` adds up the known prices and is None when none is known."""

    key: str
    calls: int = 0
    failed: int = 0
    input_tokens: int = 0
    output_tokens: int = 0
    cost_usd: float | None = None
    unpriced: int = 0
    """Answered calls without a known price. A failed call has no usage to price."""


@dataclass(frozen=True)
class Sums:
    total: Sum
    by_agent: Sequence[Sum]
    by_model: Sequence[Sum]
    by_task: Sequence[Sum]
    by_day: Sequence[Sum]


@dataclass(frozen=True)
class SqlSpending:
    database: sa.Engine

    async def sums(self, days: int, now: datetime | None = None) -> Sums:
        """The last `days` days in UTC, today included. Largest first; days in order, without gaps."""
        today = (now or datetime.now(UTC)).date()
        first = today - timedelta(days=days - 1)
        rows = await read_in_thread(self.database, lambda c: c.execute(_query(c.dialect.name, first)).all())
        by_day = {item.key: item for item in _group(rows, lambda row: str(row.day))}
        all_days = [str(first + timedelta(days=n)) for n in range(days)]
        totals = _group(rows, lambda _: "all")
        return Sums(
            total=totals[0] if totals else Sum("all"),
            by_agent=_group(rows, lambda row: row.agent),
            by_model=_group(rows, lambda row: f"{row.model} ({row.provider})"),
            by_task=_group(rows, lambda row: row.task_id),
            by_day=[by_day.get(day, Sum(day)) for day in all_days],
        )


def _query(dialect: str, first: date) -> sa.Select[*tuple[Any, ...]]:
    table = model_calls
    utc = sa.func.timezone("UTC", table.c.at) if dialect == "postgresql" else table.c.at
    day = sa.cast(sa.func.date(utc), sa.Text).label("day")
    answered = table.c.error.is_(None)
    keys = (day, table.c.agent, table.c.model, table.c.provider, table.c.task_id)
    return (
        sa.select(
            *keys,
            sa.func.count().label("calls"),
            sa.func.count().filter(~answered).label("failed"),
            sa.func.coalesce(sa.func.sum(table.c.input_tokens), 0).label("input_tokens"),
            sa.func.coalesce(sa.func.sum(table.c.output_tokens), 0).label("output_tokens"),
            sa.func.sum(table.c.cost_usd).label("cost_usd"),
            sa.func.count().filter(answered, table.c.cost_usd.is_(None)).label("unpriced"),
        )
        .where(table.c.at >= datetime(first.year, first.month, first.day, tzinfo=UTC))
        .group_by(*keys)
    )


def _group(rows: Sequence[sa.Row[Any]], key: Callable[[sa.Row[Any]], str]) -> list[Sum]:
    found: dict[str, Sum] = {}
    for row in rows:
        name = key(row)
        found[name] = _add(found.get(name, Sum(name)), row)
    return sorted(found.values(), key=lambda item: (item.cost_usd or 0, item.input_tokens), reverse=True)


def _add(so_far: Sum, row: sa.Row[Any]) -> Sum:
    costs = [float(cost) for cost in (so_far.cost_usd, row.cost_usd) if cost is not None]
    return Sum(
        so_far.key,
        so_far.calls + row.calls,
        so_far.failed + row.failed,
        so_far.input_tokens + row.input_tokens,
        so_far.output_tokens + row.output_tokens,
        sum(costs) if costs else None,
        so_far.unpriced + row.unpriced,
    )
