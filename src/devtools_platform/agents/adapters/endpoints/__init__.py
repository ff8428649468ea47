"""Which model endpoint serves a stack, whether it will, how it is called, how it fails and what it costs.

For any OpenAI-compatible endpoint. Starting the embedded runtime and speaking for the scripted model are
other adapters; this one only decides for them. `client` and `failures` bring the models' client with them, seconds and
memory that prices and choices do without: import them by name.
"""

from devtools_platform.agents.adapters.endpoints.choice import NO_MODEL_HINT, choose_endpoint
from devtools_platform.agents.adapters.endpoints.endpoint import Endpoint
from devtools_platform.agents.adapters.endpoints.prices import cost_usd, is_digitalocean, price_source
from devtools_platform.agents.adapters.endpoints.probe import check_endpoint

__all__ = [
    "NO_MODEL_HINT",
    "Endpoint",
    "check_endpoint",
    "choose_endpoint",
    "cost_usd",
    "is_digitalocean",
    "price_source",
]
