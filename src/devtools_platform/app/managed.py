"""The managed agents of this stack's environments as it knows them: which they are, and the keys to their endpoints.

The record stands in the data directory, readable by its owner only: DigitalOcean shows a key once.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from pydantic import SecretStr

from devtools_platform.app.home import Home
from devtools_platform.config import Settings
from devtools_platform.config.environments import RuntimeSpec
from devtools_platform.core.errors import BadInput, Unavailable
from devtools_platform.kit.digitalocean import DigitalOcean

FILE = "managed-agents.json"
NO_TOKEN_HINT = "Set DIGITALOCEAN_ACCESS_TOKEN to a personal access token with the genai scopes."  # noqa: S105


@dataclass(frozen=True)
class Managed:
    """One managed agent."""

    uuid: str
    url: str | None = None
    """Where it answers; None until it is deployed."""
    key: SecretStr | None = None
    key_uuid: str | None = None
    token_id: str | None = None
    """Of the gateway token it was given."""
    digest: str | None = None
    """Of what it was last made from."""


@dataclass
class ManagedRecord:
    home: Home
    agents: dict[str, dict[str, Managed]] = field(default_factory=dict[str, dict[str, Managed]])
    """Environment -> name -> agent."""

    @classmethod
    def load(cls, home: Home) -> "ManagedRecord":
        text = home.find_secret(FILE)
        raw: Mapping[str, Mapping[str, Any]] = json.loads(text) if text else {}
        return cls(home, {env: {n: _read(a) for n, a in agents.items()} for env, agents in raw.items()})

    def find(self, environment: str, name: str) -> Managed | None:
        return self.agents.get(environment, {}).get(name)

    def keep(self, environment: str, name: str, agent: Managed) -> None:
        """Write it down at once: a key that is lost is shown by nobody again."""
        self.agents.setdefault(environment, {})[name] = agent
        shown = {env: {n: _show(a) for n, a in agents.items()} for env, agents in self.agents.items()}
        self.home.keep_secret(FILE, json.dumps(shown, indent=2))


def managed_name(environment: str, agent: str, spec: RuntimeSpec) -> str:
    """What the managed agent of `agent` is called at DigitalOcean."""
    return spec.agent or f"dev-tools-{environment}-{agent}"


def digitalocean(settings: Settings) -> DigitalOcean:
    """The client of this stack's account. Raises `BadInput` without a token."""
    if settings.digitalocean_access_token is None:
        raise BadInput("There is no token for DigitalOcean.", hint=NO_TOKEN_HINT)
    return DigitalOcean(settings.digitalocean_access_token, settings.digitalocean_url)


async def check_managed(settings: Settings, name: str, uuid: str | None) -> None:
    """See that it is deployed. Without a token or a record its endpoint will say. Raises `Unavailable`."""
    if settings.digitalocean_access_token is None or uuid is None:
        return
    async with digitalocean(settings) as do:
        agent = await do.agents.get(uuid)
    if not agent.is_running:
        status = agent.deployment.status if agent.deployment else None
        raise Unavailable(
            f"The managed agent {name!r} is not running: its deployment says {status or 'nothing'}.",
            hint="See `dev-tools agents status`.",
        )


def _read(raw: Mapping[str, Any]) -> Managed:
    agent = Managed(**raw)
    return replace(agent, key=SecretStr(str(raw["key"]))) if raw.get("key") else agent


def _show(agent: Managed) -> dict[str, Any]:
    return {**vars(agent), "key": agent.key.get_secret_value() if agent.key else None}
