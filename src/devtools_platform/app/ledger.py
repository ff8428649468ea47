"""The agents' ledger, kept by observability: calls are priced here, by the person's table first, then by ours."""

import uuid
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from decimal import Decimal
from typing import TYPE_CHECKING, Any, Literal

import sqlalchemy as sa

from devtools_platform.agents.adapters import endpoints
from devtools_platform.agents.interfaces import TaskLog
from devtools_platform.app.provider_costs import Catalogue, stored_costs
from devtools_platform.config import Settings
from devtools_platform.core.errors import OverBudget
from devtools_platform.core.tasks import Usage
from devtools_platform.kit.patience import patiently
from devtools_platform.observability.adapters.sql import SqlLedger
from devtools_platform.observability.budgets import Budgets, Spender, refuse_unpriced, to_nano
from devtools_platform.observability.interfaces import BudgetWarning, Hold, Ledger, ModelCall
from devtools_platform.observability.metrics import BUDGET_BLOCKED
from devtools_platform.observability.prices import PriceFile, load_prices

if TYPE_CHECKING:
    from devtools_platform.app.models import ServedModel


def build_budgets(settings: Settings) -> Budgets:
    """The limits a stack's settings give."""
    return Budgets(
        task_usd=settings.budget_task_usd,
        agent_usd=settings.budget_agent_usd,
        environment_usd=settings.budget_environment_usd,
        month_usd=settings.budget_month_usd,
        warn_share=settings.budget_warn_share,
        unpriced=settings.budget_unpriced,
    )


def build_ledger(
    settings: Settings, store: sa.Engine, log: TaskLog, served: "ServedModel", tell: "Tell | None" = None
) -> "LedgerBridge":
    budgets = build_budgets(settings)
    return LedgerBridge(
        SqlLedger(store, budgets),
        log,
        Pricing(served, load_prices(settings.prices), Catalogue(stored_costs(store))),
        budgets,
        environment=settings.environment,
        action=settings.budget_action,
        output_limit=settings.budget_max_output_tokens,
        tell=tell,
    )


Tell = Callable[[sa.Connection, str, str, str, str, Mapping[str, Any]], None]
"""Writes an event of a task into the timeline in the ledger's own transaction: task, key, kind, agent, data."""


@dataclass(frozen=True)
class Pricing:
    """What calls of the served model cost: by the person's file, the provider's catalogue, our tables, in that order.

    None where none of them says it.
    """

    served: "ServedModel"
    file: PriceFile
    catalogue: Catalogue | None = None
    today: Callable[[], datetime] = lambda: datetime.now(UTC)

    def price(self, input_tokens: int, output_tokens: int, cached_tokens: int) -> tuple[Decimal | None, str | None]:
        """US dollars, and the table they are from."""
        provider, model = self.name
        if (own := self.file.find(provider, model, self.today().date())) is not None:
            return own.cost(input_tokens, output_tokens, cached_tokens), own.describe()
        endpoint = self.served.endpoint
        if endpoint is None:
            return None, None
        if self.catalogue is not None and endpoints.is_digitalocean(endpoint):
            tokens = (input_tokens, output_tokens, cached_tokens)
            if (named := self.catalogue.price(endpoint.model, self.today().date(), tokens)) is not None:
                return named
        cost = endpoints.cost_usd(endpoint, input_tokens, output_tokens, cached_tokens)
        return cost, None if cost is None else endpoints.price_source(endpoint)

    async def refresh(self) -> None:
        """See what the catalogue has come to say. Nothing to do for a model that is not in it."""
        endpoint = self.served.endpoint
        if self.catalogue is not None and endpoint is not None and endpoints.is_digitalocean(endpoint):
            await self.catalogue.refresh()

    @property
    def name(self) -> tuple[str, str]:
        """Provider and model as the ledger has them."""
        info = self.served.info
        return (info.provider, info.name) if info else ("", "")


@dataclass(frozen=True)
class LedgerBridge:
    """Each call also stands in the task's timeline, and so does each budget that runs low."""

    ledger: Ledger
    log: TaskLog
    pricing: Pricing
    budgets: Budgets
    environment: str
    action: Literal["ask", "stop"]
    output_limit: int
    tell: Tell | None = None
    """None where the timeline is elsewhere; then `log` is told after the ledger."""

    @property
    def max_output_tokens(self) -> int | None:
        return self.output_limit if self.budgets.is_limited else None

    async def reserve(self, *, call_id: str, task_id: str, agent: str, input_tokens: int, output_tokens: int) -> None:
        await patiently(self.pricing.refresh)
        cost, _ = self.pricing.price(input_tokens, output_tokens, 0)
        provider, model = self.pricing.name
        if cost is None and self.budgets.unpriced == "refuse":
            BUDGET_BLOCKED.labels("unpriced").inc()
            raise refuse_unpriced(model)
        if not cost:
            return
        spender = Spender(task_id, agent, self.environment)
        hold = Hold(call_id, spender, provider, model, to_nano(cost))
        try:
            await patiently(lambda: self.ledger.hold(hold))
        except OverBudget as error:
            BUDGET_BLOCKED.labels(str(error.facts["scope"])).inc()
            error.facts["may_ask"] = self.action == "ask"
            raise

    async def record_call(
        self,
        *,
        call_id: str,
        task_id: str,
        agent: str,
        input_tokens: int | None,
        output_tokens: int | None,
        cached_tokens: int | None,
        duration_s: float,
        error: str | None,
        span_id: str | None,
        may_be_charged: bool,
    ) -> Decimal | None:
        cost, source = None, None
        if input_tokens is not None and output_tokens is not None:
            await patiently(self.pricing.refresh)
            cost, source = self.pricing.price(input_tokens, output_tokens, cached_tokens or 0)
        provider, model = self.pricing.name
        call = ModelCall(
            task_id=task_id,
            agent=agent,
            provider=provider,
            model=model,
            input_tokens=input_tokens,
            output_tokens=output_tokens,
            cost_usd=cost,
            duration_s=round(duration_s, 3),
            error=error,
            call_id=call_id,
            environment=self.environment,
            cached_tokens=cached_tokens,
            price_source=source,
            span_id=span_id,
        )
        # A call that a crash made us repeat was made, and paid, twice: every one has a key of its own.
        data = {**vars(call), "cost_usd": None if cost is None else float(cost)}
        event = (task_id, f"model:{call_id}", "model_call", agent, data)
        tell = self.tell

        def also(connection: sa.Connection) -> None:
            if tell is not None:
                tell(connection, *event)

        warnings = await patiently(lambda: self.ledger.record(call, keep_held=may_be_charged, also=also))
        if tell is None:
            await patiently(lambda: self.log.append_event(*event))
        for warning in warnings:
            await self._warn(task_id, agent, warning)
        return cost

    async def raise_limit(self, id_: str, key: str, usd: Decimal) -> None:
        await patiently(lambda: self.ledger.raise_limit(id_, key, usd))

    async def usage(self, task_id: str) -> Usage:
        return await self.ledger.usage(task_id)

    async def _warn(self, task_id: str, agent: str, warning: BudgetWarning) -> None:
        key = f"budget:{uuid.uuid4()}"
        await patiently(lambda: self.log.append_event(task_id, key, "budget_warning", agent, asdict(warning)))
