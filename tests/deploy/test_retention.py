"""Old releases leave the registry: Distribution's own, where it is installed, and one in memory."""

import asyncio
import json
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx2
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import SecretStr
from typer.testing import CliRunner

from deploy.droplet import QUICK, SIGNER, Droplet, make_droplet, rollouts
from deploy.fleet import make_fleet
from devtools_platform.app.release_retention import prune_once
from devtools_platform.cli.main import app
from devtools_platform.config import load_settings
from devtools_platform.core.errors import Conflict, DevToolsError, Forbidden, NotFound, Unavailable
from devtools_platform.deploy import signing
from devtools_platform.deploy.adapters.digitalocean import DigitalOceanRemover
from devtools_platform.deploy.adapters.oci import OciRegistry, OciRemover
from devtools_platform.deploy.artifacts import OCI_CONFIG, OCI_MANIFEST, Artifacts
from devtools_platform.deploy.interfaces import Built, ComposeFile, Progress
from devtools_platform.deploy.releases import Releases, Source
from devtools_platform.deploy.retention import Found, Pruning, Retention, decide
from devtools_platform.deploy.types import HostState, ReleaseManifest
from devtools_platform.kit.digitalocean import DigitalOcean
from devtools_platform.kit.process import free_port
from fakes.digitalocean_server import FakeDigitalOcean
from fakes.oci_registry import FakeRegistry

LATER = datetime.now(UTC) + timedelta(days=100)
MONTH = timedelta(days=30)
MODEL = {"services": {"web": {"build": {}}, "worker": {"build": {}}}}
DISTRIBUTION = pytest.param(
    "distribution", marks=pytest.mark.skipif(shutil.which("docker-registry") is None, reason="no docker-registry here")
)


@contextmanager
def distribution(folder: Path, *, deletes: bool) -> Iterator[str]:
    """Distribution's registry on loopback; its host name with the port."""
    folder.mkdir()
    host = f"127.0.0.1:{free_port('127.0.0.1')}"
    storage = {"filesystem": {"rootdirectory": str(folder / "store")}, "delete": {"enabled": deletes}}
    config = {"version": 0.1, "storage": storage, "http": {"addr": host}, "log": {"level": "error"}}
    (folder / "config.yml").write_text(json.dumps(config))
    log = (folder / "log").open("w")
    process = subprocess.Popen(["docker-registry", "serve", str(folder / "config.yml")], stdout=log, stderr=log)
    try:
        with httpx2.Client(transport=httpx2.HTTPTransport(retries=8)) as http:
            assert http.get(f"http://{host}/v2/").status_code == 200
        yield host
    finally:
        process.terminate()
        process.wait(5)
        log.close()


@dataclass
class Pushing:
    """A builder whose images are pushed over HTTP: `web` is new each time, `worker` never changes."""

    oci: OciRegistry

    def read_compose(self, file: Path) -> ComposeFile:
        return ComposeFile(json.dumps(MODEL), MODEL)

    def build(self, compose: ComposeFile, build_id: str, progress: Progress) -> Sequence[Built]:
        return [Built(name, f"id-{name}", 0.1) for name in compose.model["services"]]

    def push(self, built: Built, reference: str) -> None:
        repository, _, tag = reference.rpartition(":")
        content = b"worker" if built.service == "worker" else tag.encode()
        layer = {
            "mediaType": "application/vnd.oci.image.layer.v1.tar",
            "digest": self.oci.push_blob(repository, content),
            "size": len(content),
        }
        config = {"mediaType": OCI_CONFIG, "digest": self.oci.push_blob(repository, b"{}"), "size": 2}
        manifest = {"schemaVersion": 2, "mediaType": OCI_MANIFEST, "config": config, "layers": [layer]}
        self.oci.push_manifest(repository, tag, manifest)

    def clean(self, build_id: str) -> int:
        return 0


