"""What lies in the registry beside an image: its signatures, its attestations, and the release it belongs to."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from devtools_platform.core.errors import Forbidden, NotFound, Unavailable
from devtools_platform.deploy.interfaces import Registry
from devtools_platform.deploy.signing import (
    COSIGN_SIGN,
    CYCLONEDX,
    IN_TOTO,
    Signer,
    make_bundle,
    make_envelope,
    open_envelope,
    simple_signing,
    statement,
)
from devtools_platform.deploy.types import Bundle

OCI_MANIFEST = "application/vnd.oci.image.manifest.v1+json"
OCI_INDEX = "application/vnd.oci.image.index.v1+json"
OCI_CONFIG = "application/vnd.oci.image.config.v1+json"
OCI_EMPTY = "application/vnd.oci.empty.v1+json"
SIMPLE_SIGNING = "application/vnd.dev.cosign.simplesigning.v1+json"
DSSE = "application/vnd.dsse.envelope.v1+json"
BUNDLE = "application/vnd.dev.sigstore.bundle.v0.3+json"
RELEASE = "application/vnd.dev-tools.release.v1"
SIGNATURE = "dev.cosignproject.cosign/signature"


class NotARelease(Unavailable):
    """What lies under a release's tag is none."""


@dataclass(frozen=True)
class Artifacts:
    """Writes and reads them. Everything is addressed by the image's digest."""

    registry: Registry

    def sign_image(self, repository: str, digest: str, git_sha: str, signer: Signer) -> None:
        """Both formats: `.sig` for cosign 1 and 2 and our droplets, a bundle for cosign 3."""
        payload = simple_signing(repository, digest, git_sha)
        layer = self._layer(repository, payload, SIMPLE_SIGNING, {SIGNATURE: _b64(signer.sign(payload))})
        self._append(repository, f"{_tag(digest)}.sig", [layer])
        signed = statement(repository, digest, COSIGN_SIGN, {"git_sha": git_sha})
        self._refer(repository, digest, make_bundle(make_envelope(IN_TOTO, signed, signer), signer), COSIGN_SIGN)

    def attest(self, repository: str, digest: str, predicate_type: str, predicate: Any, signer: Signer) -> None:
        """An attestation (provenance, SBOM) in both formats."""
        envelope = make_envelope(IN_TOTO, statement(repository, digest, predicate_type, predicate), signer)
        data = json.dumps(envelope, separators=(",", ":")).encode()
        layer = self._layer(repository, data, DSSE, {SIGNATURE: "", "predicateType": predicate_type})
        self._append(repository, f"{_tag(digest)}.att", [layer])
        self._refer(repository, digest, make_bundle(envelope, signer), predicate_type)

    def push_release(self, repository: str, bundle: Bundle, tags: list[str]) -> str:
        """A release as one artifact: envelope, compose file, configuration."""
        config = json.dumps(bundle.config, sort_keys=True).encode()
        layers = [
            self._layer(repository, bundle.envelope.encode(), DSSE, {}),
            self._layer(repository, bundle.compose.encode(), f"{RELEASE}.compose", {}),
            self._layer(repository, config, f"{RELEASE}.config+json", {}),
        ]
        manifest = self._manifest(repository, layers) | {"artifactType": RELEASE}
        digest = ""
        for tag in tags:
            digest = self.registry.push_manifest(repository, tag, manifest)
        return digest

    def fetch_release(self, repository: str, tag: str) -> Bundle:
        """Raises `NotFound`. What comes is not trusted yet: verify its envelope."""
        raw = self.registry.fetch_manifest(repository, tag)
        if raw is None:
            raise NotFound(f"Release {tag!r} is not in {repository}.", hint="See `dev-tools release list`.")
        try:
            parts = {layer["mediaType"]: layer["digest"] for layer in json.loads(raw)["layers"]}
            envelope, compose, config = (
                self.registry.fetch_blob(repository, parts[kind])
                for kind in (DSSE, f"{RELEASE}.compose", f"{RELEASE}.config+json")
            )
            return Bundle(envelope=envelope.decode(), compose=compose.decode(), config=json.loads(config))
        except (KeyError, ValueError) as error:
            raise NotARelease(f"{repository}:{tag} is not a release: {error}.", hint="Build it anew.") from None

    def signatures(self, repository: str, digest: str) -> list[tuple[bytes, str]]:
        """Payload and encoded signature of each `.sig` entry."""
        raw = self.registry.fetch_manifest(repository, f"{_tag(digest)}.sig")
        layers: list[dict[str, Any]] = json.loads(raw)["layers"] if raw else []
        return [
            (self.registry.fetch_blob(repository, layer["digest"]), layer.get("annotations", {}).get(SIGNATURE, ""))
            for layer in layers
        ]

    def fetch_sbom(self, repository: str, digest: str, public_pem: bytes) -> Mapping[str, Any] | None:
        """The newest CycloneDX document that this key signed for this image. None: there is none."""
        raw = self.registry.fetch_manifest(repository, f"{_tag(digest)}.att")
        layers: list[dict[str, Any]] = json.loads(raw)["layers"] if raw else []
        for layer in reversed(layers):
            if layer.get("annotations", {}).get("predicateType") != CYCLONEDX:
                continue
            try:
                said = json.loads(
                    open_envelope(json.loads(self.registry.fetch_blob(repository, layer["digest"])), public_pem)
                )
                subjects = [subject["digest"]["sha256"] for subject in said["subject"]]
                is_of_image = digest.removeprefix("sha256:") in subjects and said["predicateType"] == CYCLONEDX
            except (Forbidden, ValueError, KeyError, TypeError):
                continue
            if is_of_image:
                return said["predicate"]
        return None

    def children(self, repository: str, digest: str) -> tuple[str, ...]:
        """The images that an index holds, by digest; empty for a single image, and for one that is not there."""
        raw = self.registry.fetch_manifest(repository, digest)
        entries: list[dict[str, Any]] = (json.loads(raw).get("manifests") or []) if raw else []
        return tuple(entry["digest"] for entry in entries)

    def beside(self, repository: str, digest: str) -> tuple[str, ...]:
        """All that was signed and attested for an image, as manifests by digest, in both formats.

        Among them those that a later signature took the tag from: no tag leads to them, but they hold blobs. What is
        not there any more, or was made by another program, is among them too.
        """
        found: list[str] = []
        raw = self.registry.fetch_manifest(repository, _tag(digest))
        if raw is not None:
            entries: list[dict[str, Any]] = json.loads(raw).get("manifests") or []
            earlier = [_digest(_dumps(_index(entries[:count]))) for count in range(1, len(entries))]
            found += [*(entry["digest"] for entry in entries), *earlier, _digest(raw)]
        for kind in ("att", "sig"):
            raw = self.registry.fetch_manifest(repository, f"{_tag(digest)}.{kind}")
            if raw is not None:
                layers: list[dict[str, Any]] = json.loads(raw).get("layers") or []
                earlier = [_digest(_dumps(_manifest(layers[:count]))) for count in range(1, len(layers))]
                found += [*earlier, _digest(raw)]
        return tuple(found)

    def _append(self, repository: str, tag: str, layers: list[dict[str, Any]]) -> None:
        """Add to what is under the tag: a second key, or a second attestation, does not push out the first."""
        raw = self.registry.fetch_manifest(repository, tag)
        old: list[dict[str, Any]] = json.loads(raw)["layers"] if raw else []
        self.registry.push_manifest(repository, tag, self._manifest(repository, [*old, *layers]))

    def _manifest(self, repository: str, layers: list[dict[str, Any]]) -> dict[str, Any]:
        self.registry.push_blob(repository, _config(layers))
        return _manifest(layers)

    def _refer(self, repository: str, digest: str, bundle: Mapping[str, Any], predicate_type: str) -> None:
        """A bundle as a referrer of the image, listed under the fallback tag where the registry has no such API."""
        subject_raw = self.registry.fetch_manifest(repository, digest)
        if subject_raw is None:
            raise NotFound(f"{repository}@{digest} is not in the registry.", hint="Push it first.")
        media = json.loads(subject_raw).get("mediaType", OCI_MANIFEST)
        layer = self._layer(repository, json.dumps(bundle).encode(), BUNDLE, None)
        annotations = {
            "dev.sigstore.bundle.content": "dsse-envelope",
            "dev.sigstore.bundle.predicateType": predicate_type,
            "org.opencontainers.image.created": datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
        }
        manifest = {
            "schemaVersion": 2,
            "mediaType": OCI_MANIFEST,
            "artifactType": BUNDLE,
            "config": self._layer(repository, b"{}", OCI_EMPTY, None),
            "layers": [layer],
            "subject": {"mediaType": media, "digest": digest, "size": len(subject_raw)},
            "annotations": annotations,
        }
        data = json.dumps(manifest, separators=(",", ":")).encode()
        pushed = self.registry.push_manifest(repository, _digest(data), manifest)
        entry = {"mediaType": OCI_MANIFEST, "digest": pushed, "size": len(data), "artifactType": BUNDLE}
        self._list_referrer(repository, _tag(digest), entry | {"annotations": annotations})

    def _list_referrer(self, repository: str, tag: str, entry: dict[str, Any]) -> None:
        raw = self.registry.fetch_manifest(repository, tag)
        old: list[dict[str, Any]] = json.loads(raw)["manifests"] if raw else []
        self.registry.push_manifest(repository, tag, _index([*old, entry]))

    def _layer(self, repository: str, data: bytes, media: str, annotations: dict[str, str] | None) -> dict[str, Any]:
        layer = {"mediaType": media, "digest": self.registry.push_blob(repository, data), "size": len(data)}
        return layer if annotations is None else {**layer, "annotations": annotations}


def _config(layers: list[dict[str, Any]]) -> bytes:
    config = {
        "architecture": "",
        "config": {},
        "created": "0001-01-01T00:00:00Z",
        "os": "",
        "rootfs": {"type": "layers", "diff_ids": [layer["digest"] for layer in layers]},
    }
    return _dumps(config)


def _manifest(layers: list[dict[str, Any]]) -> dict[str, Any]:
    config = _config(layers)
    return {
        "schemaVersion": 2,
        "mediaType": OCI_MANIFEST,
        "config": {"mediaType": OCI_CONFIG, "digest": _digest(config), "size": len(config)},
        "layers": layers,
    }


def _index(entries: list[dict[str, Any]]) -> dict[str, Any]:
    return {"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": entries}


def _dumps(value: Mapping[str, Any]) -> bytes:
    """As `Registry.push_manifest` sends it: the digest is of exactly these bytes."""
    return json.dumps(value, separators=(",", ":")).encode()


def _tag(digest: str) -> str:
    return digest.replace(":", "-")


def _b64(data: bytes) -> str:
    import base64

    return base64.b64encode(data).decode()


def _digest(data: bytes) -> str:
    import hashlib

    return f"sha256:{hashlib.sha256(data).hexdigest()}"
