"""A self-hosted stack as `docker inspect` or its compose file describes it: which containers are agents, and what they
were told, secrets left out. Pure: nothing is asked, nothing is changed."""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import yaml
from pydantic import BaseModel, ConfigDict, TypeAdapter, ValidationError
from pydantic.alias_generators import to_pascal

from devtools_platform.core.agents import AGENTS
from devtools_platform.core.errors import BadInput
from devtools_platform.core.redact import redact_text

COMPOSE_SERVICE = "com.docker.compose.service"
_SECRET_NAME = re.compile(r"KEY|TOKEN|SECRET|PASS(WORD|WD|PHRASE)?$|CREDENTIAL|PRIVATE|DSN|AUTH", re.IGNORECASE)
_MODEL_NAME = re.compile(r"(^|_)MODEL(_NAME|_ID)?$")
_NOTHING = {"PATH", "HOME", "LANG", "LC_ALL", "HOSTNAME", "GPG_KEY", "PYTHON_VERSION", "PYTHON_SHA256"}
"""Variables that come from an image, not from a person."""

TODAYS_MODELS: Mapping[str, str] = {
    "llama-3.1-70b-instruct": "llama3.3-70b-instruct",
    "meta-llama-3.1-70b-instruct": "llama3.3-70b-instruct",
    "codellama-13b-instruct": "qwen3-coder-flash",
    "llama-3.1-8b-instruct": "llama3-8b-instruct",
    "mistral-7b-instruct": "mistral-3-14B",
}
"""Names that older stacks carry and DigitalOcean's catalogue no longer has -> what does their work today."""


@dataclass(frozen=True)
class Container:
    """One container. Of a compose file that was never started, `id` is None."""

    name: str
    service: str
    id: str | None
    image: str
    digest: str | None
    environment: Mapping[str, str]
    secrets: tuple[str, ...]
    """Names of variables that were left out."""
    restart: str
    ports: tuple[str, ...]
    mounts: tuple[str, ...]
    memory_bytes: int | None
    is_running: bool | None

    @property
    def model(self) -> str | None:
        """What it was told to run on, when a variable says so."""
        return next((value for name, value in sorted(self.environment.items()) if _MODEL_NAME.search(name)), None)


@dataclass(frozen=True)
class SelfHosted:
    agents: Mapping[str, Container]
    """Agent -> its container."""
    others: tuple[Container, ...]
    """Gateway, databases, monitoring: they stay."""


class _Docker(BaseModel):
    """As Docker's API writes it, as far as we read it."""

    model_config = ConfigDict(alias_generator=to_pascal, frozen=True)


class _Policy(_Docker):
    name: str = ""
    maximum_retry_count: int = 0


class _Binding(_Docker):
    host_ip: str = ""
    host_port: str = ""


class _Mount(_Docker):
    name: str | None = None
    source: str = ""
    destination: str


class _Health(_Docker):
    status: str


class _State(_Docker):
    running: bool
    status: str = ""
    health: _Health | None = None


class _Config(_Docker):
    image: str
    env: list[str] | None = None
    labels: dict[str, str] | None = None


class _HostConfig(_Docker):
    restart_policy: _Policy = _Policy()
    port_bindings: dict[str, list[_Binding] | None] | None = None
    memory: int = 0


class Inspected(_Docker):
    """One container of `docker inspect`."""

    id: str
    name: str
    image: str | None = None
    config: _Config
    host_config: _HostConfig = _HostConfig()
    mounts: list[_Mount] | None = None
    state: _State

    @property
    def restart(self) -> str:
        """The policy as `docker update --restart` takes it."""
        policy = self.host_config.restart_policy
        return f"{policy.name or 'no'}{f':{policy.maximum_retry_count}' if policy.maximum_retry_count else ''}"


class _Service(BaseModel):
    model_config = ConfigDict(frozen=True)

    image: str = ""
    container_name: str | None = None
    environment: dict[str, str | int | float | bool | None] | list[str] | None = None
    restart: str = "no"
    ports: list[str | int | dict[str, Any]] | None = None
    volumes: list[str | dict[str, Any]] | None = None


class _Compose(BaseModel):
    services: dict[str, _Service | None]


_INSPECTED = TypeAdapter(list[Inspected])


def read_inspected(text: str) -> list[Inspected]:
    """What `docker inspect` printed. Raises `BadInput`."""
    try:
        return _INSPECTED.validate_json(text)
    except ValidationError as error:
        raise BadInput(
            f"This is not what `docker inspect` prints: {_first(error)}.",
            hint="Make it with `docker inspect $(docker ps -aq) > inspect.json` on the host of the agents.",
        ) from None


