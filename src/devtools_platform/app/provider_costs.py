"""What DigitalOcean itself says was used and what it asks, for the ledger to be held against and priced by."""

import asyncio
import logging
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta
from datetime import time as day_time
from decimal import Decimal

import sqlalchemy as sa

from devtools_platform.agents.definitions import load_definitions
from devtools_platform.app.home import Home
from devtools_platform.app.managed import ManagedRecord, digitalocean, managed_name
from devtools_platform.config import Settings
from devtools_platform.config.environments import load_environments
from devtools_platform.core.errors import DevToolsError
from devtools_platform.kit.digitalocean.types import ResourceUsage
from devtools_platform.observability.adapters.sql.provider_costs import SqlProviderCosts
from devtools_platform.observability.interfaces import ACCOUNT, CataloguePrice, ProviderCosts, ProviderUsage
from devtools_platform.observability.prices import PriceFile

log = logging.getLogger(__name__)

PROVIDER = "digitalocean"
LEDGER_NAMES = ("gradient", "gradient-agent")
LOOK_AGAIN_S = 60.0
EVERY_S = 600.0
SETTLED_AFTER = timedelta(hours=1)
"""How long after a day's end its usage is asked for: a provider counts late."""


def stored_costs(store: sa.Engine) -> SqlProviderCosts:
    return SqlProviderCosts(store, PROVIDER, LEDGER_NAMES)


@dataclass(frozen=True)
class DigitalOceanCosts:
    """The account of this stack's token. Only the managed agents of this environment are asked about."""

    settings: Settings
    home: Home
    provider: str = PROVIDER
    ledger_names: Sequence[str] = LEDGER_NAMES

    async def read_usage(self, day: date) -> list[ProviderUsage]:
        """Tokens of each managed agent. What the account owes is said for today only: of no other day is it told."""
        begin = datetime.combine(day, day_time(), UTC)
        async with digitalocean(self.settings) as do:
            used = [
                _of_agent(day, agent, await do.agents.usage(uuid, begin, begin + timedelta(days=1)))
                for agent, uuid in self._managed().items()
            ]
            if day == datetime.now(UTC).date():
                used.append(ProviderUsage(day, ACCOUNT, month_usd=(await do.balance()).month_to_date_usage))
        return used

    async def read_prices(self) -> list[CataloguePrice]:
        async with digitalocean(self.settings) as do:
            listed = await do.models.catalogue()
        prices = {one.model_id: one.pricing for one in listed if one.model_id and one.pricing is not None}
        return [
            CataloguePrice(model, price.input_price_per_million, price.output_price_per_million)
            for model, price in prices.items()
            if price.input_price_per_million is not None and price.output_price_per_million is not None
        ]

    def _managed(self) -> dict[str, str]:
        """Agent -> id at DigitalOcean, of those that were synced."""
        environment = load_environments(self.settings.environments_file).of(self.settings.environment)
        record = ManagedRecord.load(self.home)
        found: dict[str, str] = {}
        for agent in load_definitions(self.settings.agent_definitions):
            for spec in environment.of(agent).chain():
                known = record.find(self.settings.environment, managed_name(self.settings.environment, agent, spec))
                if spec.runtime == "gradient" and known is not None:
                    found.setdefault(agent, known.uuid)
        return found


def _of_agent(day: date, agent: str, usage: ResourceUsage) -> ProviderUsage:
    def tokens(direction: str) -> int | None:
        kinds = [one for one in usage.measurements if f"_{direction}_" in f"{one.usage_type}_"]
        counts = [one.tokens for one in kinds if one.tokens is not None]
        return sum(counts) if counts else None

    return ProviderUsage(day, agent, tokens("INPUT"), tokens("OUTPUT"))


@dataclass
class Catalogue:
    """The prices the catalogue named, as this process last read them from the store: workers do not refresh them."""

    costs: SqlProviderCosts
    file: PriceFile = field(default_factory=PriceFile)
    _read_at: float | None = None

    async def refresh(self) -> None:
        if self._read_at is None or time.monotonic() - self._read_at > LOOK_AGAIN_S:
            self.file = PriceFile(prices=tuple(await self.costs.list_prices()))
            self._read_at = time.monotonic()

    def price(self, model: str, day: date, tokens: tuple[int, int, int]) -> tuple[Decimal, str] | None:
        """For input, output and cached tokens. None where the catalogue was not read or does not name the model."""
        found = self.file.find(PROVIDER, model, day)
        return None if found is None else (found.cost(*tokens), f"DigitalOcean's catalogue, since {found.since}")


@dataclass
class Reconciliation:
    """Asks the provider once a night, and whenever a person wants it."""

    source: ProviderCosts
    store: SqlProviderCosts
    is_set_up: bool
    """Whether there is an account to ask."""
    _done: date | None = None

    async def reconcile(self, day: date) -> None:
        """Ask about one day and keep the answer. Raises `Unavailable`, or `BadInput` without an account."""
        await self.store.store_usage(await self.source.read_usage(day), datetime.now(UTC))

    async def refresh_prices(self) -> list[CataloguePrice]:
        """Read the catalogue; returns the prices that are new. Those we have stay, each for its days."""
        return await self.store.store_prices(await self.source.read_prices(), datetime.now(UTC).date())

    async def run(self) -> None:
        """Until cancelled; at once over where there is no account."""
        while self.is_set_up:
            try:
                await self.keep_up(datetime.now(UTC))
            except DevToolsError as error:
                log.warning("the provider's own count was not read: %s", error)
            except Exception:  # a night's mistake must not end all nights
                log.exception("reading the provider's own count broke; it is tried again")
            await asyncio.sleep(EVERY_S)

    async def keep_up(self, now: datetime) -> None:
        """The night's work, where it is not done yet: yesterday's usage, this day's account and prices."""
        yesterday = now.date() - timedelta(days=1)
        due = datetime.combine(now.date(), day_time(), UTC) + SETTLED_AFTER
        if now < due or self._done == now.date():
            return
        asked = await self.store.last_read(yesterday)
        if asked is None or asked < due:
            await self.refresh_prices()
            await self.reconcile(now.date())
            await self.reconcile(yesterday)  # the last: by it the next process knows that all was done
        self._done = now.date()
