"""Must hold 5: the real cosign verifies what we sign, and we verify what it signs, in both formats."""

import base64
import json
import subprocess
from pathlib import Path

import pytest

from devtools_platform.deploy import signing
from devtools_platform.deploy.adapters.osv import ask_for
from devtools_platform.deploy.host.verify import is_signed
from e2e_deploy.fleet import SECOND
from e2e_deploy.shop import Shop

pytestmark = pytest.mark.timeout(180)
INSECURE = ["--insecure-ignore-tlog=true", "--allow-http-registry", "--allow-insecure-registry"]


@pytest.fixture(scope="module")
def cosign() -> Path:
    """Of Debian 13, unpacked beside the second engine."""
    return SECOND / "root/usr/bin/cosign"


def call(shop: Shop, cosign: Path, *args: str | Path) -> "subprocess.CompletedProcess[str]":
    env = {**shop.fleet.ci.env, "COSIGN_PASSWORD": "correct horse"}
    argv = [*shop.fleet.ci.enter, cosign, *args]
    return subprocess.run([str(a) for a in argv], capture_output=True, text=True, env=env, timeout=60, check=False)


@pytest.fixture(scope="module")
def signed(shop: Shop) -> tuple[str, str]:
    """An image of the last release, and its commit."""
    manifest = shop.fleet.cli("release", "show", "latest")
    return manifest["images"]["web"], manifest["git_sha"]


def test_cosign_verifies_our_signature_with_its_commit(shop: Shop, cosign: Path, signed: tuple[str, str]) -> None:
    image, sha = signed
    public = shop.fleet.folder / "cosign.pub"
    done = call(shop, cosign, "verify", "--key", public, *INSECURE, "-a", f"git_sha={sha}", image)
    wrong = call(shop, cosign, "verify", "--key", public, *INSECURE, "-a", f"git_sha={'0' * 40}", image)

    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)[0]["critical"]["identity"]["docker-reference"] == image.split("@")[0]
    assert wrong.returncode != 0


def test_cosign_verifies_our_provenance_in_both_formats(shop: Shop, cosign: Path, signed: tuple[str, str]) -> None:
    image, sha = signed
    public = shop.fleet.folder / "cosign.pub"
    args = ["verify-attestation", "--type", "slsaprovenance1", "--key", public, *INSECURE]
    root = shop.fleet.folder / "trusted_root.json"
    root.write_text('{"mediaType": "application/vnd.dev.sigstore.trustedroot+json;version=0.1"}')
    old = call(shop, cosign, *args, image)
    new = call(shop, cosign, *args, "--new-bundle-format", "--trusted-root", root, image)

    assert old.returncode == 0, old.stderr
    assert new.returncode == 0, new.stderr
    said = json.loads(base64.b64decode(json.loads(old.stdout.splitlines()[0])["payload"]))
    assert said["predicate"]["buildDefinition"]["externalParameters"]["git_sha"] == sha


def test_cosign_verifies_our_sbom_which_names_what_advisories_are_looked_up_by(shop: Shop, cosign: Path) -> None:
    """Made by the real syft of the first release's real image."""
    image = shop.fleet.cli("release", "show", "1")["images"]["web"]
    public = shop.fleet.folder / "cosign.pub"
    done = call(shop, cosign, "verify-attestation", "--type", "cyclonedx", "--key", public, *INSECURE, image)

    assert done.returncode == 0, done.stderr
    said = json.loads(base64.b64decode(json.loads(done.stdout.splitlines()[0])["payload"]))["predicate"]
    packages = {component["purl"] for component in said["components"] if "purl" in component}
    sources = {ask_for(package).partition("@")[0] for package in packages}
    assert {"pkg:deb/debian/openssl", "pkg:deb/debian/glibc", "pkg:deb/debian/python3.11"} <= sources
    assert not {one for one in sources if one.endswith(("/libssl3", "/libc6"))}


def test_cosign_refuses_our_signature_under_another_key(
    shop: Shop, cosign: Path, signed: tuple[str, str], tmp_path: Path
) -> None:
    image, _ = signed
    (tmp_path / "other.pub").write_bytes(signing.make_key().public_pem)

    assert call(shop, cosign, "verify", "--key", tmp_path / "other.pub", *INSECURE, image).returncode != 0


def test_we_verify_what_cosign_signs_with_our_key(shop: Shop, cosign: Path, tmp_path: Path) -> None:
    """Its key reader opens our encrypted key file; our verifier on the droplet accepts its signature."""
    blob, signature = tmp_path / "blob", tmp_path / "sig"
    blob.write_bytes(b"hello")
    done = call(
        shop,
        cosign,
        "sign-blob",
        "--key",
        shop.fleet.folder / "cosign.key",
        "--tlog-upload=false",
        "--yes",
        "--output-signature",
        signature,
        blob,
    )
    assert done.returncode == 0, done.stderr
    raw = base64.b64decode(signature.read_text())
    assert is_signed(b"hello", raw, shop.fleet.folder / "keys")
    assert not is_signed(b"hullo", raw, shop.fleet.folder / "keys")


def test_we_read_the_keys_that_cosign_makes(shop: Shop, cosign: Path, tmp_path: Path) -> None:
    done = call(shop, cosign, "generate-key-pair", "--output-key-prefix", tmp_path / "theirs")
    assert done.returncode == 0, done.stderr

    signer = signing.read_key((tmp_path / "theirs.key").read_bytes(), "correct horse")

    assert signer.public_pem == (tmp_path / "theirs.pub").read_bytes()


def test_a_release_that_cosign_signed_again_is_still_ours(shop: Shop, cosign: Path, signed: tuple[str, str]) -> None:
    """cosign adds its signature beside ours, and the droplet and `release verify` find the one that counts."""
    image, sha = signed
    key = shop.fleet.folder / "cosign.key"
    done = call(
        shop, cosign, "sign", "--key", key, "--tlog-upload=false", "--yes", *INSECURE[1:], "-a", f"git_sha={sha}", image
    )

    assert done.returncode == 0, done.stderr
    assert shop.fleet.cli("release", "verify", "latest")[0]["check"] == "manifest"
