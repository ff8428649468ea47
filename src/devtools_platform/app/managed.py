"""The managed agents of this stack's environments as it knows them: which they are, and the keys to their endpoints.

The record stands in the data directory, readable by its owner only: DigitalOcean shows a key once.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from pydantic import SecretStr

from devtools_platform.agents.adapters.endpoints import Endpoint
from devtools_platform.app.home import Home
from devtools_platform.config import Settings
from devtools_platform.config.environments import RuntimeSpec
from devtools_platform.core.errors import BadInput, NoModel, Unavailable
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
    key_made_at: str | None = None
    """In ISO 8601; None for a key made before this was written down."""
    token_id: str | None = None
    """Of the gateway token it was given."""
    last_token_id: str | None = None
    """Of the one before: the version before can be rolled back to only while its token counts."""
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
        self._write()

    def forget(self, environment: str, name: str) -> None:
        self.agents.get(environment, {}).pop(name, None)
        self._write()

    def _write(self) -> None:
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


@dataclass(frozen=True)
class ManagedEndpoint:
    """Where a managed agent answers, looked up at each call: `agents sync` and `rotate-keys` need no restart."""

    settings: Settings
    home: Home
    agent: str
    spec: RuntimeSpec

    @property
    def name(self) -> str:
        return managed_name(self.settings.environment, self.agent, self.spec)

    def find(self) -> Endpoint:
        """Raises `NoModel` while it is not known here."""
        record = self._record()
        url = self.spec.base_url or (record.url if record else None)
        key = self.spec.key() or (record.key if record else None)
        if url is None or key is None:
            env = self.settings.environment
            raise NoModel(
                f"The managed agent {self.name!r} is not known here: it was not synced, or it is not deployed yet.",
                hint=f"Run `dev-tools agents sync --env {env}`, then `dev-tools agents status --env {env}`.",
            )
        base = f"{url.rstrip('/')}/api/v1"
        return Endpoint("gradient-agent", base, key, str(self.spec.model), "standard", {"agent": "true"})

    async def check(self) -> None:
        """See that it is deployed. Without a token for DigitalOcean its endpoint will say. Raises `Unavailable`."""
        self.find()
        record = self._record()
        if self.settings.digitalocean_access_token is None or record is None:
            return
        async with digitalocean(self.settings) as do:
            agent = await do.agents.get(record.uuid)
        if not agent.is_running:
            status = agent.deployment.status if agent.deployment else None
            raise Unavailable(
                f"The managed agent {self.name!r} is not running: its deployment says {status or 'nothing'}.",
                hint="See `dev-tools agents status`.",
            )

    def _record(self) -> Managed | None:
        return ManagedRecord.load(self.home).find(self.settings.environment, self.name)


def _read(raw: Mapping[str, Any]) -> Managed:
    agent = Managed(**raw)
    return replace(agent, key=SecretStr(str(raw["key"]))) if raw.get("key") else agent


def _show(agent: Managed) -> dict[str, Any]:
    return {**vars(agent), "key": agent.key.get_secret_value() if agent.key else None}
