"""A droplet for tests: a folder, a key it trusts, and sessions with the real host program."""

import asyncio
import base64
import json
import sys
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from devtools_platform.deploy import signing
from devtools_platform.deploy.adapters.oci import OciRegistry
from devtools_platform.deploy.adapters.ssh import MAX_LINE, SshSession
from devtools_platform.deploy.artifacts import Artifacts
from devtools_platform.deploy.host.verify import hash_config, hash_of
from devtools_platform.deploy.interfaces import Progress
from devtools_platform.deploy.rollouts import Rollouts
from devtools_platform.deploy.types import Bundle, Host, Options, ReleaseManifest
from fakes.oci_registry import FakeRegistry

HERE = Path(__file__).parent
SOURCE = HERE.parents[1] / "src"
SIGNER = signing.make_key()
QUICK = Options(watch_s=0, drain_s=0, health_s=2)


@dataclass
class Droplet:
    folder: Path

    @property
    def state(self) -> Path:
        return self.folder / "state"

    def docker(self) -> dict[str, Any]:
        return json.loads((self.folder / "docker.json").read_text())

    def set_docker(self, **change: Any) -> None:
        (self.folder / "docker.json").write_text(json.dumps(self.docker() | change))

    def fail(self, *verbs: str) -> None:
        (self.folder / "fail.json").write_text(json.dumps(verbs))

    def live_release(self) -> str | None:
        """The release whose containers get the requests."""
        link = self.state / "live"
        if not link.is_symlink():
            return None
        colour = link.readlink().name
        found = [c for c in self.docker()["containers"].values() if c["project"] == f"shop-{colour}"]
        return found[0]["labels"]["dev-tools.release"] if found else "nothing"


def make_droplet(folder: Path, registry: FakeRegistry) -> Droplet:
    (folder / "keys").mkdir(parents=True)
    (folder / "bin").mkdir()
    (folder / "keys" / "release.pub").write_bytes(SIGNER.public_pem)
    docker = folder / "bin" / "docker"
    docker.write_text(f'#!/bin/sh\nexec {sys.executable} -S {HERE}/fake_docker.py "$@"\n')
    docker.chmod(0o755)
    (folder / "docker.json").write_text(
        json.dumps({"calls": [], "containers": {}, "images": [], "volumes": ["pgdata"]})
    )
    config = {
        "application": "shop",
        "state_dir": str(folder / "state"),
        "keys_dir": str(folder / "keys"),
        "repositories": [f"{registry.host}/acme/shop-"],
        "plain_registries": [registry.host],
        "caddy_check": None,
        "min_free_mb": 1,
        "environment": {"FAKE_DOCKER": str(folder), "PATH": f"{folder}/bin:/usr/bin:/bin"},
    }
    (folder / "host.json").write_text(json.dumps(config))
    return Droplet(folder)


def make_release(
    registry: FakeRegistry,
    seq: int,
    *,
    is_bad: bool = False,
    signer: signing.Signer = SIGNER,
    image: str | None = None,
    **change: Any,
) -> tuple[ReleaseManifest, Bundle]:
    """A signed release in the registry; a bad one becomes unhealthy. `image` is the digest of one that is there."""
    repository = f"{registry.host}/acme/shop-web"
    digest = ""
    for salt in range(100000):
        digest = image.removeprefix("sha256:") if image else hash_of(f"{seq}-{salt}".encode())
        if not is_bad or digest.endswith("bad"):
            break
    sha = f"{seq:040x}"
    name = repository.partition("/")[2]
    payload = signing.simple_signing(repository, f"sha256:{digest}", sha)
    artifacts = Artifacts(OciRegistry(plain=(registry.host,)))
    layer = artifacts._layer(
        repository,
        payload,
        "application/vnd.dev.cosign.simplesigning.v1+json",
        {"dev.cosignproject.cosign/signature": base64.b64encode(signer.sign(payload)).decode()},
    )
    registry.manifests[name][f"sha256-{digest}.sig"] = json.dumps(artifacts._manifest(repository, [layer])).encode()
    artifacts.registry.http.close()
    compose = json.dumps({"services": {"web": {}}})
    values: dict[str, Any] = {
        "application": "shop",
        "seq": seq,
        "git_sha": sha,
        "created_at": datetime(2026, 1, 1, tzinfo=UTC),
        "images": {"web": f"{repository}@sha256:{digest}"},
        "compose_sha256": hash_of(compose.encode()),
        "config_sha256": hash_config({}),
    }
    manifest = ReleaseManifest(**(values | change))
    envelope = signing.make_envelope(signing.RELEASE_TYPE, manifest.model_dump_json().encode(), signer)
    return manifest, Bundle(envelope=json.dumps(envelope), compose=compose, config={})


def rollouts(*droplets: Droplet, actor: str = "ada", **more: Any) -> Rollouts:
    """Rollouts over droplets: what SSH would start is started here."""
    by_name = {droplet.folder.name: droplet for droplet in droplets}
    hosts = [Host(name=name, address="local") for name in by_name]

    async def connect(host: Host, progress: Progress) -> SshSession:
        program = "import sys; from devtools_platform.deploy.host.session import main; sys.exit(main(sys.argv[1:]))"
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-S",
            "-c",
            program,
            str(by_name[host.name].folder / "host.json"),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            env={"PYTHONPATH": str(SOURCE), "PATH": f"{by_name[host.name].folder}/bin:/usr/bin:/bin"},
            limit=MAX_LINE,
        )
        session = SshSession(host, process, progress)
        await session.greet()
        return session

    return Rollouts(hosts, connect, actor, lambda *_: None, **more)
