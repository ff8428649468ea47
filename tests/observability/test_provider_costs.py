"""What DigitalOcean says was used, beside our ledger, and the prices its catalogue names; its API is the fake's."""

from collections.abc import AsyncIterator, Iterator
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
import yaml
from pydantic import SecretStr

from devtools_platform.agents.adapters.endpoints import Endpoint
from devtools_platform.app.home import Home
from devtools_platform.app.ledger import Pricing
from devtools_platform.app.managed import Managed, ManagedRecord, digitalocean
from devtools_platform.app.models import ServedModel
from devtools_platform.app.provider_costs import Catalogue, DigitalOceanCosts, Reconciliation, stored_costs
from devtools_platform.config import Settings
from devtools_platform.core.errors import BadInput, DevToolsError
from devtools_platform.core.tasks import ModelInfo
from devtools_platform.kit.digitalocean import DigitalOcean
from devtools_platform.kit.digitalocean.agents import AgentSpec
from devtools_platform.kit.schema import catalogue_prices, model_calls, provider_usage
from devtools_platform.observability.interfaces import CataloguePrice
from devtools_platform.observability.prices import PriceFile
from fakes.digitalocean_resources import PROJECT
from fakes.digitalocean_server import FakeDigitalOcean, Fault

NOW = datetime.now(UTC)
TODAY = NOW.date()
TOMORROW = TODAY + timedelta(days=1)
MODEL = "openai-gpt-oss-20b"


@pytest.fixture(scope="module")
def fake() -> Iterator[FakeDigitalOcean]:
    with FakeDigitalOcean() as server:
        yield server
    server.check()


@pytest.fixture
def settings(tmp_path: Path, fake: FakeDigitalOcean) -> Settings:
    fake.forget_faults()
    agents = {"cicd": {"runtime": "gradient", "model": MODEL, "agent": "ours"}}
    file = tmp_path / "environments.yaml"
    file.write_text(yaml.safe_dump({"environments": {"development": {"agents": agents}}}))
    return Settings(
        data_dir=tmp_path / "data", environments_file=file, digitalocean_url=fake.url,
        digitalocean_access_token=SecretStr(fake.token),
    )  # fmt: skip


@pytest.fixture
async def reconciliation(settings: Settings, database: sa.Engine, fake: FakeDigitalOcean) -> AsyncIterator[Any]:
    """With one managed agent, `cicd`, that has used 900 and 100 tokens."""
    with database.begin() as connection:
        for table in (model_calls, provider_usage, catalogue_prices):
            connection.execute(sa.delete(table))
    home = Home(settings.data_dir)
    home.prepare()
    async with digitalocean(settings) as do:
        agent = await _make_agent(do)
    fake.resources.find(agent).prompt_tokens, fake.resources.find(agent).completion_tokens = 900, 100
    ManagedRecord.load(home).keep("development", "ours", Managed(agent))
    yield Reconciliation(DigitalOceanCosts(settings, home), stored_costs(database), is_set_up=True)
    async with digitalocean(settings) as do:
        await do.agents.delete(agent)


async def _make_agent(do: DigitalOcean) -> str:
    model = await do.models.find(MODEL)
    spec = AgentSpec("ours", "You work.", str(model.uuid))
    return (await do.agents.create(spec, project_id=PROJECT, region="tor1")).uuid


def record(database: sa.Engine, tokens: int, *, provider: str = "gradient-agent", cost: str | None = None) -> None:
    row = {
        "task_id": "t", "agent": "cicd", "provider": provider, "model": MODEL, "input_tokens": tokens,
        "output_tokens": 0, "cost_usd": None if cost is None else Decimal(cost), "duration_s": 1.0,
        "at": datetime.now(UTC),
    }  # fmt: skip
    with database.begin() as connection:
        connection.execute(sa.insert(model_calls).values(row))


async def test_the_providers_count_is_kept_beside_the_ledgers(
    reconciliation: Reconciliation, database: sa.Engine
) -> None:
    record(database, 1000)
    record(database, 77, provider="openai-compatible", cost="1")
    await reconciliation.reconcile(TODAY)
    account, agent = await reconciliation.store.read_reconciled(TODAY, TOMORROW)

    assert (agent.subject, agent.said_tokens, agent.recorded_tokens, agent.missing_tokens) == ("cicd", 1000, 1000, 0)
    assert not agent.is_off
    assert (account.subject, account.said_usd) == ("account", Decimal("11.21"))
    assert account.recorded_usd is None, "what a managed agent's call costs, nobody said"
    assert account.missing_usd is None


async def test_what_the_ledger_lacks_is_shown_as_missing(reconciliation: Reconciliation, database: sa.Engine) -> None:
    record(database, 980)
    await reconciliation.reconcile(TODAY)
    (_, agent) = await reconciliation.store.read_reconciled(TODAY, TOMORROW)
    assert (agent.missing_tokens, agent.is_off) == (20, True)
    record(database, 15)
    (_, agent) = await reconciliation.store.read_reconciled(TODAY, TOMORROW)
    assert (agent.missing_tokens, agent.is_off) == (5, False)


