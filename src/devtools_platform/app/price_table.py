"""What models cost by the tables this stack goes by: the team's own file, ours for DigitalOcean, and what is in use."""

from collections.abc import Sequence
from decimal import Decimal

from devtools_platform.agents.adapters.endpoints.prices import DIGITALOCEAN_SOURCE, DIGITALOCEAN_USD
from devtools_platform.app.ledger import Pricing
from devtools_platform.app.provider_costs import Catalogue, SqlProviderCosts
from devtools_platform.app.runtimes import Runtimes
from devtools_platform.config import Settings
from devtools_platform.console.types import PriceLine
from devtools_platform.observability.prices import Price, PriceFile, load_prices

MILLION = 1_000_000


async def list_prices(settings: Settings, runtimes: Runtimes, costs: SqlProviderCosts) -> Sequence[PriceLine]:
    """Models in use first, then the tables; of `genai-prices`, which is long, only what it says of models in use."""
    file, catalogue = load_prices(settings.prices), Catalogue(costs)
    await catalogue.refresh()
    used = {
        pricing.name: _used(pricing)
        for chain in runtimes.chains.values()
        for runtime in chain
        if (pricing := Pricing(runtime.served, file, catalogue)).name != ("", "")
    }
    ours = [
        PriceLine("digitalocean", model, float(price[0]), float(price[1]), DIGITALOCEAN_SOURCE, is_used=False)
        for model, price in DIGITALOCEAN_USD.items()
    ]
    named = [_line(price, f"DigitalOcean's catalogue, since {price.since}") for price in _newest_first(catalogue.file)]
    own = [_line(price, price.describe()) for price in _newest_first(file)]
    return [*used.values(), *own, *named, *ours]


def _used(pricing: Pricing) -> PriceLine:
    provider, model = pricing.name
    input_usd, source = pricing.price(MILLION, 0, 0)
    output_usd, _ = pricing.price(0, MILLION, 0)
    return PriceLine(provider, model, _float(input_usd), _float(output_usd), source or "", is_used=True)


def _newest_first(file: PriceFile) -> list[Price]:
    return sorted(file.prices, key=lambda price: (price.model, price.since), reverse=True)


def _line(price: Price, source: str) -> PriceLine:
    usd = (float(price.input_usd), float(price.output_usd))
    return PriceLine(price.provider, price.model, *usd, source, is_used=False)


def _float(usd: Decimal | None) -> float | None:
    return None if usd is None else float(usd)
