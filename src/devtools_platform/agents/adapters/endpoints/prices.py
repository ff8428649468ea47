"""What a model call costs, from dated price tables. A price that is not known is None, never a guess.

The `genai-prices` package knows most providers, told apart by their address; a model's name alone proves
nothing, since everybody serves the same open models at different prices. It does not know DigitalOcean, so
that table is here: US dollars per million tokens (input, output), from models.dev's `digitalocean` provider
as read in July 2026.
"""

from collections.abc import Mapping
from decimal import Decimal
from importlib.metadata import version
from urllib.parse import urlsplit

from devtools_platform.agents.adapters.endpoints.endpoint import Endpoint

DIGITALOCEAN_HOST = "inference.do-ai.run"
DIGITALOCEAN_SOURCE = "DigitalOcean, read 2026-07"
DIGITALOCEAN_USD: Mapping[str, tuple[Decimal, Decimal]] = {
    "llama3.3-70b-instruct": (Decimal("0.65"), Decimal("0.65")),
    "llama3-8b-instruct": (Decimal("0.198"), Decimal("0.198")),
    "llama-4-maverick": (Decimal("0.25"), Decimal("0.87")),
    "mistral-3-14B": (Decimal("0.20"), Decimal("0.20")),
    "deepseek-v4-pro": (Decimal("1.74"), Decimal("3.48")),
    "qwen3-coder-flash": (Decimal("0.45"), Decimal("1.70")),
    "openai-gpt-oss-120b": (Decimal("0.10"), Decimal("0.70")),
    "openai-gpt-oss-20b": (Decimal("0.05"), Decimal("0.45")),
    "openai-gpt-5-mini": (Decimal("0.25"), Decimal(2)),
    "openai-gpt-5.3-codex": (Decimal("1.75"), Decimal(14)),
    "openai-gpt-5.5": (Decimal(5), Decimal(30)),
    "anthropic-claude-4.5-sonnet": (Decimal(3), Decimal(15)),
    "anthropic-claude-opus-4.8": (Decimal(5), Decimal(25)),
}
_MILLION = Decimal(1_000_000)


def is_digitalocean(endpoint: Endpoint) -> bool:
    """Whether DigitalOcean's serverless inference serves it, whose prices its catalogue names."""
    return endpoint.provider == "gradient" or urlsplit(endpoint.base_url or "").hostname == DIGITALOCEAN_HOST


def price_source(endpoint: Endpoint) -> str:
    """Which table `cost_usd` prices this endpoint by, with its date or version."""
    if endpoint.provider in {"embedded", "scripted", "ollama"}:
        return "nobody charges"
    if is_digitalocean(endpoint):
        return DIGITALOCEAN_SOURCE
    return f"genai-prices {version('genai-prices')}"


def cost_usd(endpoint: Endpoint, input_tokens: int, output_tokens: int, cached_tokens: int = 0) -> Decimal | None:
    """US dollars for these tokens, `cached_tokens` of the input read from a cache.

    0 where nobody charges, None where the price is not known.
    """
    if endpoint.provider in {"embedded", "scripted"}:
        return Decimal(0)
    if endpoint.provider == "ollama":
        # Ollama passes models with this mark on to its paid service, which names no price per token.
        return None if "cloud" in endpoint.model else Decimal(0)
    if is_digitalocean(endpoint):
        return _digitalocean_usd(endpoint.model, input_tokens, output_tokens)
    return _published_usd(endpoint, input_tokens, output_tokens, cached_tokens)


def _digitalocean_usd(model: str, input_tokens: int, output_tokens: int) -> Decimal | None:
    price = DIGITALOCEAN_USD.get(model)
    return (price[0] * input_tokens + price[1] * output_tokens) / _MILLION if price else None


def _published_usd(endpoint: Endpoint, input_tokens: int, output_tokens: int, cached_tokens: int) -> Decimal | None:
    import genai_prices  # a large table, needed by paying stacks only

    usage = genai_prices.Usage(
        input_tokens=input_tokens, output_tokens=output_tokens, cache_read_tokens=cached_tokens or None
    )
    try:
        return genai_prices.calc_price(usage, endpoint.model, provider_api_url=endpoint.base_url or "").total_price
    except LookupError:
        return None
