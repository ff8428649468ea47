"""Releases and plans as data: what is signed, what is approved, what a host says of itself."""

import hashlib
import json
from dataclasses import dataclass
from datetime import datetime
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, StringConstraints

Digest = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]
GitSha = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{40}$")]
Name = Annotated[str, StringConstraints(pattern=r"^[a-z0-9][a-z0-9_.-]{0,62}$")]
ImageRef = Annotated[str, StringConstraints(pattern=r"^[a-z0-9][a-z0-9.:/_-]*@sha256:[0-9a-f]{64}$")]
"""An image by digest. A tag can be moved, so no release names one."""

Colour = Literal["blue", "green"]
Kind = Literal["deploy", "restage", "return"]
"""`deploy`: a new release. `restage`: a recorded one starts again. `return`: one that still runs gets the requests."""
Phase = Literal["stage", "flip", "commit"]
Action = Literal[
    "begin",
    "vulnerabilities",
    "preflight",
    "verify",
    "pull",
    "backup",
    "start",
    "health",
    "probe",
    "smoke",
    "traces",
    "gate",
    "hold",
    "flip",
    "drain",
    "watch",
    "commit",
]
Severity = Literal["low", "medium", "high", "critical"]
DEPLOYER = "deployer"
"""Stands for a host in the steps that the deployer does itself. No host may have this name."""


@dataclass(frozen=True)
class Release:
    """The release this process is. `git_sha` is None where the package was installed without its repository."""

    version: str
    git_sha: str | None


class Model(BaseModel):
    """Data that crosses a border: nothing unknown, nothing changed."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class Endpoint(Model):
    """A port of a service that Caddy sends requests to. `probe` must answer 200 before it gets any."""

    name: Name
    service: Name
    port: int = Field(ge=1, le=65535)
    probe: Annotated[str, StringConstraints(pattern=r"^/")] = "/health"


class Smoke(Model):
    """A command that must succeed in a container of the new release before it gets requests."""

    service: Name
    command: tuple[str, ...] = Field(min_length=1)


class ReleaseManifest(Model):
    """What is signed, and all that a droplet trusts: everything a release consists of, by hash."""

    application: Name
    seq: int = Field(ge=1)
    """Grows with every release. A droplet refuses one that is not newer than what ran there."""
    git_sha: GitSha
    created_at: datetime
    images: dict[Name, ImageRef] = Field(min_length=1)
    endpoints: tuple[Endpoint, ...] = ()
    smoke: tuple[Smoke, ...] = ()
    traces: Smoke | None = None
    """The command that says whether recorded traces are whole. None: this application has none, or does not say."""
    compose_sha256: Digest
    config_sha256: Digest
    database_revision: str | None = None
    """The migration this release brings the database to. None: it has no database, or does not say."""


class Bundle(Model):
    """A release with its files, as it lies in the registry: `envelope` is the signed manifest (DSSE, JSON)."""

    envelope: str
    compose: str
    config: dict[str, str]

    @property
    def sha256(self) -> str:
        return hashlib.sha256(self.envelope.encode()).hexdigest()


class Recorded(Model):
    """A release that ran on a host."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    seq: int
    git_sha: GitSha
    envelope: Digest
    rollout: str
    kind: Kind
    database_revision: str | None = None


class Idle(Model):
    """What is in the colour that does not serve."""

    seq: int
    colour: Colour
    is_up: bool


class HostState(Model):
    """What a host says of itself before a plan is made. `current` is None before the first release."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    application: str
    current: Recorded | None
    live: Colour | None
    journal: dict[str, Any] | None
    idle: Idle | None
    recorded: tuple[Recorded, ...]


class Options(Model):
    """How patient a rollout is, in seconds, and what it skips."""

    health_s: float = Field(default=120, gt=0, le=3600)
    drain_s: float = Field(default=5, ge=0, le=600)
    """How long requests of the old release may take to end. Streams are left then, and go on."""
    watch_s: float = Field(default=10, ge=0, le=3600)
    has_gate: bool = True
    """Refuse while urgent alerts fire or traces are not whole."""
    refuse_severity: Severity | None = None
    """Refuse a release with a known vulnerability that bad or worse. None: it is not looked up."""
    accepts_unknown: bool = False
    """Go on where the vulnerabilities could not be found out. The outcome says so."""
    is_held: bool = False
    """Stop after staging; `rollout promote` goes on."""


class Target(Model):
    """One host in a plan: where it comes from and which colour it goes to."""

    host: Name
    colour: Colour
    from_seq: int | None


class Step(Model):
    host: Name
    phase: Phase
    action: Action

    @property
    def id(self) -> str:
        return f"{self.action}@{self.host}"


class Plan(Model):
    """What will be done, as a person approves it; `hash` names exactly this."""

    application: Name
    kind: Kind
    seq: int
    git_sha: GitSha
    release: Digest
    """The hash of the signed envelope."""
    targets: tuple[Target, ...] = Field(min_length=1)
    options: Options
    steps: tuple[Step, ...] = Field(min_length=1)

    @property
    def hash(self) -> str:
        text = json.dumps(self.model_dump(mode="json"), sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(text.encode()).hexdigest()


class Host(Model):
    """A droplet in the inventory: where it is, and whose key it must show."""

    name: Name
    address: str = Field(min_length=1)
    droplet: int | None = Field(default=None, ge=1)
    """Its number at DigitalOcean, for a switch between droplets."""
    user: str = "deploy"
    port: int = Field(default=22, ge=1, le=65535)
    identity_file: str | None = None
    known_hosts: str | None = None
    """A file with the host's key. Without one, the user's own known_hosts decides; an unknown key is refused."""
    command: str = "dev-tools-host"
    """What to run there. With the forced command of our bootstrap script it is ignored by the droplet."""


class Vulnerability(Model):
    """An advisory about a package in an image. `severity` is None where none of its databases says one."""

    id: str
    package: str
    """A package URL with its version."""
    severity: Severity | None


class GateResult(Model):
    """What a gate that let a release through knew. `unknown` is not `passed`: nothing was found because of `why`."""

    gate: Literal["vulnerabilities", "traces", "alerts"]
    verdict: Literal["passed", "unknown"]
    why: str


@dataclass(frozen=True)
class Outcome:
    """What a rollout came to. `last_words` of a failed one: host -> service -> state, health and log."""

    rollout: str
    status: Literal["committed", "reverted", "held"]
    seq: int
    plan_hash: str
    seconds: float
    why: str = ""
    failed_step: str | None = None
    last_words: dict[str, Any] | None = None
    lost_volumes: tuple[str, ...] = ()
    unreachable: tuple[str, ...] = ()
    """Hosts that could not be told to return; `rollout status` finishes that."""
    gates: tuple[GateResult, ...] = ()
    """What the gates said that were asked and did not refuse."""
