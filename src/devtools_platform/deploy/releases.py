"""Releases: built once, signed, and kept in the registry with everything a droplet needs to run them."""

import json
import secrets
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Protocol

from pydantic import ValidationError

from devtools_platform.core.errors import BadInput, DevToolsError, Forbidden, NotFound
from devtools_platform.deploy.artifacts import Artifacts
from devtools_platform.deploy.host.verify import hash_config, hash_of
from devtools_platform.deploy.interfaces import Builder, Built, ComposeFile, Progress, Registry
from devtools_platform.deploy.signing import CYCLONEDX, RELEASE_TYPE, SLSA, Signer, make_envelope, open_envelope, verify
from devtools_platform.deploy.types import Bundle, Endpoint, Model, ReleaseManifest, Smoke

BUILD_TYPE = "https://github.com/dev-tools/devtools-platform/blob/main/docs/decisions/0040-delivery.md"
EXTENSION = "x-dev-tools"
HINT = "See deploy/compose.app.yaml and docs/how-to/deploy.md."


class Sbom(Protocol):
    """Lists what is in an image."""

    def describe(self, image_id: str) -> Mapping[str, Any]:
        """A CycloneDX document. Raises `ProgramFailed`."""
        ...


class Lint(Protocol):
    """Looks at what is built before it is."""

    def check(self, compose: ComposeFile) -> None:
        """Raises `BadInput` with the findings."""
        ...


@dataclass(frozen=True)
class Source:
    """What is built: a clean commit."""

    root: Path
    git_sha: str
    compose_file: Path
    config_files: Mapping[str, str]
    database_revision: str | None


class Extension(Model):
    """What a compose file says to us, under `x-dev-tools`."""

    endpoints: tuple[Endpoint, ...] = ()
    smoke: tuple[Smoke, ...] = ()
    traces: Smoke | None = None


@dataclass(frozen=True)
class Listed:
    """A release in the registry."""

    tag: str
    seq: int


@dataclass
class Releases:
    """Releases of one application below a registry prefix: `HOST/TEAM`."""

    application: str
    prefix: str
    registry: Registry
    progress: Progress

    @property
    def repository(self) -> str:
        return f"{self.prefix}/{self.application}-releases"

    def list_releases(self) -> list[Listed]:
        """Oldest first."""
        tags = self.registry.list_tags(self.repository)
        numbers = [(int(tag[4:]), tag) for tag in tags if tag.startswith("seq-") and tag[4:].isdigit()]
        return [Listed(tag, seq) for seq, tag in sorted(numbers)]

    def fetch(self, name: str, public_pem: bytes) -> tuple[ReleaseManifest, Bundle]:
        """A release by its number, its git sha, or `latest`; its signature holds. Raises `NotFound`, `Forbidden`."""
        bundle = Artifacts(self.registry).fetch_release(self.repository, self._tag(name))
        return read_manifest(bundle, public_pem), bundle

    def verify(self, name: str, public_pem: bytes) -> list[dict[str, Any]]:
        """Check what a droplet checks, from here; one entry a check. Raises `Forbidden` for the first that fails."""
        manifest, _ = self.fetch(name, public_pem)
        checks: list[dict[str, Any]] = [{"check": "manifest", "subject": f"release {manifest.seq}"}]
        for service, image in manifest.images.items():
            repository, digest = image.split("@")
            self._verify_image(repository, digest, manifest.git_sha, public_pem)
            checks.append({"check": "image", "subject": f"{service} {image}"})
        return checks

    def build(
        self,
        source: Source,
        builder: Builder,
        signer: Signer,
        *,
        lint: Lint | None,
        sbom: Sbom | None,
        is_cleaned: bool = True,
    ) -> ReleaseManifest:
        """Build every service, push, sign, and record the release. A failed build names nothing and is cleaned up."""
        compose = builder.read_compose(source.compose_file)
        extension = _read_extension(compose)
        _refuse_own_volumes(compose)
        if lint is not None:
            lint.check(compose)
        build_id, began = secrets.token_hex(6), datetime.now(UTC)
        try:
            built = builder.build(compose, build_id, self.progress)
            described = self._describe(built, sbom)
        except DevToolsError:
            if is_cleaned:
                self.progress("cleanup", f"{builder.clean(build_id)} partial images removed")
            raise
        images: dict[str, str] = {}
        for image in built:
            repository = f"{self.prefix}/{self.application}-{image.service}"
            self.progress(image.service, f"pushing {repository}:{source.git_sha[:12]}")
            builder.push(image, f"{repository}:{source.git_sha}")
            found = described.get(image.image_id)
            images[image.service] = self._prove(repository, source, found, signer, build_id, began)
        return self._record(source, compose, images, extension, signer)

    def _describe(self, built: Sequence[Built], sbom: Sbom | None) -> dict[str, Mapping[str, Any]]:
        """What is in each image, by its id: services that share one are looked at once. Empty without `sbom`."""
        found: dict[str, Mapping[str, Any]] = {}
        for image in built:
            if sbom is not None and image.image_id not in found:
                self.progress(image.service, "listing what is in it")
                found[image.image_id] = sbom.describe(image.image_id)
        return found

    def _prove(
        self,
        repository: str,
        source: Source,
        sbom: Mapping[str, Any] | None,
        signer: Signer,
        build_id: str,
        began: datetime,
    ) -> str:
        """Sign and attest what the registry says it has: the digest never comes from the machine that built."""
        digest = self.registry.digest_of(repository, source.git_sha)
        if digest is None:
            raise NotFound(f"{repository}:{source.git_sha} was pushed and is not there.", hint="Look at the registry.")
        artifacts = Artifacts(self.registry)
        artifacts.attest(repository, digest, SLSA, _provenance(source, build_id, began), signer)
        if sbom is not None:
            artifacts.attest(repository, digest, CYCLONEDX, sbom, signer)
        artifacts.sign_image(repository, digest, source.git_sha, signer)
        return f"{repository}@{digest}"

    def _record(
        self,
        source: Source,
        compose: ComposeFile,
        images: dict[str, str],
        extension: Extension,
        signer: Signer,
    ) -> ReleaseManifest:
        config = dict(source.config_files)
        manifest = ReleaseManifest(
            application=self.application,
            seq=max((listed.seq for listed in self.list_releases()), default=0) + 1,
            git_sha=source.git_sha,
            created_at=datetime.now(UTC),
            images=images,
            endpoints=extension.endpoints,
            smoke=extension.smoke,
            traces=extension.traces,
            compose_sha256=hash_of(compose.text.encode()),
            config_sha256=hash_config(config),
            database_revision=source.database_revision,
        )
        payload = manifest.model_dump_json().encode()
        envelope = json.dumps(make_envelope(RELEASE_TYPE, payload, signer))
        bundle = Bundle(envelope=envelope, compose=compose.text, config=config)
        tags = [source.git_sha, "latest", f"seq-{manifest.seq}"]
        Artifacts(self.registry).push_release(self.repository, bundle, tags)
        return manifest

    def _verify_image(self, repository: str, digest: str, git_sha: str, public_pem: bytes) -> None:
        import base64

        for payload, signature in Artifacts(self.registry).signatures(repository, digest):
            try:
                verify(payload, base64.b64decode(signature), public_pem)
                said = json.loads(payload)
            except (Forbidden, ValueError):
                continue
            critical = said["critical"]
            is_ours = critical["image"]["docker-manifest-digest"] == digest
            is_ours &= critical["identity"]["docker-reference"] == repository
            if is_ours and (said.get("optional") or {}).get("git_sha") == git_sha:
                return
        raise Forbidden(
            f"No signature of this key covers {repository}@{digest} at {git_sha}.", hint="Do not deploy it."
        )

    def _tag(self, name: str) -> str:
        return f"seq-{name}" if name.isdigit() and len(name) < 10 else name  # noqa: PLR2004 - a git sha is longer


