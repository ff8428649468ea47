"""What an endpoint is: who serves the model, where, with which key, and how strong the model is."""

from dataclasses import dataclass
from ipaddress import ip_address
from typing import Literal
from urllib.parse import urlsplit

from pydantic import SecretStr

ProviderName = Literal["openai-compatible", "gradient", "ollama", "embedded", "scripted"]
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

    @property
    def key_setting(self) -> str:
        """The setting this endpoint's key comes from, for messages."""
        return "GRADIENT_MODEL_ACCESS_KEY" if self.provider == "gradient" else "DEV_TOOLS_MODEL_API_KEY"


def is_loopback(url: str) -> bool:
    """Whether `url` stays on this machine. A name other than `localhost` could be anywhere."""
    host = urlsplit(url).hostname or ""
    try:
        return host == "localhost" or ip_address(host).is_loopback
    except ValueError:
        return False