@dataclass
class Rig:
    """A registry with releases that were built, and droplets of the real host program."""

    host: str
    droplets: Mapping[str, Droplet]
    oci: OciRegistry = field(init=False)
    releases: Releases = field(init=False)

    def __post_init__(self) -> None:
        self.oci = OciRegistry(plain=(self.host,))
        self.releases = Releases("shop", f"{self.host}/acme", self.oci, lambda *_: None)

    def build(self, *seqs: int, signer: signing.Signer = SIGNER) -> list[ReleaseManifest]:
        return [
            self.releases.build(
                Source(Path(), f"{seq:040x}", Path("compose.app.yaml"), {}, None),
                Pushing(self.oci),
                signer,
                lint=None,
                sbom=None,
            )
            for seq in seqs
        ]

    async def deploy(self, *seqs: int) -> None:
        for seq in seqs:
            manifest, bundle = self.releases.fetch(str(seq), SIGNER.public_pem)
            assert (await rollouts(*self.droplets.values()).deploy(manifest, bundle, QUICK)).status == "committed"

    def retention(self, keep: int = 1, keep_for: timedelta = MONTH, **works: Any) -> Retention:
        hosts = replace(rollouts(*self.droplets.values()), **works)
        return Retention(self.releases, SIGNER.public_pem, hosts, OciRemover(self.oci), keep, keep_for)

    def everything(self) -> dict[str, str]:
        """Every tag of every repository, and what it names."""
        names = [f"{self.host}/acme/shop-{name}" for name in ("releases", "web", "worker")]
        return {f"{n}:{tag}": self.oci.digest_of(n, tag) or "" for n in names for tag in self.oci.list_tags(n)}

    def tag(self, repository: str, reference: str, tag: str) -> None:
        raw = self.oci.fetch_manifest(repository, reference)
        assert raw is not None
        self.oci.push_manifest(repository, tag, json.loads(raw))


@pytest.fixture(params=["memory", DISTRIBUTION])
def rig(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Rig]:
    opened = FakeRegistry() if request.param == "memory" else distribution(tmp_path / "registry", deletes=True)
    with opened as found:
        host = found.host if isinstance(found, FakeRegistry) else found
        made = Rig(host, {})
        registry: Any = made
        made.droplets = {"web-1": make_droplet(tmp_path / "web-1", registry)}
        yield made
        made.oci.close()


@pytest.fixture
def memory(registry: FakeRegistry, droplets: dict[str, Droplet]) -> Iterator[Rig]:
    made = Rig(registry.host, droplets)
    yield made
    made.oci.close()


async def test_old_releases_go_whole_and_what_anybody_needs_stays(rig: Rig) -> None:
    built = {manifest.seq: manifest for manifest in rig.build(1, 2, 3, 4, 5, 6)}
    await rig.deploy(2, 3)
    web, where = f"{rig.host}/acme/shop-web", rig.releases.repository
    rig.tag(where, "seq-4", "v1.0")
    rig.tag(web, built[5].images["web"].partition("@")[2], "stable")
    gone = built[1].images["web"].partition("@")[2]
    beside = Artifacts(rig.oci).beside(web, gone)
    assert None not in [rig.oci.fetch_manifest(web, digest) for digest in beside]
    before, work = rig.everything(), rig.retention()

    planned = await work.plan(LATER)
    assert rig.everything() == before
    assert {entry.seq: entry.why for entry in planned.kept} == {
        2: "in the idle colour of 'web-1'",
        3: "'web-1' serves it",
        4: "the tag 'v1.0' names it",
        6: "among the newest 1",
    }
    done = await work.prune(LATER)

    assert (done.removed, done.kept) == (planned.removed, planned.kept)
    assert [(one.seq, one.images) for one in done.removed] == [(1, (f"{web}@{gone}",)), (5, ())]
    assert [entry.seq for entry in rig.releases.list_releases()] == [2, 3, 4, 6]
    for seq in ("2", "3", "4", "6", "latest"):
        assert len(rig.releases.verify(seq, SIGNER.public_pem)) == 3
    assert len(beside) == 6, "two bundles, their list and the one before it, attestations, signatures"
    assert [rig.oci.fetch_manifest(web, digest) for digest in (gone, *beside)] == [None] * 7
    left = rig.everything()
    assert left.items() <= before.items()
    named = [tag for tag in left if gone.removeprefix("sha256:") in tag or built[1].git_sha in tag]
    assert named == [f"{rig.host}/acme/shop-worker:{built[1].git_sha}"], "the image that all releases share stays"
    audit = (rig.droplets["web-1"].state / "audit.jsonl").read_text().splitlines()
    assert json.loads(audit[-1])["data"] == {"releases": [1, 5], "images": 1}
    assert (await work.prune(LATER)).removed == ()
    rig.droplets["web-1"].set_docker(images=[])
    assert (await rollouts(*rig.droplets.values()).roll_back(2, QUICK)).status == "committed"