async def test_the_account_is_held_against_priced_calls_of_this_provider(
    reconciliation: Reconciliation, database: sa.Engine
) -> None:
    record(database, 10, provider="gradient", cost="1.21")
    record(database, 10, provider="ollama", cost="5")
    await reconciliation.reconcile(TODAY)
    (account, _) = await reconciliation.store.read_reconciled(TODAY, TOMORROW)
    assert (account.recorded_usd, account.missing_usd) == (Decimal("1.21"), Decimal(10))


async def test_asking_again_replaces_the_answer(reconciliation: Reconciliation, fake: FakeDigitalOcean) -> None:
    await reconciliation.reconcile(TODAY)
    for agent in fake.resources.agents.values():
        agent.prompt_tokens += 50
    await reconciliation.reconcile(TODAY)
    lines = await reconciliation.store.read_reconciled(TODAY, TOMORROW)
    assert [(line.subject, line.said_tokens) for line in lines] == [("account", None), ("cicd", 1050)]


async def test_a_night_is_done_once_and_after_a_failure_again(
    reconciliation: Reconciliation, fake: FakeDigitalOcean
) -> None:
    night = datetime(TODAY.year, TODAY.month, TODAY.day, 2, tzinfo=UTC)

    def asked() -> int:
        return len(fake.sent("GET", "/v2/customers"))

    before = asked()
    await reconciliation.keep_up(night - timedelta(hours=2))
    assert asked() == before, "a provider counts late: not in the first hour"
    fake.inject(Fault("status", "/v2/customers", status=403))
    with pytest.raises(DevToolsError):
        await reconciliation.keep_up(night)
    assert await reconciliation.store.last_read(TODAY - timedelta(days=1)) is None
    await reconciliation.keep_up(night)
    assert asked() == before + 2
    await reconciliation.keep_up(night + timedelta(minutes=10))
    assert asked() == before + 2
    yesterday = await reconciliation.store.read_reconciled(TODAY - timedelta(days=1), TODAY)
    assert [line.subject for line in yesterday] == ["cicd"], "of a day that is over, the account says nothing"


async def test_without_a_token_the_error_says_which(settings: Settings, database: sa.Engine) -> None:
    poor = settings.model_copy(update={"digitalocean_access_token": None})
    asking = Reconciliation(DigitalOceanCosts(poor, Home(poor.data_dir)), stored_costs(database), is_set_up=False)
    with pytest.raises(BadInput) as told:
        await asking.refresh_prices()
    assert "DIGITALOCEAN_ACCESS_TOKEN" in told.value.hint
    await asking.run()


def pricing(database: sa.Engine, model: str = MODEL, file: PriceFile | None = None) -> Pricing:
    endpoint = Endpoint("gradient", "https://inference.do-ai.run/v1", None, model, "standard")
    served = ServedModel(endpoint, ModelInfo(name=model, provider="gradient", tier="standard"))
    return Pricing(served, file or PriceFile(), Catalogue(stored_costs(database)))


async def test_a_refreshed_price_prices_calls_and_a_persons_own_goes_before_it(
    reconciliation: Reconciliation, database: sa.Engine
) -> None:
    assert pricing(database).price(10**6, 0, 0) == (Decimal("0.05"), "DigitalOcean, read 2026-07")
    assert MODEL in {price.model for price in await reconciliation.refresh_prices()}
    assert await reconciliation.refresh_prices() == [], "the same again is nothing new"
    asked = pricing(database)
    await asked.refresh()
    assert asked.price(10**6, 0, 0) == (Decimal("0.1"), f"DigitalOcean's catalogue, since {TODAY}")
    own = PriceFile.model_validate({"prices": [{"model": "*", "input_usd": 3, "output_usd": 4, "source": "mine"}]})
    asked = pricing(database, file=own)
    await asked.refresh()
    assert asked.price(10**6, 0, 0) == (Decimal(3), "your price file: mine")


async def test_a_price_holds_from_its_day_on_and_an_unknown_model_has_none(
    reconciliation: Reconciliation, database: sa.Engine
) -> None:
    store = reconciliation.store
    await store.store_prices([CataloguePrice(MODEL, Decimal(1), Decimal(2))], TODAY - timedelta(days=9))
    await store.store_prices([CataloguePrice(MODEL, Decimal(5), Decimal(6))], TODAY)
    assert [price.input_usd for price in await store.list_prices()] == [Decimal(1), Decimal(5)]
    now = pricing(database)
    before = Pricing(now.served, now.file, now.catalogue, today=lambda: NOW - timedelta(days=3))
    await now.refresh()
    assert (now.price(10**6, 0, 0)[0], before.price(10**6, 0, 0)[0]) == (Decimal(5), Decimal(1))
    unknown = pricing(database, "a-model-of-tomorrow")
    await unknown.refresh()
    assert unknown.price(10**6, 0, 0)[0] is None
