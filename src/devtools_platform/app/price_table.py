"""What models cost by the tables this stack goes by: the team's own file, ours for DigitalOcean, and what is in use."""

from collections.abc import Sequence
from decimal import Decimal

from devtools_platform.agents.adapters.endpoints.prices import DIGITALOCEAN_SOURCE, DIGITALOCEAN_USD
from devtools_platform.app.ledger import Pricing
from devtools_platform.app.runtimes import Runtimes
from devtools_platform.config import Settings
from devtools_platform.console.types import PriceLine
from devtools_platform.observability.prices import PriceFile, load_prices

MILLION = 1_000_000


def list_prices(settings: Settings, runtimes: Runtimes) -> Sequence[PriceLine]:
    """Models in use first, then the tables; of `genai-prices`, which is long, only what it says of models in use."""
    file = load_prices(settings.prices)
    used = {
        pricing.name: _used(pricing)
        for chain in runtimes.chains.values()
        for runtime in chain
        if (pricing := Pricing(runtime.served, file)).name != ("", "")
    }
    ours = [
        PriceLine("digitalocean", model, float(price[0]), float(price[1]), DIGITALOCEAN_SOURCE, is_used=False)
        for model, price in DIGITALOCEAN_USD.items()
    ]
    return [*used.values(), *_own(file), *ours]


def _used(pricing: Pricing) -> PriceLine:
    provider, model = pricing.name
    input_usd, source = pricing.price(MILLION, 0, 0)
    output_usd, _ = pricing.price(0, MILLION, 0)
    return PriceLine(provider, model, _float(input_usd), _float(output_usd), source or "", is_used=True)


def _own(file: PriceFile) -> list[PriceLine]:
    return [
        PriceLine(
            price.provider,
            price.model,
            float(price.input_usd),
            float(price.output_usd),
            price.describe(),
            is_used=False,
        )
        for price in sorted(file.prices, key=lambda price: (price.model, price.since), reverse=True)
    ]


def _float(usd: Decimal | None) -> float | None:
    return None if usd is None else float(usd)
