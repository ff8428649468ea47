"""Spans and the cost ledger, on both stores."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from decimal import Decimal

import sqlalchemy as sa

from devtools_platform.core.tasks import Usage
from devtools_platform.kit.schema import model_calls
from devtools_platform.kit.telemetry import trace_id_for
from devtools_platform.observability.adapters.sql import SqlLedger, SqlSpanStore
from devtools_platform.observability.interfaces import ModelCall, SpanRow

NOW = datetime(2026, 1, 2, 3, 4, 5, 678901, tzinfo=UTC)
CALL = ModelCall("priced", "feature-dev", "p", "m", 10, 2, Decimal("0.1"), 0.5)


def span(id_: str, started_at: datetime, task: str = "spanned") -> SpanRow:
    return SpanRow(
        trace_id_for(task), id_, None, "chat", "client", started_at, NOW, "ok", {"n": 1, "deep": [None]}, task, "dev"
    )


async def test_a_span_is_stored_once_and_read_in_order(database: sa.Engine) -> None:
    store = SqlSpanStore(database)
    store.write([span("b", NOW), span("a", NOW - timedelta(microseconds=1))])
    store.write([span("b", NOW), span("c", NOW + timedelta(seconds=1))])
    store.write([])

    rows = await store.read_trace("spanned")

    assert [row["span_id"] for row in rows] == ["a", "b", "c"]
    assert (rows[1]["started_at"], rows[1]["attributes"]) == (NOW, {"n": 1, "deep": [None]})


async def test_a_price_is_kept_to_the_last_digit(database: sa.Engine) -> None:
    price = Decimal("0.000123456789012345678901")
    await SqlLedger(database).record(replace(CALL, task_id="exact", cost_usd=price))

    with database.connect() as connection:
        query = sa.select(model_calls.c.cost_usd).where(model_calls.c.task_id == "exact")
        assert connection.scalar(query) == price


async def test_a_failed_call_costs_nothing_and_the_sum_has_no_stray_digit(database: sa.Engine) -> None:
    ledger = SqlLedger(database)
    await ledger.record(CALL)
    await ledger.record(replace(CALL, cost_usd=Decimal("0.2")))
    await ledger.record(replace(CALL, error="refused", input_tokens=None, output_tokens=None, cost_usd=None))

    assert await ledger.usage("priced") == Usage(
        model_calls=2, input_tokens=20, output_tokens=4, cost_usd=0.3, tool_calls=0
    )


async def test_a_call_without_a_price_makes_the_cost_unknown_and_no_call_costs_nothing(database: sa.Engine) -> None:
    ledger = SqlLedger(database)
    await ledger.record(replace(CALL, task_id="unpriced", cost_usd=None))

    assert (await ledger.usage("unpriced")).cost_usd is None
    assert await ledger.usage("none") == Usage(
        model_calls=0, input_tokens=0, output_tokens=0, cost_usd=0.0, tool_calls=0
    )
