"""What a stack does about its own traces and costs while it runs: feeds sinks, settles calls that died, sets gauges."""

import asyncio
import contextlib
import time
from collections.abc import Sequence
from dataclasses import asdict, replace
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from typing import Any

import sqlalchemy as sa

from devtools_platform.app.home import Home
from devtools_platform.app.ledger import build_budgets
from devtools_platform.app.provider_costs import DigitalOceanCosts, Reconciliation, stored_costs
from devtools_platform.app.sinks import build_sinks
from devtools_platform.config import Settings
from devtools_platform.core.errors import BadInput
from devtools_platform.kit.recurring import keep_doing
from devtools_platform.kit.telemetry import trace_id_for
from devtools_platform.observability.adapters.otlp.langfuse import LangfuseReader
from devtools_platform.observability.adapters.sql import Records, SqlLedger, SqlSpanStore
from devtools_platform.observability.adapters.sql.gauges import refresh_gauges
from devtools_platform.observability.adapters.sql.outbox import SqlOutbox
from devtools_platform.observability.adapters.sql.reports import add_up
from devtools_platform.observability.forwarding import Forwarder
from devtools_platform.observability.interfaces import ACCOUNT
from devtools_platform.observability.prices import Price, load_prices
from devtools_platform.observability.reconciliation import Reconciled, add_fixed
from devtools_platform.observability.reports import By, CostReport, spread_fixed
from devtools_platform.observability.service import Tracing
from devtools_platform.observability.validation import Validation, validate

REFRESH_S = 10.0
NEWEST = 20
LOOK_AGAIN_S = 0.5
SPANS_PATIENCE_S = 3.0
LANGFUSE_PATIENCE_S = 30.0
LAST_WORDS_S = 3.0
"""How long the end of a stack waits for its sinks. What they miss is sent by the next start."""


class Observed:
    """The stack's own loops. Workers have none: the stack sends for all of them."""

    def __init__(self, settings: Settings, home: Home, database: sa.Engine) -> None:
        self._settings = settings
        self._prices = load_prices(settings.prices)
        self._spans = SqlSpanStore(database)
        self._tracing: Tracing | None = None
        self._costs = stored_costs(database)
        has_account = settings.digitalocean_access_token is not None
        self._reconciliation = Reconciliation(DigitalOceanCosts(settings, home), self._costs, is_set_up=has_account)
        self.forwarder = Forwarder(SqlOutbox(database), build_sinks(settings))
        self.ledger = SqlLedger(database, build_budgets(settings))
        self._database = database
        self._budgets = build_budgets(settings)
        # A call may be asked for again within its time limit, so twice that is nobody's any more.
        self._stale_after_s = settings.model_timeout_s * 2 + 60
        self._tasks: list[asyncio.Task[None]] = []

    def start(self, tracing: Tracing) -> None:
        self._tracing = tracing
        self._tasks = [
            asyncio.create_task(keep_doing("reading the gauges", self._refresh, REFRESH_S)),
            asyncio.create_task(self._reconciliation.run()),
        ]
        if self.forwarder.sinks:
            self._tasks.append(asyncio.create_task(self.forwarder.run()))

    async def stop(self) -> None:
        """Called after the last span was stored."""
        for task in self._tasks:
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task
        await self.forwarder.flush(LAST_WORDS_S)

    # -- for people (observability.api.Observatory) ----------------------------------------------------------------

    async def report(self, by: By, since: date, until: date) -> CostReport:
        lines = await add_up(self._database, by, since, until)
        said = await self._read_reconciled(since, until)
        return CostReport(by, since, until, lines, spread_fixed(self._prices.fixed, since, until), said)

    async def reconcile(self, day: date) -> Sequence[Reconciled]:
        await self._reconciliation.reconcile(day)
        return await self._read_reconciled(day, day + timedelta(days=1))

    async def list_prices(self) -> Sequence[dict[str, Any]]:
        """Those that may price a call, the person's own first: they go before the catalogue's."""
        return [_show_price(price) for price in [*self._prices.prices, *await self._costs.list_prices()]]

    async def refresh_prices(self) -> Sequence[dict[str, Any]]:
        new = {price.model for price in await self._reconciliation.refresh_prices()}
        today = datetime.now(UTC).date()
        return [_show_price(one) for one in await self._costs.list_prices() if one.model in new and one.since == today]

    async def _read_reconciled(self, since: date, until: date) -> list[Reconciled]:
        lines = await self._costs.read_reconciled(since, until)
        return [
            line
            if line.subject != ACCOUNT
            else add_fixed(line, self._fixed_usd(line.day.replace(day=1), line.day + timedelta(days=1)))
            for line in lines
        ]

    def _fixed_usd(self, since: date, until: date) -> Decimal:
        return sum((line.usd for line in spread_fixed(self._prices.fixed, since, until)), start=Decimal(0))

    async def list_budgets(self) -> Sequence[dict[str, Any]]:
        return [account.to_dict() for account in await self.ledger.list_accounts()]

    def list_sinks(self) -> Sequence[dict[str, Any]]:
        return [asdict(state) for state in self.forwarder.states.values()]

    async def validate(self, task_id: str | None, *, with_langfuse: bool) -> Validation:
        """Looks again for a while: spans of a task that has just ended are still on their way."""
        reader = self._read_langfuse() if with_langfuse else None
        deadline = time.monotonic() + (LANGFUSE_PATIENCE_S if reader else SPANS_PATIENCE_S)
        while True:
            found = await self._look(task_id, reader)
            may_still_come = found.problems and (found.model_calls or found.tool_calls)
            if not may_still_come or time.monotonic() > deadline:
                return found
            await asyncio.sleep(LOOK_AGAIN_S)

    async def _look(self, task_id: str | None, langfuse: LangfuseReader | None) -> Validation:
        if self._tracing is not None:
            await asyncio.to_thread(self._tracing.flush)
        records = await self._spans.read_records(task_id, NEWEST)
        found = validate(records.tasks, records.model_calls, records.tool_calls, records.spans)
        if langfuse is None:
            return found
        missing = [problem for task in records.tasks for problem in await _missing_at(langfuse, task, records)]
        return replace(found, problems=[*found.problems, *missing])

    def _read_langfuse(self) -> LangfuseReader:
        settings = self._settings
        if not settings.langfuse_public_key or not settings.langfuse_secret_key:
            hint = "Set LANGFUSE_PUBLIC_KEY and LANGFUSE_SECRET_KEY, and start the stack again."
            raise BadInput("No Langfuse is configured for this stack.", hint=hint)
        return LangfuseReader(
            settings.langfuse_base_url, settings.langfuse_public_key, settings.langfuse_secret_key.get_secret_value()
        )

    async def _refresh(self) -> None:
        await self.ledger.settle_interrupted(self._stale_after_s)
        await refresh_gauges(self._database, self._budgets)


def _show_price(price: Price) -> dict[str, Any]:
    shown = {name: float(value) if isinstance(value, Decimal) else value for name, value in price.model_dump().items()}
    return {**shown, "since": None if price.since == date.min else price.since.isoformat()}


async def _missing_at(langfuse: LangfuseReader, task_id: str, records: Records) -> list[str]:
    ours = {span["span_id"] for span in records.spans if span["task_id"] == task_id}
    missing = ours - await langfuse.read_ids(trace_id_for(task_id)) if ours else set[str]()
    return [f"Langfuse lacks {len(missing)} of the {len(ours)} spans of task {task_id}."] if missing else []
