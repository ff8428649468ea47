"""Releases and rollouts, wired: which registry, which key, which hosts. Commands and tools get them here."""

import asyncio
import socket
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

import httpx2

from devtools_platform.config import Settings
from devtools_platform.config.environment import docker_environment, program_environment, user_name
from devtools_platform.core.errors import BadInput
from devtools_platform.deploy import signing
from devtools_platform.deploy.adapters.docker import Docker
from devtools_platform.deploy.adapters.inspection import Hadolint, Syft
from devtools_platform.deploy.adapters.oci import OciRegistry, OciRemover
from devtools_platform.deploy.adapters.osv import Osv
from devtools_platform.deploy.adapters.ssh import Ssh
from devtools_platform.deploy.artifacts import Artifacts
from devtools_platform.deploy.gates import VulnerabilityGate
from devtools_platform.deploy.interfaces import Progress, Remover
from devtools_platform.deploy.inventory import load_hosts, load_network
from devtools_platform.deploy.releases import Releases, Source
from devtools_platform.deploy.retention import Pruning, Retention
from devtools_platform.deploy.rollouts import Rollouts
from devtools_platform.deploy.switch import Switches, SwitchOptions, SwitchOutcome, SwitchPlan
from devtools_platform.deploy.tools import DeployTools, plan_options
from devtools_platform.deploy.types import Plan, ReleaseManifest
from devtools_platform.kit.git import resolve_repository
from devtools_platform.kit.tls import tls_context

CONFIG_FILES = ("Caddyfile", "prometheus.yaml", "app.env.example")
"""Files beside the compose file that belong to a release, where they exist."""
DOCR = "registry.digitalocean.com"
ASK_S = 5.0
"""How long an address that is watched after a switch may take to answer."""
MIGRATIONS = Path("src/devtools_platform/kit/migrations/versions")


@dataclass(frozen=True)
class Delivery:
    """What `dev-tools release` and `dev-tools rollout` work with."""

    settings: Settings
    progress: Progress

    def releases(self) -> Releases:
        prefix = self.settings.registry
        if not prefix or "/" not in prefix:
            raise BadInput(
                f"DEV_TOOLS_REGISTRY is {prefix!r}; releases need a registry, as HOST/TEAM.",
                hint="For example DEV_TOOLS_REGISTRY=registry.example.com/acme.",
            )
        plain = (prefix.partition("/")[0],) if self.settings.registry_plain_http else ()
        registry = OciRegistry(self.login(), plain)
        return Releases(self.settings.release_application, prefix.rstrip("/"), registry, self.progress)

    def rollouts(self, host: str | None = None) -> Rollouts:
        return self.rollouts_as(f"{user_name()}@{socket.gethostname()}", self.progress, host)

    def rollouts_as(self, actor: str, progress: Progress, host: str | None = None) -> Rollouts:
        """The same in the name of somebody else: of the person at the console."""
        ssh = Ssh(environment=docker_environment())
        return Rollouts(load_hosts(self.settings.hosts_file, host), ssh.connect, actor, progress, self.login())

    def deployment(self, host: str | None = None) -> Rollouts:
        """Rollouts that can also look vulnerabilities up: what a new release needs."""
        works = self.rollouts(host)
        works.vulnerabilities = self.vulnerabilities()
        return works

    def vulnerabilities(self) -> VulnerabilityGate:
        return VulnerabilityGate(Artifacts(self.releases().registry), self.public_key(), Osv(self.settings.osv_url))

    async def prune(self, rollouts: Rollouts, keep: int, keep_days: float, *, is_done: bool) -> Pruning:
        """Remove old releases from the registry; without `is_done` only say which."""
        releases = self.releases()
        try:
            async with self._remover(releases) as remover:
                days = timedelta(days=keep_days)
                retention = Retention(releases, self.public_key(), rollouts, remover, keep, days)
                now = datetime.now(UTC)
                return await (retention.prune(now) if is_done else retention.plan(now))
        finally:
            releases.registry.close()

    @asynccontextmanager
    async def _remover(self, releases: Releases) -> AsyncGenerator[Remover]:
        host, _, team = releases.prefix.partition("/")
        if host != DOCR:
            yield OciRemover(releases.registry)
            return
        from devtools_platform.app.managed import digitalocean
        from devtools_platform.deploy.adapters.digitalocean import DigitalOceanRemover

        async with digitalocean(self.settings) as client:
            yield DigitalOceanRemover(client, team.partition("/")[0])

    async def plan_switch(self, to_host: str, options: SwitchOptions) -> SwitchPlan:
        async with self._switches() as switches:
            return await switches.plan(to_host, options)

    async def switch(self, to_host: str, options: SwitchOptions, approved: str | None) -> SwitchOutcome:
        """Move the public address to another droplet."""
        async with self._switches() as switches:
            return await switches.switch(to_host, options, approved)

    @asynccontextmanager
    async def _switches(self) -> AsyncGenerator[Switches]:
        # These bring the models' client with them: seconds that no other command here should wait for.
        from devtools_platform.app.managed import digitalocean
        from devtools_platform.deploy.adapters.digitalocean import LoadBalancerNetwork, ReservedIpNetwork

        network = load_network(self.settings.hosts_file)
        async with (
            digitalocean(self.settings) as client,
            httpx2.AsyncClient(verify=tls_context(), timeout=ASK_S, trust_env=False) as http,
        ):

            async def ask(url: str) -> int | None:
                try:
                    return (await http.get(url)).status_code
                except httpx2.HTTPError:
                    return None

            cloud = (
                ReservedIpNetwork(client, ip=network.reserved_ip)
                if network.reserved_ip
                else LoadBalancerNetwork(client, id=network.load_balancer or "")
            )
            yield Switches(self.rollouts(), cloud, network.check_urls, ask)

    def login(self) -> dict[str, tuple[str, str]]:
        """Credentials of the registry, for us and for the droplets; they keep them for the length of a pull."""
        user, password, prefix = self.settings.registry_user, self.settings.registry_password, self.settings.registry
        if not user or password is None or not prefix:
            return {}
        return {prefix.partition("/")[0]: (user, password.get_secret_value())}

    def signer(self) -> signing.Signer:
        file = self.settings.release_key
        if file is None:
            raise BadInput("DEV_TOOLS_RELEASE_KEY is not set.", hint="Make a key with `dev-tools release keygen`.")
        password = self.settings.release_key_password
        return signing.read_key(_read(file), password.get_secret_value() if password else "")

    def public_key(self) -> bytes:
        file = self.settings.release_public_key
        if file is None and self.settings.release_key is not None:
            file = self.settings.release_key.with_suffix(".pub")
        if file is None:
            raise BadInput(
                "DEV_TOOLS_RELEASE_PUBLIC_KEY is not set: without a key nothing can be verified.",
                hint="It is the .pub file that `dev-tools release keygen` made.",
            )
        return _read(file)

    def build(self, compose_file: Path, *, has_lint: bool, has_sbom: bool, is_cleaned: bool) -> ReleaseManifest:
        """Build, push and sign the release of the commit that is checked out."""
        environment = docker_environment()
        docker = Docker(environment)
        return self.releases().build(
            read_source(compose_file),
            docker,
            self.signer(),
            lint=Hadolint(program_environment()) if has_lint else None,
            sbom=Syft(docker.save, program_environment()) if has_sbom else None,
            is_cleaned=is_cleaned,
        )


