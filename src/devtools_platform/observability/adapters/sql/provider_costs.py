"""What providers said was used, and the prices they named, in the state database."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta
from decimal import Decimal
from typing import Any

import sqlalchemy as sa

from devtools_platform.kit.database import in_thread, insert_each_once, read_in_thread
from devtools_platform.kit.schema import catalogue_prices, model_calls, provider_usage
from devtools_platform.observability.interfaces import ACCOUNT, CataloguePrice, ProviderUsage
from devtools_platform.observability.prices import Price
from devtools_platform.observability.reconciliation import Reconciled


@dataclass(frozen=True)
class SqlProviderCosts:
    """`ledger_names`: what the ledger calls the provider."""

    database: sa.Engine
    provider: str
    ledger_names: Sequence[str]

    async def store_usage(self, usage: Sequence[ProviderUsage], at: datetime) -> None:
        """What was said of a day before is replaced: the newest word counts."""
        rows = [{**vars(one), "provider": self.provider, "read_at": at} for one in usage]
        await in_thread(self.database, lambda c: _replace(c, rows))

    async def last_read(self, day: date) -> datetime | None:
        """When the provider was last asked about that day."""
        table = provider_usage
        query = sa.select(sa.func.max(table.c.read_at)).where(table.c.provider == self.provider, table.c.day == day)
        return await read_in_thread(self.database, lambda c: c.execute(query).scalar())

    async def read_reconciled(self, since: date, until: date) -> list[Reconciled]:
        """Days from `since` to before `until`, beside what the ledger has now; the newest day first."""
        return await read_in_thread(self.database, lambda c: self._reconcile(c, since, until))

    async def store_prices(self, prices: Sequence[CataloguePrice], day: date) -> list[CataloguePrice]:
        """Keeps each price that is not the one we have. Returns those that are new."""
        return await in_thread(self.database, lambda c: self._store_prices(c, prices, day))

    async def list_prices(self) -> list[Price]:
        """All that were ever named, each from its day on."""
        table = catalogue_prices
        query = sa.select(table).where(table.c.provider == self.provider).order_by(table.c.model, table.c.since)
        rows = await read_in_thread(self.database, lambda c: c.execute(query).all())
        return [
            Price(
                provider=self.provider, model=row.model, input_usd=row.input_usd, output_usd=row.output_usd,
                since=row.since, source="its catalogue",
            )
            for row in rows
        ]  # fmt: skip

    def _reconcile(self, connection: sa.Connection, since: date, until: date) -> list[Reconciled]:
        table = provider_usage
        query = (
            sa.select(table)
            .where(table.c.provider == self.provider, table.c.day >= since, table.c.day < until)
            .order_by(table.c.day.desc(), table.c.subject)
        )
        return [self._beside(connection, row) for row in connection.execute(query).all()]

    def _beside(self, connection: sa.Connection, row: sa.Row[Any]) -> Reconciled:
        found = ProviderUsage(row.day, row.subject, row.input_tokens, row.output_tokens, row.month_usd)
        if found.subject == ACCOUNT:
            cost = _sum_cost(connection, self.ledger_names, _midnight(found.day.replace(day=1)), row.read_at)
            return Reconciled(self.provider, found.day, ACCOUNT, row.read_at, None, None, found.month_usd, cost)
        said = [tokens for tokens in (found.input_tokens, found.output_tokens) if tokens is not None]
        return Reconciled(
            self.provider, found.day, found.subject, row.read_at, sum(said) if said else None,
            _sum_tokens(connection, self.ledger_names, found.subject, found.day),
        )  # fmt: skip

    def _store_prices(
        self, connection: sa.Connection, prices: Sequence[CataloguePrice], day: date
    ) -> list[CataloguePrice]:
        table = catalogue_prices
        query = sa.select(table).where(table.c.provider == self.provider).order_by(table.c.since)
        stored = connection.execute(query).all()
        known = {row.model: CataloguePrice(row.model, row.input_usd, row.output_usd) for row in stored}
        new = [price for price in prices if known.get(price.model) != price]
        is_todays = sa.and_(table.c.provider == self.provider, table.c.since == day)
        connection.execute(sa.delete(table).where(is_todays, table.c.model.in_([price.model for price in new])))
        rows = [{**vars(price), "provider": self.provider, "since": day} for price in new]
        insert_each_once(connection, table, rows, on=["provider", "model", "since"])
        return new


def _replace(connection: sa.Connection, rows: Sequence[Mapping[str, Any]]) -> None:
    table = provider_usage
    keys = ("provider", "day", "subject")
    for row in rows:
        connection.execute(sa.delete(table).where(*(table.c[key] == row[key] for key in keys)))
    insert_each_once(connection, table, rows, on=keys)


def _sum_tokens(connection: sa.Connection, providers: Sequence[str], agent: str, day: date) -> int:
    table = model_calls
    total = sa.func.coalesce(sa.func.sum(sa.func.coalesce(table.c.input_tokens, 0)), 0) + sa.func.coalesce(
        sa.func.sum(sa.func.coalesce(table.c.output_tokens, 0)), 0
    )
    of_day = sa.and_(table.c.at >= _midnight(day), table.c.at < _midnight(day + timedelta(days=1)))
    of_agent = sa.and_(table.c.provider.in_(providers), table.c.agent == agent)
    return int(connection.execute(sa.select(total).where(of_day, of_agent)).scalar_one())


def _sum_cost(connection: sa.Connection, providers: Sequence[str], since: datetime, until: datetime) -> Decimal | None:
    """None as soon as one answered call has no price."""
    table = model_calls
    is_unpriced = sa.and_(table.c.error.is_(None), table.c.cost_usd.is_(None))
    row = connection.execute(
        sa.select(sa.func.sum(table.c.cost_usd), sa.func.count().filter(is_unpriced)).where(
            table.c.provider.in_(providers), table.c.at >= since, table.c.at < until
        )
    ).one()
    return None if row[1] else Decimal(row[0] or 0)


def _midnight(day: date) -> datetime:
    return datetime.combine(day, time(), UTC)