@pytest.mark.parametrize("kind", ["memory", DISTRIBUTION])
async def test_a_registry_that_does_not_delete_is_said_so(kind: str, tmp_path: Path) -> None:
    with FakeRegistry() if kind == "memory" else distribution(tmp_path / "registry", deletes=False) as found:
        rig = Rig(found if isinstance(found, str) else found.host, {})
        if isinstance(found, FakeRegistry):
            found.deletes = False
        registry: Any = rig
        rig.droplets = {"web-1": make_droplet(tmp_path / "web-1", registry)}
        rig.build(1, 2)
        before = rig.everything()
        with pytest.raises(Conflict, match="does not delete: it answered 405") as error:
            await rig.retention().prune(LATER)
        assert "enabled: true" in error.value.hint
        assert rig.everything() == before
        rig.oci.close()


async def test_nothing_goes_while_a_host_is_away_busy_or_of_another_application(
    memory: Rig, registry: FakeRegistry
) -> None:
    memory.build(1, 2)
    good = rollouts(*memory.droplets.values())

    async def refuse(host: Any, progress: Progress) -> Any:
        if host.name == "web-2":
            raise Unavailable("'web-2' does not answer.")
        return await good.connect(host, progress)

    away = memory.retention(connect=refuse)
    for act in (away.plan, away.prune):
        with pytest.raises(Unavailable, match="'web-2' does not answer"):
            await act(LATER)
    async with good.locked():
        with pytest.raises(Conflict, match="A rollout is in progress"):
            await memory.retention().prune(LATER)
    other = replace(memory.retention(), releases=replace(memory.releases, application="blog"))
    with pytest.raises(DevToolsError, match="hosts of 'shop', not only of 'blog'"):
        await other.prune(LATER)
    assert [one for one in registry.requests if one.startswith("DELETE")] == []


async def test_what_is_young_or_cannot_be_verified_stays_with_its_images(memory: Rig, registry: FakeRegistry) -> None:
    memory.build(1, signer=signing.make_key())
    memory.build(2, 3, 4)
    broken = registry.manifests["acme/shop-releases"]
    broken["seq-2"] = b'{"layers": []}'
    shared = memory.releases.fetch("3", SIGNER.public_pem)[0]
    workers = registry.manifests["acme/shop-worker"]
    for tag in [reference for reference in workers if len(reference) == len(shared.git_sha)]:
        del workers[tag]  # tags move; releases name digests

    assert (await memory.retention().plan(datetime.now(UTC))).removed == ()
    done = await memory.retention().prune(LATER)
    assert [one.seq for one in done.removed] == [3]
    assert {kept.seq: kept.why for kept in done.kept if kept.seq < 3} == dict.fromkeys(
        (1, 2), "cannot be verified with this key"
    )
    repository, digest = shared.images["worker"].split("@")
    assert memory.oci.fetch_manifest(repository, digest) is not None, "others name it, one signed by nobody we know"


async def test_a_run_that_was_cut_off_is_finished_by_the_next(memory: Rig, registry: FakeRegistry) -> None:
    built = memory.build(1, 2)

    class Cut(OciRemover):
        async def remove(self, repository: str, digest: str) -> None:
            if f"{repository}@{digest}" == built[0].images["web"]:
                raise Unavailable("The registry is gone.")
            await super().remove(repository, digest)

    with pytest.raises(Unavailable):
        await replace(memory.retention(), remover=Cut(memory.oci)).prune(LATER)
    with pytest.raises(Forbidden):
        memory.releases.verify("1", SIGNER.public_pem)
    await memory.retention().prune(LATER)
    assert [entry.seq for entry in memory.releases.list_releases()] == [2]
    left = registry.manifests["acme/shop-web"]
    digest = built[1].images["web"].partition("@")[2]
    known = {digest, *Artifacts(memory.oci).beside(f"{memory.host}/acme/shop-web", digest)}
    assert {reference for reference in left if reference.startswith("sha256:")} == known


@dataclass
class Drawn:
    """Releases 1 to 12, and hosts in any state."""

    states: dict[str, HostState]
    keep: int


