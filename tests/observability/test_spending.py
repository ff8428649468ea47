"""What the console shows of the ledger, on both stores: an unknown price stays unknown, a failed call is no spend."""

from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

import pytest
import sqlalchemy as sa

from devtools_platform.app.console_desks import ConsoleSums
from devtools_platform.kit.schema import model_calls

NOW = datetime(2026, 11, 25, 0, 30, tzinfo=UTC)


@pytest.fixture
def spending(database: sa.Engine) -> ConsoleSums:
    with database.begin() as connection:
        connection.execute(sa.delete(model_calls))
    return ConsoleSums(database, lambda: NOW)


def spend(database: sa.Engine, *, cost: str | None, at: datetime = NOW, error: str | None = None, **more: Any) -> None:
    row = {"task_id": "t1", "agent": "cicd", "provider": "p", "model": "m", "input_tokens": 100, "output_tokens": 10}
    figures = {"cost_usd": None if cost is None else Decimal(cost), "duration_s": 1.0, "at": at, "error": error}
    with database.begin() as connection:
        connection.execute(sa.insert(model_calls).values({**row, **figures, **more}))


async def test_costs_are_added_up_by_agent_model_task_and_day(spending, database):
    spend(database, cost="0.25")
    spend(database, cost="0.50", agent="feature-dev", task_id="t2", at=NOW - timedelta(days=1))
    sums = await spending.spending(3)
    assert (sums.total.calls, sums.total.cost_usd, sums.total.unpriced) == (2, 0.75, 0)
    assert [(one.key, one.cost_usd) for one in sums.by_agent] == [("feature-dev", 0.5), ("cicd", 0.25)]
    assert [(one.key, one.calls) for one in sums.by_model] == [("m (p)", 2)]
    assert [one.key for one in sums.by_task] == ["t2", "t1"]
    days = [("2026-11-23", None), ("2026-11-24", 0.5), ("2026-11-25", 0.25)]
    assert [(one.key, one.cost_usd) for one in sums.by_day] == days


async def test_a_call_without_a_price_is_counted_and_never_priced(spending, database):
    spend(database, cost=None)
    assert (await spending.spending(1)).total.cost_usd is None
    spend(database, cost="0.25")
    total = (await spending.spending(1)).total
    assert (total.cost_usd, total.unpriced) == (0.25, 1)


async def test_a_failed_call_is_counted_as_failed_and_not_as_unpriced(spending, database):
    spend(database, cost=None, error="timeout")
    total = (await spending.spending(1)).total
    assert (total.calls, total.failed, total.unpriced) == (1, 1, 0)


async def test_a_day_begins_at_midnight_in_utc(spending, database):
    spend(database, cost="1", at=NOW - timedelta(minutes=31))
    assert (await spending.spending(1)).total.calls == 0
    assert [one.calls for one in (await spending.spending(2)).by_day] == [1, 0]


async def test_nothing_spent_is_no_calls_and_no_cost(spending):
    sums = await spending.spending(2)
    assert (sums.total.calls, sums.total.cost_usd, len(sums.by_day), sums.by_agent) == (0, None, 2, [])
