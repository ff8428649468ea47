import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from devtools_platform.core.errors import BadInput, Forbidden, NotFound, ProgramFailed, Unauthorized, Unavailable
from devtools_platform.deploy import signing
from devtools_platform.deploy.adapters.oci import OciRegistry
from devtools_platform.deploy.interfaces import Built, ComposeFile, Progress
from devtools_platform.deploy.releases import Releases, Source
from fakes.oci_registry import FakeRegistry

SIGNER = signing.make_key()
SHA = "a" * 40
MODEL = {
    "services": {"web": {"build": {}}},
    "x-dev-tools": {"endpoints": [{"name": "web", "service": "web", "port": 80}]},
}


class FakeBuilder:
    """Builds into the fake registry; a service named `bad` does not build."""

    def __init__(self, registry: FakeRegistry, model: Mapping[str, Any]) -> None:
        self.registry = registry
        self.model = model
        self.pushed: list[str] = []
        self.cleaned: list[str] = []

    def read_compose(self, file: Path) -> ComposeFile:
        return ComposeFile(json.dumps(self.model), self.model)

    def build(self, compose: ComposeFile, build_id: str, progress: Progress) -> Sequence[Built]:
        if "bad" in compose.model["services"]:
            raise ProgramFailed("docker build failed: no such file", hint="Mend it.")
        return [Built(name, f"id-{name}", 0.1) for name in compose.model["services"]]

    def push(self, built: Built, reference: str) -> None:
        self.pushed.append(reference)
        repository, _, tag = reference.rpartition(":")
        self.registry.add_image(repository, tag, built.image_id.encode() + tag.encode())

    def clean(self, build_id: str) -> int:
        self.cleaned.append(build_id)
        return 1


@pytest.fixture
def oci(registry: FakeRegistry) -> Any:
    with OciRegistry(plain=(registry.host,)).http as http:
        yield OciRegistry(plain=(registry.host,), http=http)


def make(registry: FakeRegistry, oci: OciRegistry) -> Releases:
    return Releases("shop", f"{registry.host}/acme", oci, lambda *_: None)


def build(releases: Releases, builder: FakeBuilder, sha: str = SHA, **more: Any) -> Any:
    source = Source(Path(), sha, Path("compose.app.yaml"), {"Caddyfile": ":80"}, "0003")
    return releases.build(source, builder, SIGNER, lint=None, sbom=None, **more)


def test_a_release_names_what_the_registry_has_and_verifies(registry: FakeRegistry, oci: OciRegistry) -> None:
    releases = make(registry, oci)
    made = build(releases, FakeBuilder(registry, MODEL))
    found, bundle = releases.fetch("latest", SIGNER.public_pem)

    assert found == made
    assert (found.seq, found.database_revision, bundle.config) == (1, "0003", {"Caddyfile": ":80"})
    digest = oci.digest_of(f"{registry.host}/acme/shop-web", SHA)
    assert found.images == {"web": f"{registry.host}/acme/shop-web@{digest}"}
    assert [check["check"] for check in releases.verify(SHA, SIGNER.public_pem)] == ["manifest", "image"]


def test_numbers_grow_and_old_releases_stay(registry: FakeRegistry, oci: OciRegistry) -> None:
    releases, builder = make(registry, oci), FakeBuilder(registry, MODEL)
    seqs = [build(releases, builder, sha * 40).seq for sha in "abc"]

    assert seqs == [1, 2, 3]
    assert [listed.seq for listed in releases.list_releases()] == [1, 2, 3]
    assert releases.fetch("2", SIGNER.public_pem)[0].git_sha == "b" * 40


def test_a_failed_build_names_nothing_and_is_cleaned_up_unless_asked_not_to(
    registry: FakeRegistry, oci: OciRegistry
) -> None:
    model = {"services": {"web": {}, "bad": {}}}
    for is_cleaned in (True, False):
        builder = FakeBuilder(registry, model)
        with pytest.raises(ProgramFailed):
            build(make(registry, oci), builder, is_cleaned=is_cleaned)
        assert (builder.pushed, len(builder.cleaned)) == ([], int(is_cleaned))
    assert make(registry, oci).list_releases() == []


@pytest.mark.parametrize(
    ("model", "words"),
    [
        ({**MODEL, "volumes": {"pgdata": None}}, "volumes of its own: pgdata"),
        ({"services": {"web": {"ports": [{}]}}}, "publishes ports itself"),
        ({**MODEL, "x-dev-tools": {"endpoints": [{"name": "web", "service": "wbe", "port": 80}]}}, "not there: wbe"),
        ({**MODEL, "x-dev-tools": {"endpoints": [{"name": "web", "service": "web", "port": 0}]}}, "greater than"),
    ],
)
def test_a_compose_file_that_cannot_be_rolled_out_is_refused_before_it_is_built(
    registry: FakeRegistry, oci: OciRegistry, model: Mapping[str, Any], words: str
) -> None:
    with pytest.raises(BadInput, match=words):
        build(make(registry, oci), FakeBuilder(registry, model))


def test_a_release_of_another_key_or_with_a_changed_image_does_not_verify(
    registry: FakeRegistry, oci: OciRegistry
) -> None:
    releases = make(registry, oci)
    build(releases, FakeBuilder(registry, MODEL))
    with pytest.raises(Forbidden):
        releases.verify("latest", signing.make_key().public_pem)

    store = registry.manifests["acme/shop-web"]
    del store[next(tag for tag in store if tag.endswith(".sig"))]
    with pytest.raises(Forbidden, match="No signature of this key covers"):
        releases.verify("latest", SIGNER.public_pem)


def test_a_release_that_is_not_there_says_where_to_look(registry: FakeRegistry, oci: OciRegistry) -> None:
    with pytest.raises(NotFound, match="Release 'seq-7' is not in"):
        make(registry, oci).fetch("7", SIGNER.public_pem)


def test_a_registry_with_tokens_is_answered_and_one_without_our_password_is_named() -> None:
    with FakeRegistry(login=("ada", "secret")) as registry:
        repository = f"{registry.host}/acme/web"
        digest = registry.add_image(repository, "v1")
        for login, known in ((("ada", "secret"), True), (("ada", "wrong"), False)):
            oci = OciRegistry({registry.host: login}, (registry.host,))
            with oci.http:
                if known:
                    assert oci.digest_of(repository, "v1") == digest
                else:
                    with pytest.raises(Unauthorized, match="does not let us at"):
                        oci.digest_of(repository, "v1")


def test_content_that_is_not_what_was_asked_for_is_refused(registry: FakeRegistry, oci: OciRegistry) -> None:
    repository = f"{registry.host}/acme/web"
    digest = oci.push_blob(repository, b"hello")
    registry.blobs["acme/web"][digest] = b"hullo"
    with pytest.raises(Unavailable, match="came with another content"):
        oci.fetch_blob(repository, digest)

    registry.fail_next = 500
    with pytest.raises(Unavailable, match="answered 500"):
        oci.fetch_blob(repository, digest)
