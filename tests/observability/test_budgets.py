"""Budgets on both stores: parallel calls cannot overshoot, a restart forgets nothing, people raise limits."""

import asyncio
import secrets
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

import pytest
import sqlalchemy as sa
from pydantic_ai.messages import ModelMessage, ModelRequest, ModelResponse, TextPart
from pydantic_ai.models import Model, ModelRequestParameters
from pydantic_ai.models.function import AgentInfo, FunctionModel
from pydantic_ai.models.wrapper import WrapperModel
from pydantic_ai.settings import ModelSettings
from pydantic_ai.usage import RequestUsage

from devtools_platform.agents.metered import MeteredModel
from devtools_platform.app.ledger import LedgerBridge, Pricing
from devtools_platform.app.models import ServedModel
from devtools_platform.core.errors import OverBudget, Unavailable
from devtools_platform.core.tasks import ModelInfo
from devtools_platform.kit.database import connect
from devtools_platform.kit.schema import budget_accounts, budget_holds, model_calls
from devtools_platform.kit.telemetry import TaskScope, current_scope
from devtools_platform.observability.adapters.sql import INTERRUPTED, SqlLedger
from devtools_platform.observability.budgets import Budgets, Spender, to_nano
from devtools_platform.observability.interfaces import Hold
from devtools_platform.observability.prices import Price, PriceFile

PRICED = PriceFile(prices=(Price(model="m", input_usd=Decimal(1), output_usd=Decimal(2), source="test"),))
"""A call of `USED` costs $0.0021; at most 1,500 output tokens and its request are reserved, a little over $0.003."""
USED = RequestUsage(input_tokens=100, output_tokens=1000)
PROMPT: list[ModelMessage] = [ModelRequest.user_text_prompt("Go")]


@dataclass
class Timeline:
    """Where events go, kept in memory."""

    events: list[tuple[str, Any]] = field(default_factory=list[tuple[str, Any]])

    async def append_event(self, task_id: str, key: str, kind: str, agent: str | None, data: Any) -> int:
        self.events.append((kind, data))
        return len(self.events)


class Endpoint(WrapperModel):
    """Counts tokens as it is told, where the function model would guess them."""

    def __init__(self, wrapped: Model, usage: RequestUsage) -> None:
        super().__init__(wrapped)
        self._usage = usage

    async def request(
        self,
        messages: list[ModelMessage],
        model_settings: ModelSettings | None,
        model_request_parameters: ModelRequestParameters,
    ) -> ModelResponse:
        answer = await self.wrapped.request(messages, model_settings, model_request_parameters)
        return replace(answer, usage=self._usage)


@dataclass
class Rig:
    database: sa.Engine
    budgets: Budgets
    file: PriceFile = PRICED
    usage: RequestUsage = field(default_factory=lambda: USED)
    error: Exception | None = None
    asked_for: list[int | None] = field(default_factory=list[int | None])
    timeline: Timeline = field(default_factory=Timeline)
    crowd: int = 0
    """Answers come once so many calls are being made or refused; 0: at once."""
    arrived: int = 0
    gate: asyncio.Event = field(default_factory=asyncio.Event)

    @property
    def ledger(self) -> SqlLedger:
        return SqlLedger(self.database, self.budgets)

    @property
    def model(self) -> MeteredModel:
        served = ServedModel(None, ModelInfo(name="m", provider="p", tier="standard"))
        bridge = LedgerBridge(
            self.ledger, self.timeline, Pricing(served, self.file), self.budgets,  # pyright: ignore[reportArgumentType]
            environment="test", action="ask", output_limit=1500,
        )  # fmt: skip
        return MeteredModel(
            Endpoint(FunctionModel(self._answer), self.usage),
            bridge,
            is_retryable=lambda _: None,
            explain=lambda e: Unavailable(str(e)),
        )

    async def _answer(self, _: list[ModelMessage], info: AgentInfo) -> ModelResponse:
        self.asked_for.append((info.model_settings or {}).get("max_tokens"))
        self._arrive()
        if self.crowd:
            async with asyncio.timeout(30):
                await self.gate.wait()
        if self.error is not None:
            raise self.error
        return ModelResponse(parts=[TextPart("done")])

    def _arrive(self) -> None:
        self.arrived += 1
        if self.arrived == self.crowd:
            self.gate.set()

    async def call(self, task_id: str, agent: str = "feature-dev") -> ModelResponse:
        reset = current_scope.set(TaskScope(task_id, agent))
        try:
            return await self.model.request(PROMPT, None, ModelRequestParameters())
        except OverBudget:
            self._arrive()
            raise
        finally:
            current_scope.reset(reset)

    def spent(self, key: str) -> tuple[int, int]:
        table = budget_accounts
        with self.database.connect() as connection:
            query = sa.select(table.c.spent, table.c.held).where(table.c.key == key)
            return tuple(connection.execute(query).one())  # pyright: ignore[reportReturnType]


