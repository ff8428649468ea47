"""What models cost by the tables this stack goes by: the team's own file, ours for DigitalOcean, and what is in use."""

from collections.abc import Mapping

from devtools_platform.agents.adapters.endpoints.prices import DIGITALOCEAN_SOURCE, DIGITALOCEAN_USD
from devtools_platform.agents.carriers import Carriers, RunsOn
from devtools_platform.app.provider_costs import Catalogue, SqlProviderCosts
from devtools_platform.config import Settings
from devtools_platform.console.types import PriceLine, Prices
from devtools_platform.core.agents import AgentName
from devtools_platform.core.errors import Unavailable
from devtools_platform.observability.prices import Price, PriceFile, load_prices


async def list_prices(settings: Settings, carriers: Carriers, costs: SqlProviderCosts) -> Prices:
    """Models in use first, then the tables; of `genai-prices`, which is long, only what it says of models in use."""
    file, catalogue = load_prices(settings.prices), Catalogue(costs)
    await catalogue.refresh()
    carried, missing = await _list_carried(carriers)
    used = {
        (one.provider, one.model): PriceLine(
            one.provider, one.model, one.input_usd, one.output_usd, one.price_source, is_used=True
        )
        for runs_on in carried.values()
        for one in runs_on.chain
        if one.provider is not None and one.model is not None
    }
    ours = [
        PriceLine("digitalocean", model, float(price[0]), float(price[1]), DIGITALOCEAN_SOURCE, is_used=False)
        for model, price in DIGITALOCEAN_USD.items()
    ]
    named = [_line(price, f"DigitalOcean's catalogue, since {price.since}") for price in _newest_first(catalogue.file)]
    own = [_line(price, price.describe()) for price in _newest_first(file)]
    return Prices([*used.values(), *own, *named, *ours], missing)


async def _list_carried(carriers: Carriers) -> tuple[Mapping[AgentName, RunsOn], str]:
    """What carries each agent; nothing, and why, while the agents, which know, are away."""
    try:
        return await carriers.list_runs_on(), ""
    except Unavailable as error:
        return {}, str(error)


def _newest_first(file: PriceFile) -> list[Price]:
    return sorted(file.prices, key=lambda price: (price.model, price.since), reverse=True)


def _line(price: Price, source: str) -> PriceLine:
    usd = (float(price.input_usd), float(price.output_usd))
    return PriceLine(price.provider, price.model, *usd, source, is_used=False)
