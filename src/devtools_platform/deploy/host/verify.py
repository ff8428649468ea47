"""Whether a release may run on this droplet. Everything is checked here, and anything unclear is a refusal.

Needs Python's standard library and `openssl`, nothing else: keys are the PEM files in the host's key folder.
"""

import base64
import hashlib
import json
import re
import subprocess
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from devtools_platform.deploy.host.store import HostConfig, Refused

PAYLOAD_TYPE = "application/vnd.dev-tools.release.v1+json"
IMAGE = re.compile(r"^(?P<repository>[a-z0-9][a-z0-9.:/_-]*)@(?P<digest>sha256:[0-9a-f]{64})$")
MAX_ENVELOPE_BYTES = 1_000_000
NEXT = "Build and sign it anew with `dev-tools release build`; look with `dev-tools release verify`."


class SignatureSource(Protocol):
    """Where signatures of images are kept: their registry."""

    def fetch_signatures(self, repository: str, digest: str) -> list[tuple[bytes, bytes]]:
        """Payload and signature of each; empty when there are none."""
        ...


@dataclass(frozen=True)
class Offered:
    """What a deployer sends: the signed manifest and the files it names."""

    envelope: bytes
    compose: str
    config: Mapping[str, str]


def verify_release(
    offered: Offered,
    host: HostConfig,
    *,
    current: Mapping[str, Any] | None,
    recorded: list[dict[str, Any]],
    signatures: SignatureSource,
    is_rollback: bool,
) -> dict[str, Any]:
    """The manifest, once every check has passed. Raises `Refused` before anything is pulled."""
    manifest = read_manifest(offered.envelope, host.keys_dir)
    _check_files(manifest, offered)
    if manifest["application"] != host.application:
        raise _refuse("wrong_application", f"It is a release of {manifest['application']!r}, not {host.application!r}.")
    _check_sequence(manifest, hash_of(offered.envelope), current, recorded, is_rollback=is_rollback)
    for service, image in manifest["images"].items():
        _check_image(service, image, manifest["git_sha"], host, signatures)
    return manifest


def read_manifest(envelope: bytes, keys_dir: Path) -> dict[str, Any]:
    """The payload of a DSSE envelope that one of the droplet's keys signed."""
    if len(envelope) > MAX_ENVELOPE_BYTES:
        raise _refuse("tampered", f"A release manifest is at most {MAX_ENVELOPE_BYTES} bytes.")
    try:
        parsed = json.loads(envelope)
        payload, kind = base64.b64decode(parsed["payload"], validate=True), parsed["payloadType"]
        given = [base64.b64decode(entry["sig"], validate=True) for entry in parsed["signatures"]]
    except (ValueError, KeyError, TypeError) as error:
        raise _refuse("tampered", f"The release manifest is no signed envelope: {error}.") from None
    if kind != PAYLOAD_TYPE:
        raise _refuse("tampered", f"The envelope holds {kind!r}, not a release.")
    if not given:
        raise _refuse("unsigned", "The release is not signed.")
    if not any(is_signed(signed_bytes(kind, payload), signature, keys_dir) for signature in given):
        raise _refuse("wrong_signature", "No key of this host signed the release as it was sent.")
    return json.loads(payload)


def signed_bytes(kind: str, payload: bytes) -> bytes:
    """What DSSE signs (its pre-authentication encoding, protocol v1.0.2)."""
    return b"DSSEv1 %d %s %d %s" % (len(kind), kind.encode(), len(payload), payload)


def is_signed(message: bytes, signature: bytes, keys_dir: Path) -> bool:
    """Whether one of the droplet's public keys made `signature` over `message`."""
    with tempfile.TemporaryDirectory() as folder:
        message_file, signature_file = Path(folder, "message"), Path(folder, "signature")
        message_file.write_bytes(message)
        signature_file.write_bytes(signature)
        for key in sorted(keys_dir.glob("*.pub")):
            argv = ["openssl", "dgst", "-sha256", "-verify", str(key), "-signature", str(signature_file)]
            run = subprocess.run([*argv, str(message_file)], capture_output=True, check=False, timeout=20)
            if run.returncode == 0:
                return True
    return False


def hash_of(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def hash_config(config: Mapping[str, str]) -> str:
    """One hash for a release's configuration files, whatever order they are read in."""
    return hash_of(json.dumps(dict(config), sort_keys=True).encode())


def _check_files(manifest: Mapping[str, Any], offered: Offered) -> None:
    if hash_of(offered.compose.encode()) != manifest["compose_sha256"]:
        raise _refuse("tampered", "The compose file is not the one that was signed.")
    if hash_config(offered.config) != manifest["config_sha256"]:
        raise _refuse("tampered", "The configuration files are not those that were signed.")
    if any(Path(name).is_absolute() or ".." in Path(name).parts for name in offered.config):
        raise _refuse("tampered", "A configuration file lies outside its folder.")


def _check_sequence(
    manifest: Mapping[str, Any],
    digest: str,
    current: Mapping[str, Any] | None,
    recorded: list[dict[str, Any]],
    *,
    is_rollback: bool,
) -> None:
    seq = manifest["seq"]
    if is_rollback:
        if not any(entry["seq"] == seq and entry["envelope"] == digest for entry in recorded):
            raise _refuse("not_recorded", f"Release {seq} never ran on this host, so it is nothing to go back to.")
        return
    highest = max((entry["seq"] for entry in recorded), default=0)
    if seq <= highest:
        now = current["seq"] if current else None
        text = f"Release {seq} is older than release {highest}, which ran here; running is {now}."
        raise Refused("replayed", text, "To go back to a release that ran here use `dev-tools rollout rollback`.")


def _check_image(service: str, image: str, git_sha: str, host: HostConfig, signatures: SignatureSource) -> None:
    match = IMAGE.match(image)
    if match is None:
        raise _refuse("tampered", f"The image of {service!r} is not named by digest: {image!r}.")
    repository, digest = match["repository"], match["digest"]
    if not any(repository.startswith(prefix) for prefix in host.repositories):
        raise _refuse("wrong_repository", f"{repository!r} is not a repository this host takes images from.")
    found = signatures.fetch_signatures(repository, digest)
    if not found:
        raise _refuse("unsigned", f"The image of {service!r}, {image}, is not signed.")
    problems = [_find_problem(*pair, repository, digest, git_sha, host.keys_dir) for pair in found]
    if all(problems):
        raise _refuse("wrong_signature", f"The image of {service!r}, {image}: {problems[-1]}")


def _find_problem(
    payload: bytes, signature: bytes, repository: str, digest: str, git_sha: str, keys_dir: Path
) -> str | None:
    """Why this signature does not speak for this image in this release; None when it does.

    cosign itself accepts a signature that was copied from another repository. We do not.
    """
    if not is_signed(payload, signature, keys_dir):
        return "no key of this host signed it."
    try:
        said = json.loads(payload)
        critical = said["critical"]
        named = critical["identity"]["docker-reference"].split("@")[0]
        optional: dict[str, Any] = said["optional"] or {}
        signed_digest, signed_sha = critical["image"]["docker-manifest-digest"], optional.get("git_sha")
    except (ValueError, KeyError, TypeError, AttributeError):
        return "its signature says nothing we can read."
    if signed_digest != digest:
        return f"its signature is for {signed_digest}."
    if named != repository:
        return f"its signature is for the repository {named!r}."
    return None if signed_sha == git_sha else f"its signature is for commit {signed_sha!r}."


def _refuse(code: str, message: str) -> Refused:
    return Refused(code, message, NEXT)
