"""What releases and rollouts need from outside: a registry, a container engine, hosts, a cloud's network."""

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from devtools_platform.deploy.types import GateResult, Host, ReleaseManifest, Severity, Step, Vulnerability

Progress = Callable[[str, str], None]
"""Called with a part's name (a host, a service) and what it does."""
AfterStep = Callable[[Step], None]
"""Called when a step is done, before the next begins."""


@dataclass(frozen=True)
class Built:
    """An image that is built and has no name yet."""

    service: str
    image_id: str
    seconds: float


@dataclass(frozen=True)
class ComposeFile:
    """A compose file as the engine understands it."""

    text: str
    model: Mapping[str, Any]


class Builder(Protocol):
    """A container engine on the machine that builds."""

    def read_compose(self, file: Path) -> ComposeFile: ...

    def build(self, compose: ComposeFile, build_id: str, progress: Progress) -> Sequence[Built]:
        """Build every service, and name nothing. Raises `ProgramFailed` with the builder's last words."""
        ...

    def push(self, built: Built, reference: str) -> None:
        """Name the image and push it. Raises `ProgramFailed`."""
        ...

    def clean(self, build_id: str) -> int:
        """Remove what a failed build left behind; returns how many images that were."""
        ...


class Registry(Protocol):
    """An OCI registry. Repositories are `HOST/NAME`."""

    def close(self) -> None:
        """End its connections."""
        ...

    def digest_of(self, repository: str, tag: str) -> str | None: ...

    def list_tags(self, repository: str) -> list[str]: ...

    def fetch_manifest(self, repository: str, reference: str) -> bytes | None: ...

    def fetch_blob(self, repository: str, digest: str) -> bytes: ...

    def push_blob(self, repository: str, data: bytes) -> str: ...

    def push_manifest(self, repository: str, reference: str, manifest: Mapping[str, Any]) -> str: ...

    def delete_manifest(self, repository: str, digest: str) -> None: ...


class Remover(Protocol):
    """Deletes from a registry, by digest: tags that name it go with it."""

    async def remove(self, repository: str, digest: str) -> None:
        """What is gone already is no error. Raises `Conflict` where the registry does not delete at all."""
        ...

    async def finish(self) -> str:
        """Begin to free the room of what was removed, where that can be asked for; what to know of it, in words."""
        ...


class Session(Protocol):
    """A connection to a host; it holds the host's lock once `lock` was called, and loses it when it ends."""

    async def call(self, action: str, args: Mapping[str, Any], *, timeout_s: float = ...) -> Any:
        """Carry out one step. Raises the error the host gave, or `Unavailable` when it is gone."""
        ...

    async def aclose(self) -> None: ...


Connect = Callable[[Host, Progress], Awaitable[Session]]


class VulnerabilitySource(Protocol):
    """A database of advisories."""

    def covers(self, package: str) -> bool:
        """Whether it has advisories for packages of this kind at all."""
        ...

    def find(self, packages: Sequence[str]) -> Sequence[Vulnerability]:
        """What is known of these package URLs. Raises `Unavailable` where that cannot be said of all of them."""
        ...


class Vulnerabilities(Protocol):
    """The gate on known vulnerabilities, as a rollout asks it."""

    def check(self, manifest: ReleaseManifest, severity: Severity, *, accepts_unknown: bool) -> GateResult:
        """Raises `GateRefused`."""
        ...


class CloudNetwork(Protocol):
    """Blue/green between droplets: an address that can be moved from one droplet to another."""

    @property
    def address(self) -> str:
        """What it is, in words."""
        ...

    async def snapshot(self, droplet: int, name: str) -> str:
        """Take one and wait until it is there; its id. Raises `Unavailable`."""
        ...

    async def serving(self) -> int | None:
        """The droplet that requests go to; None when they go nowhere. Raises `Conflict` when it is not one."""
        ...

    async def point_at(self, droplet: int) -> None:
        """Move the address and wait until that is done. Raises `Unavailable`."""
        ...