def read_source(compose_file: Path) -> Source:
    """The commit that is checked out around the compose file. Raises `BadInput` when files differ from it."""
    folder = compose_file.resolve().parent
    repository = asyncio.run(resolve_repository(folder))
    if repository.is_dirty:
        raise BadInput(
            "The working tree differs from its commit.",
            hint="See `git status`; commit, remove or stash: a release is named by its commit, so it is exactly that.",
        )
    config = {name: (folder / name).read_text() for name in CONFIG_FILES if (folder / name).is_file()}
    return Source(repository.path, repository.head, compose_file, config, _migration(repository.path))


def _migration(root: Path) -> str | None:
    """The newest migration's number; None for a project that has none where ours are."""
    numbers = sorted(file.name.split("_")[0] for file in (root / MIGRATIONS).glob("[0-9]*_*.py"))
    return numbers[-1] if numbers else None


def write_key_pair(file: Path, password: str) -> None:
    """Make a key pair: FILE, only for its owner, and FILE with the ending .pub. Never overwrites one."""
    if file.exists():
        raise BadInput(f"{str(file)!r} is there already.", hint="Name another file, or move that one away.")
    signer = signing.make_key()
    try:
        file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        file.touch(mode=0o600)
        file.write_bytes(signing.write_key(signer, password))
        file.with_suffix(".pub").write_bytes(signer.public_pem)
    except OSError as error:
        raise BadInput(
            f"{str(file)!r} cannot be written: {error.strerror}.", hint="Name a file in a folder of yours."
        ) from None


def _quiet(part: str, text: str) -> None:
    """Tools answer once; nobody watches their progress."""


def _read(file: Path) -> bytes:
    try:
        return file.read_bytes()
    except OSError as error:
        raise BadInput(f"{str(file)!r} cannot be read: {error.strerror}.", hint="Check the path.") from None


def deploy_tools(settings: Settings) -> list[DeployTools]:
    """The gateway's read-only tools, for a stack that has an inventory."""
    works = Delivery(settings, _quiet)

    async def make_plan(release: str) -> Plan:
        manifest, bundle = await asyncio.to_thread(works.releases().fetch, release, works.public_key())
        return await works.rollouts().plan(manifest, bundle, plan_options())

    return [DeployTools(works.rollouts, make_plan)]