@pytest.fixture
def task_id() -> str:
    return secrets.token_hex(4)


async def test_twenty_calls_at_once_stay_under_a_cap_of_a_cent(database: sa.Engine, task_id: str) -> None:
    rig = Rig(database, Budgets(task_usd=Decimal("0.01")), crowd=20)
    outcomes = await asyncio.gather(*(rig.call(task_id) for _ in range(20)), return_exceptions=True)

    refused = [outcome for outcome in outcomes if isinstance(outcome, OverBudget)]
    assert (len(refused), sum(isinstance(outcome, ModelResponse) for outcome in outcomes)) == (17, 3)
    spent, held = rig.spent(f"task:{task_id}")
    assert (spent, held) == (to_nano(Decimal("0.0063")), 0)
    usage = await rig.ledger.usage(task_id)
    assert usage.cost_usd == pytest.approx(spent / 1e9)
    assert refused[0].facts["key"] == f"task:{task_id}"
    assert rig.asked_for == [1500] * 3


async def test_a_restart_in_the_middle_keeps_the_spend(database: sa.Engine, database_url: str, task_id: str) -> None:
    budgets = Budgets(task_usd=Decimal("0.01"))
    rig = Rig(database, budgets)
    await rig.call(task_id)
    # The process ends in the middle of a call: what it had reserved stays reserved.
    hold = Hold(f"dead-{task_id}", Spender(task_id, "feature-dev", "test"), "p", "m", to_nano(Decimal("0.0075")))
    await rig.ledger.hold(hold)

    again = connect(database_url)
    after = Rig(again, budgets)
    with pytest.raises(OverBudget, match="reserved"):
        await after.call(task_id)
    assert await after.ledger.settle_interrupted(older_than_s=-1) == 1
    with pytest.raises(OverBudget):
        await after.call(task_id)
    assert after.spent(f"task:{task_id}") == (to_nano(Decimal("0.0096")), 0)
    with again.connect() as connection:
        rows = connection.execute(sa.select(model_calls).where(model_calls.c.task_id == task_id)).all()
        assert connection.execute(sa.select(budget_holds)).all() == []
    assert [(row.error, row.cost_usd) for row in rows] == [(None, Decimal("0.0021")), (INTERRUPTED, None)]
    again.dispose()


async def test_a_raised_limit_lets_calls_through_and_raises_once(database: sa.Engine, task_id: str) -> None:
    rig = Rig(database, Budgets(task_usd=Decimal("0.004")))
    await rig.call(task_id)
    with pytest.raises(OverBudget) as stopped:
        await rig.call(task_id)
    assert stopped.value.facts["may_ask"] is True
    for _ in range(2):  # a step that a crash repeats
        await rig.ledger.raise_limit(f"{task_id}-1", f"task:{task_id}", Decimal("0.002"))

    await rig.call(task_id)
    with pytest.raises(OverBudget, match=r"0\.0060"):
        await rig.call(task_id)