def read_inspect(texts: Sequence[str]) -> SelfHosted:
    """From what `docker inspect` printed, in one file or several. Raises `BadInput`."""
    return _sort([_of_inspected(one) for text in texts for one in read_inspected(text)])


def read_compose(text: str) -> SelfHosted:
    """From a compose file. Raises `BadInput`."""
    hint = "Give the file with `services:` in it."
    try:
        services = _Compose.model_validate(yaml.safe_load(text)).services
    except yaml.YAMLError as error:
        raise BadInput(f"This is no YAML: {error}.", hint=hint) from None
    except ValidationError as error:
        raise BadInput(f"This is no compose file: {_first(error)}.", hint=hint) from None
    return _sort([_of_service(name, one or _Service()) for name, one in services.items()])


def _first(error: ValidationError) -> str:
    first = error.errors(include_url=False, include_context=False, include_input=False)[0]
    return f"{'.'.join(str(part) for part in first['loc']) or 'at its top'}: {first['msg']}"


def _sort(found: Sequence[Container]) -> SelfHosted:
    agents: dict[str, Container] = {}
    others: list[Container] = []
    for one in found:
        agent = _agent_of(one.service)
        if agent is None:
            others.append(one)
        elif agent in agents:
            raise BadInput(
                f"{agents[agent].name!r} and {one.name!r} are both {agent}.",
                hint="Give the containers of one stack: `docker compose ps -aq` names them.",
            )
        else:
            agents[agent] = one
    if not agents:
        raise BadInput(
            f"None of these {len(found)} containers is an agent.", hint=f"The agents are: {', '.join(AGENTS)}."
        )
    return SelfHosted(agents, tuple(others))


def _agent_of(service: str) -> str | None:
    plain = _squeeze(service.removesuffix("-agent").removesuffix("_agent").removeprefix("agent-"))
    return next((agent for agent in AGENTS if _squeeze(agent) == plain), None)


def _squeeze(name: str) -> str:
    return re.sub(r"[^a-z0-9]", "", name.lower())


def _of_inspected(raw: Inspected) -> Container:
    name = raw.name.removeprefix("/")
    kept, secrets = _part(tuple(word.partition("=")[::2]) for word in raw.config.env or [])
    return Container(
        name=name,
        service=(raw.config.labels or {}).get(COMPOSE_SERVICE) or name,
        id=raw.id,
        image=redact_text(raw.config.image),
        digest=raw.image,
        environment=kept,
        secrets=secrets,
        restart=raw.restart,
        ports=tuple(
            f"{binding.host_ip or '*'}:{binding.host_port}->{port}"
            for port, bindings in sorted((raw.host_config.port_bindings or {}).items())
            for binding in bindings or []
        ),
        mounts=tuple(f"{mount.name or mount.source}:{mount.destination}" for mount in raw.mounts or []),
        memory_bytes=raw.host_config.memory or None,
        is_running=raw.state.running,
    )


def _of_service(name: str, raw: _Service) -> Container:
    given = raw.environment or {}
    listed = given if isinstance(given, list) else [f"{key}={'' if v is None else v}" for key, v in given.items()]
    kept, secrets = _part(tuple(word.partition("=")[::2]) for word in listed)
    return Container(
        name=raw.container_name or name,
        service=name,
        id=None,
        image=redact_text(raw.image),
        digest=None,
        environment=kept,
        secrets=secrets,
        restart=raw.restart,
        ports=tuple(str(port) for port in raw.ports or []),
        mounts=tuple(str(volume) for volume in raw.volumes or []),
        memory_bytes=None,
        is_running=None,
    )


def _part(pairs: Iterable[tuple[str, ...]]) -> tuple[dict[str, str], tuple[str, ...]]:
    """What may be kept, and the names of what may not: judged by what a variable is called and how its value looks."""
    kept: dict[str, str] = {}
    secrets: list[str] = []
    for name, value in pairs:
        if name in _NOTHING:
            continue
        is_file = name.endswith("_FILE") and value.startswith("/")
        if (_SECRET_NAME.search(name) and not is_file and value) or redact_text(value) != value:
            secrets.append(name)
        else:
            kept[name] = value
    return kept, tuple(sorted(secrets))


def draft_environments(found: SelfHosted, environment: str, project_id: str, gateway_url: str) -> str:
    """An environments file to begin with: each agent managed, on today's model for the one it had."""
    agents: dict[str, Any] = {}
    for agent, container in found.agents.items():
        model = container.model
        agents[agent] = {"runtime": "gradient", "model": TODAYS_MODELS.get(model or "", model or "openai-gpt-oss-20b")}
    where = {"project_id": project_id, "gateway_url": gateway_url}
    return yaml.safe_dump({"environments": {environment: {"digitalocean": where, "agents": agents}}}, sort_keys=False)