@st.composite
def situations(draw: st.DrawFn) -> Drawn:
    seq = st.integers(1, 12)

    def recorded(number: int) -> dict[str, Any]:
        return {"seq": number, "git_sha": f"{number:040x}", "envelope": "0" * 64, "rollout": "r", "kind": "deploy"}

    def state() -> HostState:
        ran = draw(st.lists(seq, max_size=8))
        idle = draw(st.none() | seq)
        journal = draw(st.none() | seq)
        return HostState.model_validate(
            {
                "application": "shop",
                "current": recorded(ran[-1]) if ran else None,
                "live": "blue" if ran else None,
                "journal": journal and {"seq": journal, "phase": "held"},
                "idle": idle and {"seq": idle, "colour": "green", "is_up": draw(st.booleans())},
                "recorded": [recorded(number) for number in ran],
            }
        )

    return Drawn({name: state() for name in ("web-1", "web-2")}, draw(st.integers(1, 4)))


@given(situations())
def test_whatever_hosts_say_nothing_they_run_or_go_back_to_may_go(drawn: Drawn) -> None:
    def manifest(seq: int) -> ReleaseManifest:
        return ReleaseManifest(
            application="shop",
            seq=seq,
            git_sha=f"{seq:040x}",
            created_at=LATER - MONTH * 2,
            images={"web": f"r/acme/shop-web@sha256:{seq:064x}"},
            compose_sha256="0" * 64,
            config_sha256="0" * 64,
        )

    found = [Found(seq, "d", (f"seq-{seq}",), manifest(seq), frozenset()) for seq in range(1, 13)]
    stays = decide(found, drawn.states, keep=drawn.keep, keep_for=MONTH, now=LATER).keys()

    assert {12 - place for place in range(drawn.keep)} <= stays
    for state in drawn.states.values():
        running = {state.current and state.current.seq, state.idle and state.idle.seq}
        running |= {state.journal["seq"]} if state.journal else set()
        assert running - {None} <= stays
        others = dict.fromkeys(e.seq for e in reversed(state.recorded) if state.current and e.seq != state.current.seq)
        assert set(list(others)[: drawn.keep]) <= stays


async def test_digitalocean_deletes_by_its_own_api_and_collects_the_garbage() -> None:
    with FakeDigitalOcean() as fake:
        async with DigitalOcean(SecretStr(fake.token), fake.url) as client:
            remover = DigitalOceanRemover(client, "acme")
            digest = fake.resources.tags[0]["manifest_digest"]
            await remover.remove("registry.digitalocean.com/acme/shop-web", digest)
            await remover.remove("registry.digitalocean.com/acme/shop-web", digest)  # gone already
            said = await remover.finish()

        assert fake.resources.deleted == [("shop-web", digest)] * 2
        assert [one["tag"] for one in fake.resources.tags] == ["v2", "v3"]
        assert "is requested; the registry takes no push until it ends." in said
        assert fake.requests[-1].path == "/v2/registries/acme/garbage-collection"


def test_the_command_shows_then_does_it_and_the_daily_run_finds_nothing_left(
    tmp_path: Path, registry: FakeRegistry, monkeypatch: pytest.MonkeyPatch
) -> None:
    fleet = make_fleet(tmp_path, registry, "web-1")
    for name, value in fleet.settings.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("PATH", f"{fleet.program_folder}:{Path(sys.executable).parent}:/usr/bin:/bin")
    rig = Rig(registry.host, {})
    rig.build(1, 2, 3)
    command = ["release", "prune", "--keep", "2", "--days", "0"]
    shown = CliRunner().invoke(app, [*command, "--dry-run"])
    assert shown.exit_code == 0, shown.output
    assert "     1  would go 000000000000" in shown.output
    assert len(rig.releases.list_releases()) == 3

    done = json.loads(CliRunner().invoke(app, [*command, "--json"]).stdout)
    assert ([one["seq"] for one in done["removed"]], done["is_done"]) == ([1], True)
    assert done["room"] == "The registry frees the room with its own garbage collection."

    monkeypatch.setenv("DEV_TOOLS_KEEP_RELEASES", "1")
    monkeypatch.setenv("DEV_TOOLS_KEEP_RELEASES_DAYS", "0")
    daily: Pruning = asyncio.run(prune_once(load_settings({})))
    assert [one.seq for one in daily.removed] == [2]
    audit = [json.loads(line) for line in (fleet.droplets["web-1"].state / "audit.jsonl").read_text().splitlines()]
    assert [entry["action"] for entry in audit] == ["prune_registry", "prune", "prune_registry"]
    assert audit[-1]["actor"].startswith("stack@")
    with pytest.raises(NotFound):
        rig.releases.fetch("2", SIGNER.public_pem)
    rig.oci.close()