async def test_a_budget_warns_once_and_again_after_a_raise(database: sa.Engine, task_id: str) -> None:
    rig = Rig(database, Budgets(task_usd=Decimal("0.01"), warn_share=0.4))
    await rig.call(task_id)
    await rig.call(task_id)
    await rig.call(task_id)
    warnings = [data for kind, data in rig.timeline.events if kind == "budget_warning"]
    assert warnings == [{"key": f"task:{task_id}", "limit_usd": 0.01, "spent_usd": pytest.approx(0.0042)}]

    await rig.ledger.raise_limit(task_id, f"task:{task_id}", Decimal("0.005"))
    await rig.call(task_id)
    assert len([kind for kind, _ in rig.timeline.events if kind == "budget_warning"]) == 2


@pytest.mark.parametrize("scope", ["agent", "environment", "month"])
async def test_monthly_budgets_count_what_the_ledger_had_before_they_were_set(
    scope: str, database: sa.Engine, task_id: str
) -> None:
    await Rig(database, Budgets()).call(task_id, "cicd")  # without limits: counted all the same
    limits: dict[str, Any] = {f"{scope}_usd": Decimal("0.002")}
    rig = Rig(database, Budgets(**limits))
    with pytest.raises(OverBudget) as stopped:
        await rig.call(f"{task_id}-other", "cicd")
    assert stopped.value.facts["scope"] == scope
    assert stopped.value.facts["key"].endswith(f"{datetime.now(UTC):%Y-%m}")


async def test_a_call_of_unknown_price_is_refused_under_a_budget_or_counted_as_unknown(
    database: sa.Engine, task_id: str
) -> None:
    rig = Rig(database, Budgets(task_usd=Decimal(1)), PriceFile())
    with pytest.raises(OverBudget, match="No price is known for model 'm'"):
        await rig.call(task_id)
    assert rig.asked_for == []

    allowed = Rig(database, Budgets(task_usd=Decimal(1), unpriced="allow"), PriceFile())
    await allowed.call(task_id)
    assert (await allowed.ledger.usage(task_id)).cost_usd is None
    account = next(a for a in await allowed.ledger.list_accounts() if a.key == f"task:{task_id}")
    assert (account.spent, account.unpriced_calls) == (0, 1)


async def test_a_failed_call_gives_back_what_was_reserved_and_a_timeout_does_not(
    database: sa.Engine, task_id: str
) -> None:
    rig = Rig(database, Budgets(task_usd=Decimal("0.01")), error=RuntimeError("refused"))
    with pytest.raises(Unavailable):
        await rig.call(task_id)
    assert rig.spent(f"task:{task_id}") == (0, 0)

    late = Rig(database, Budgets(task_usd=Decimal("0.01")), error=TimeoutError("late"))
    with pytest.raises(Unavailable):
        await late.call(task_id)
    spent, held = late.spent(f"task:{task_id}")
    assert (spent > to_nano(Decimal("0.003")), held) == (True, 0)
    assert (await late.ledger.usage(task_id)).model_calls == 0


async def test_an_answer_without_token_counts_is_booked_as_what_was_reserved(database: sa.Engine, task_id: str) -> None:
    rig = Rig(database, Budgets(task_usd=Decimal("0.01")), usage=RequestUsage())
    await rig.call(task_id)
    spent, held = rig.spent(f"task:{task_id}")
    assert (spent > to_nano(Decimal("0.003")), held) == (True, 0)
    assert (await rig.ledger.usage(task_id)).cost_usd is None


async def test_free_calls_touch_no_account(database: sa.Engine, task_id: str) -> None:
    free = PriceFile(prices=(Price(model="m", input_usd=Decimal(0), output_usd=Decimal(0), source="test"),))
    rig = Rig(database, Budgets(), free)
    await rig.call(task_id)
    assert (await rig.ledger.usage(task_id)).cost_usd == 0.0
    with database.connect() as connection:
        assert connection.scalar(sa.select(sa.func.count()).where(budget_accounts.c.key == f"task:{task_id}")) == 0