def read_manifest(bundle: Bundle, public_pem: bytes) -> ReleaseManifest:
    """The manifest, once its signature and the hashes of its files hold. Raises `Forbidden`."""
    try:
        envelope = json.loads(bundle.envelope)
        if envelope.get("payloadType") != RELEASE_TYPE:
            raise Forbidden(
                f"The envelope holds {envelope.get('payloadType')!r}, not a release.", hint="Do not use it."
            )
        manifest = ReleaseManifest.model_validate_json(open_envelope(envelope, public_pem))
    except (ValidationError, ValueError, AttributeError) as error:
        raise Forbidden(f"The release manifest cannot be read: {error}.", hint="Build it anew.") from None
    if (
        hash_of(bundle.compose.encode()) != manifest.compose_sha256
        or hash_config(bundle.config) != manifest.config_sha256
    ):
        raise Forbidden("The release's files are not those that were signed.", hint="Do not use it; build it anew.")
    return manifest


def _read_extension(compose: ComposeFile) -> Extension:
    try:
        extension = Extension.model_validate(compose.model.get(EXTENSION) or {})
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, (EXTENSION, *first["loc"])))
        raise BadInput(f"{where} in the compose file: {first['msg']}.", hint=HINT) from None
    traces = (extension.traces,) if extension.traces else ()
    named = {entry.service for entry in (*extension.endpoints, *extension.smoke, *traces)}
    if unknown := named - set(compose.model["services"]):
        raise BadInput(f"{EXTENSION} names services that are not there: {', '.join(sorted(unknown))}.", hint=HINT)
    return extension


def _refuse_own_volumes(compose: ComposeFile) -> None:
    volumes: Mapping[str, Any] = compose.model.get("volumes") or {}
    own = [name for name, volume in volumes.items() if not (volume or {}).get("external")]
    if own:
        raise BadInput(
            f"The compose file of a release declares volumes of its own: {', '.join(own)}.",
            hint="Data belongs to deploy/compose.data.yaml; use it here as `external: true`.",
        )
    for name, service in compose.model["services"].items():
        if service.get("ports"):
            raise BadInput(f"Service {name!r} publishes ports itself.", hint=f"Name them under {EXTENSION}.endpoints.")


def _provenance(source: Source, build_id: str, began: datetime) -> dict[str, Any]:
    """SLSA provenance v1: from which commit, by which recipe, when."""
    return {
        "buildDefinition": {
            "buildType": BUILD_TYPE,
            "externalParameters": {"compose": source.compose_file.name, "git_sha": source.git_sha},
            "internalParameters": {},
            "resolvedDependencies": [{"uri": "git+file:source", "digest": {"gitCommit": source.git_sha}}],
        },
        "runDetails": {
            "builder": {"id": "https://github.com/dev-tools/devtools-platform/release-build"},
            "metadata": {
                "invocationId": build_id,
                "startedOn": began.strftime("%Y-%m-%dT%H:%M:%SZ"),
                "finishedOn": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
            },
        },
    }
