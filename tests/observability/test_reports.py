"""The ledger added up on both stores, prices and fixed costs by date, and whether traces are whole."""

from dataclasses import replace
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from devtools_platform.core.errors import BadInput
from devtools_platform.kit.schema import model_calls
from devtools_platform.observability.adapters.sql import SqlLedger
from devtools_platform.observability.adapters.sql.reports import add_up
from devtools_platform.observability.api import read_period
from devtools_platform.observability.interfaces import ModelCall
from devtools_platform.observability.prices import FixedCost, load_prices
from devtools_platform.observability.reports import CostReport, Machine, compare_self_hosted, spread_fixed
from devtools_platform.observability.validation import validate

TODAY = datetime.now(UTC).date()
CALL = ModelCall("t1", "feature-dev", "p", "m", 100, 10, Decimal("0.1"), 0.5, environment="test", cached_tokens=40)


@pytest.fixture
async def ledger(database: sa.Engine) -> SqlLedger:
    with database.begin() as connection:
        connection.execute(sa.delete(model_calls))
    ledger = SqlLedger(database)
    await ledger.record(CALL)
    await ledger.record(replace(CALL, agent="cicd", task_id="t2", cost_usd=Decimal("0.2")))
    await ledger.record(replace(CALL, agent="cicd", model="other", cost_usd=None))
    failed = replace(CALL, input_tokens=None, output_tokens=None, cached_tokens=None, cost_usd=None, error="refused")
    await ledger.record(failed)
    return ledger


async def test_costs_are_added_up_and_unknown_ones_stay_unknown(ledger: SqlLedger) -> None:
    lines = await add_up(ledger.database, "agent", TODAY, TODAY + timedelta(days=1))
    report = CostReport("agent", TODAY, TODAY + timedelta(days=1), lines, [])

    assert [(line.key, line.calls, line.failed_calls, line.cost_usd) for line in lines] == [
        ("cicd", 2, 0, None),
        ("feature-dev", 1, 1, Decimal("0.1")),
    ]
    assert (report.total.input_tokens, report.total.cached_tokens) == (300, 120)
    assert (report.total.priced_usd, report.total.unpriced_calls, report.all_usd) == (Decimal("0.3"), 1, None)
    days = await add_up(ledger.database, "day", TODAY, TODAY + timedelta(days=1))
    assert [line.key for line in days] == [TODAY.isoformat()]
    assert {line.key for line in await add_up(ledger.database, "model", TODAY, TODAY + timedelta(days=1))} == {
        "p m",
        "p other",
    }
    assert await add_up(ledger.database, "task", TODAY - timedelta(days=9), TODAY) == []


async def test_a_comparison_says_all_it_assumes(ledger: SqlLedger) -> None:
    lines = await add_up(ledger.database, "task", TODAY, TODAY + timedelta(days=1))
    known = [line for line in lines if line.key == "t2"]
    report = CostReport("task", TODAY, TODAY + timedelta(days=1), known, [])
    compared = compare_self_hosted(report, Machine(Decimal("0.001"), 1000, 100, max_load=0.5))

    assert (compared.machines, compared.self_hosted_usd) == (1, Decimal("0.024"))
    assert compared.saving_share == pytest.approx(1 - 0.024 / 0.2)
    assert any("60 uncached input and 10 output tokens, model cost $0.2000" in text for text in compared.assumptions)
    slow = compare_self_hosted(report, Machine(Decimal(1), 60 / 86400, 10 / 86400, max_load=0.5))
    assert slow.machines == 4


