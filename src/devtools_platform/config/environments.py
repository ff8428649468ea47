"""The environments file: which runtime and which model carries each agent, and what stands in for it when it fails.

Secrets stand in the environment, never in the file: `api_key: "${NAME}"`.
"""

import re
from collections.abc import Iterator, Mapping
from difflib import get_close_matches
from importlib import resources
from pathlib import Path
from typing import Literal, Self

import yaml
from pydantic import BaseModel, ConfigDict, Field, SecretStr, ValidationError, model_validator

from devtools_platform.config.environment import read_variables
from devtools_platform.core.agents import EditFormat
from devtools_platform.core.errors import BadInput

RuntimeKind = Literal["stack", "local", "gradient", "embedded", "scripted"]
EnvironmentName = Literal["production", "staging", "development", "test"]

_REFERENCE = re.compile(r"\$\{([A-Za-z_][A-Za-z0-9_]*)\}")
_FIELDS: Mapping[RuntimeKind, tuple[frozenset[str], frozenset[str]]] = {
    # kind: the fields it needs, the fields it may have
    "stack": (frozenset(), frozenset()),
    "local": (frozenset({"base_url", "model"}), frozenset({"api_key", "tier"})),
    "gradient": (frozenset({"model"}), frozenset({"base_url", "api_key", "agent"})),
    "embedded": (frozenset(), frozenset()),
    "scripted": (frozenset({"script"}), frozenset({"tier"})),
}
DEFAULT_REGION = "tor1"


class _Strict(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class RuntimeSpec(_Strict):
    """One way to carry an agent's model calls, and what stands in for it."""

    runtime: RuntimeKind
    """`stack`: the stack's own model. `local`: our loop on any OpenAI-compatible endpoint, DigitalOcean's serverless
    inference and an Ollama included. `gradient`: our loop on a managed agent's endpoint. `embedded`: the small model.
    `scripted`: replies from a file, for tests and rehearsals."""
    model: str | None = None
    base_url: str | None = None
    api_key: str | None = None
    """`${NAME}` of an environment variable."""
    tier: Literal["standard", "small"] | None = None
    script: Path | None = None
    agent: str | None = None
    """The managed agent's name; by default `dev-tools-ENVIRONMENT-AGENT`."""
    edit_format: EditFormat | None = None
    """How its agents change files, instead of what the table by model family says (`agents/edit_formats.yaml`)."""
    fallback: "RuntimeSpec | None" = None

    @model_validator(mode="after")
    def _has_what_its_kind_needs(self) -> Self:
        needed, allowed = _FIELDS[self.runtime]
        given = self.model_fields_set - {"runtime", "edit_format", "fallback"}
        if missing := sorted(needed - given):
            raise ValueError(f"runtime {self.runtime!r} needs {', '.join(missing)}")
        if extra := sorted(given - needed - allowed):
            raise ValueError(f"runtime {self.runtime!r} takes no {', '.join(extra)}")
        if self.api_key is not None and not _REFERENCE.fullmatch(self.api_key):
            raise ValueError('api_key must name a variable, "${NAME}": keys do not stand in files')
        return self

    def chain(self) -> Iterator["RuntimeSpec"]:
        """Itself, then what stands in for it, in order."""
        spec: RuntimeSpec | None = self
        while spec is not None:
            yield spec
            spec = spec.fallback

    def key(self) -> SecretStr | None:
        """The key from the environment. Raises `BadInput` when the variable is not set."""
        if self.api_key is None:
            return None
        name = self.api_key[2:-1]
        value = read_variables([name]).get(name, "").strip()
        if not value:
            raise BadInput(
                f"The environments file takes a key from {name}, which is not set.",
                hint=f"Set {name}, or take `api_key` out if the endpoint wants none.",
            )
        return SecretStr(value)


class DigitalOceanSpec(_Strict):
    """Where this environment's managed agents live, and where they find our gateway."""

    project_id: str
    region: str = DEFAULT_REGION
    gateway_url: str = Field(pattern=r"^https://|^http://(127\.0\.0\.1|localhost)[:/]")
    """The gateway's MCP address as the internet knows it: `https://tools.example.org/mcp`."""


class EnvironmentSpec(_Strict):
    digitalocean: DigitalOceanSpec | None = None
    default: RuntimeSpec = RuntimeSpec(runtime="stack")
    agents: Mapping[str, RuntimeSpec] = Field(default_factory=dict[str, RuntimeSpec])

    def of(self, agent: str) -> RuntimeSpec:
        return self.agents.get(agent, self.default)

    def check_names(self, known: tuple[str, ...], environment: str) -> None:
        """Raises `BadInput` for an agent nobody has: its line would silently do nothing."""
        for name in self.agents:
            if name not in known:
                near = get_close_matches(name, known, n=1)
                meant = f" Did you mean {near[0]!r}?" if near else ""
                raise BadInput(
                    f"The environments file names the agent {name!r} in {environment!r}.{meant}",
                    hint=f"The agents are: {', '.join(known)}.",
                )


class Environments(_Strict):
    environments: Mapping[EnvironmentName, EnvironmentSpec]

    def of(self, name: EnvironmentName) -> EnvironmentSpec:
        """What is not in the file runs on the stack's own model."""
        return self.environments.get(name, EnvironmentSpec())


def load_environments(own: Path | None = None) -> Environments:
    """A team's own file, or the shipped one. Raises `BadInput` saying what is wrong where."""
    if own is None:
        text = resources.files("devtools_platform.config").joinpath("environments.yaml").read_text("utf-8")
        return _parse(text, "the shipped environments file")
    try:
        return _parse(own.read_text("utf-8"), repr(str(own)))
    except (OSError, UnicodeDecodeError) as error:
        raise BadInput(
            f"The environments file {str(own)!r} cannot be read: {error}.", hint="See DEV_TOOLS_ENVIRONMENTS_FILE."
        ) from None


def _parse(text: str, name: str) -> Environments:
    try:
        return Environments.model_validate(yaml.safe_load(text))
    except yaml.YAMLError as error:
        raise BadInput(f"{name} is no YAML: {error}.", hint="See docs/how-to/digitalocean.md.") from None
    except ValidationError as error:
        first = error.errors(include_url=False, include_context=False, include_input=False)[0]
        where = ".".join(str(part) for part in first["loc"])
        raise BadInput(
            f"{name} is wrong at {where or 'its top'}: {first['msg']}.", hint="See docs/how-to/digitalocean.md."
        ) from None
