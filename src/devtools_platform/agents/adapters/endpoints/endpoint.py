"""What an endpoint is: who serves the model, where, with which key, and how strong the model is."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from ipaddress import ip_address
from typing import Literal
from urllib.parse import urlsplit

from pydantic import SecretStr

ProviderName = Literal["openai-compatible", "gradient", "gradient-agent", "ollama", "embedded", "scripted"]
Tier = Literal["standard", "small"]


@dataclass(frozen=True)
class Endpoint:
    """One model at one address. `base_url` is None while nothing listens yet: embedded and scripted."""

    provider: ProviderName
    base_url: str | None
    """Without a slash at its end; ends in `/v1` for most servers."""
    api_key: SecretStr | None
    model: str
    tier: Tier
    query: Mapping[str, str] = field(default_factory=dict[str, str])
    """Sent with every call: a managed agent of DigitalOcean wants `agent=true`."""

    @property
    def key_setting(self) -> str:
        """The setting this endpoint's key comes from, for messages."""
        if self.provider == "gradient-agent":
            return "the managed agent's access key (`dev-tools agents rotate-keys`)"
        return "GRADIENT_MODEL_ACCESS_KEY" if self.provider == "gradient" else "DEV_TOOLS_MODEL_API_KEY"


def is_loopback(url: str) -> bool:
    """Whether `url` stays on this machine. A name other than `localhost` could be anywhere."""
    host = urlsplit(url).hostname or ""
    try:
        return host == "localhost" or ip_address(host).is_loopback
    except ValueError:
        return False