def test_prices_hold_from_their_day_and_fixed_costs_for_their_days(tmp_path: Path) -> None:
    file = tmp_path / "prices.yaml"
    file.write_text(
        "prices:\n"
        "- {model: 'llama*', input_usd: 2, output_usd: 4, cached_input_usd: 1, source: list}\n"
        "- {model: 'llama*', input_usd: 1, output_usd: 2, since: 2026-03-01, source: list}\n"
        "fixed:\n- {name: droplet, kind: compute, usd_per_month: 24, since: 2026-01-11, source: invoice}\n"
    )
    prices = load_prices(file)
    old, new = (prices.find("gradient", "llama3", date(2026, month, 1)) for month in (2, 3))
    assert old is not None
    assert new is not None
    assert old.cost(1_000_000, 500_000, 400_000) == Decimal("3.6")
    assert new.cost(1_000_000, 500_000, 400_000) == Decimal(2)
    assert prices.find("gradient", "qwen", date(2026, 3, 1)) is None
    (line,) = spread_fixed(prices.fixed, date(2026, 1, 1), date(2026, 1, 21))
    assert round(line.usd, 4) == Decimal("7.8850")
    ended = FixedCost(name="registry", usd_per_month=Decimal(5), until=date(2026, 1, 1))
    assert ended.cost(date(2026, 1, 1), date(2026, 2, 1)) == 0


@pytest.mark.parametrize(
    ("text", "said"),
    [("prices: [{model: m}]", "prices.0.input_usd"), ("prices: [", "no YAML"), ("limits: 1", "limits"), (None, "read")],
)
def test_a_wrong_price_file_is_refused_with_the_entry(tmp_path: Path, text: str | None, said: str) -> None:
    file = tmp_path / "prices.yaml"
    if text is not None:
        file.write_text(text)
    with pytest.raises(BadInput, match=said):
        load_prices(file)


def test_a_period_is_this_month_or_what_was_asked_for() -> None:
    assert read_period(None, None) == (TODAY.replace(day=1), TODAY + timedelta(days=1))
    assert read_period(None, date(2026, 3, 1)) == (date(2026, 2, 1), date(2026, 3, 1))
    for since, until in ((date(2026, 1, 2), date(2026, 1, 2)), (date(1, 1, 1), None), (None, date(1, 1, 1))):
        with pytest.raises(BadInput):
            read_period(since, until)


GOOD = {"session.id": "t", "user.id": "cicd", "gen_ai.request.model": "m"}
USED = {
    **GOOD,
    "langfuse.observation.usage_details": '{"total": 12}',
    "langfuse.observation.cost_details": '{"total": 0.5}',
}
ROW: dict[str, Any] = {
    "call_id": "c", "span_id": "s", "task_id": "t", "agent": "cicd", "input_tokens": 10, "output_tokens": 2,
    "cost_usd": Decimal("0.5"), "error": None,
}  # fmt: skip
TOOL = {"key": "k", "server": "git", "tool": "log", "state": "finished"}
TOOL_SPAN = {"span_id": "t", "name": "tools/call", "attributes": {**GOOD, "devtools.tool.key": "k"}}


@pytest.mark.parametrize(
    ("call", "attributes", "problem"),
    [
        ({}, USED, None),
        ({"error": "interrupted: gone", "span_id": None}, USED, None),
        ({"span_id": "other"}, USED, "it has no span"),
        ({"agent": "dev"}, USED, "user.id 'cicd', not 'dev'"),
        ({"task_id": "u"}, USED, "session.id 't', not 'u'"),
        ({"output_tokens": 3}, USED, "says 12 tokens, the ledger 13"),
        ({"cost_usd": None}, USED, "a cost of 0.5, the ledger None"),
        ({"cost_usd": Decimal("0.4")}, USED, "a cost of 0.5, the ledger 0.4"),
        ({}, {**USED, "gen_ai.request.model": ""}, "names no model"),
        ({}, {**USED, "user.id": ""}, "no session or no user"),
    ],
)
def test_each_way_a_trace_can_be_wrong_is_named(call: dict[str, Any], attributes: dict[str, Any], problem: str) -> None:
    span = {"span_id": "s", "name": "chat m", "attributes": attributes}
    found = validate(["t"], [{**ROW, **call}], [TOOL], [span, TOOL_SPAN])
    assert (not found.problems) if problem is None else any(problem in text for text in found.problems), found.problems


def test_a_tool_call_without_a_span_and_a_task_without_records_are_named() -> None:
    span = {"span_id": "s", "name": "chat m", "attributes": USED}
    assert "git_log): it has no span" in validate(["t"], [ROW], [TOOL], [span]).problems[0]
    assert validate(["t"], [], [], []).problems == ["Nothing was recorded for t."]
    assert validate([], [], [], []).problems == [], "the first release of all must pass the gate"
