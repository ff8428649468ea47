"""DigitalOcean's API as far as we use it: about forty operations, asynchronous, typed, bounded in time and size.

Not a general client: `pydo` is that (docs/decisions/0051-digitalocean-client.md says why it is not this one).
"""

from devtools_platform.kit.digitalocean.client import DigitalOcean
from devtools_platform.kit.digitalocean.errors import (
    DigitalOceanFailed,
    DigitalOceanRefused,
    NotThere,
    NotUnique,
    RateLimited,
    TokenRefused,
)
from devtools_platform.kit.digitalocean.transport import API_URL, INFERENCE_URL

__all__ = [
    "API_URL",
    "INFERENCE_URL",
    "DigitalOcean",
    "DigitalOceanFailed",
    "DigitalOceanRefused",
    "NotThere",
    "NotUnique",
    "RateLimited",
    "TokenRefused",
]
