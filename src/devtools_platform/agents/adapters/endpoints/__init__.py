"""Which model endpoint serves a stack, whether it will, how it is called, how it fails and what it costs.

For any OpenAI-compatible endpoint. Starting the embedded runtime and speaking for the scripted model are
other adapters; this one only decides for them.
"""

from devtools_platform.agents.adapters.endpoints.choice import choose_endpoint
from devtools_platform.agents.adapters.endpoints.client import build_model
from devtools_platform.agents.adapters.endpoints.endpoint import Endpoint
from devtools_platform.agents.adapters.endpoints.failures import explain, is_retryable
from devtools_platform.agents.adapters.endpoints.prices import cost_usd, is_digitalocean, price_source
from devtools_platform.agents.adapters.endpoints.probe import check_endpoint

__all__ = [
    "Endpoint",
    "build_model",
    "check_endpoint",
    "choose_endpoint",
    "cost_usd",
    "explain",
    "is_digitalocean",
    "is_retryable",
    "price_source",
]
