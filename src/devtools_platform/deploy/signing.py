"""Signatures that cosign verifies, and the keys it makes: no I/O here, and no cosign needed.

Two formats, because cosign 2 reads the first by default and cosign 3 will read only the second: simple signing
(`sha256-HEX.sig`), and a Sigstore bundle v0.3 with a DSSE envelope around an in-toto statement.
"""

import base64
import hashlib
import json
import secrets
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.kdf.scrypt import Scrypt

from devtools_platform.core.errors import BadInput, Forbidden

RELEASE_TYPE = "application/vnd.dev-tools.release.v1+json"
IN_TOTO = "application/vnd.in-toto+json"
SLSA = "https://slsa.dev/provenance/v1"
CYCLONEDX = "https://cyclonedx.org/bom"
COSIGN_SIGN = "https://sigstore.dev/cosign/sign/v1"
_PEM_KINDS = (b"ENCRYPTED SIGSTORE PRIVATE KEY", b"ENCRYPTED COSIGN PRIVATE KEY")
# What cosign writes (sigstore pkg/cryptoutils, theupdateframework/go-tuf encrypted): scrypt and a NaCl secretbox.
_SCRYPT = {"N": 65536, "r": 8, "p": 1}
_MAX_N = 1 << 20


@dataclass(frozen=True)
class Signer:
    """A private key (ECDSA P-256, as cosign makes them)."""

    key: ec.EllipticCurvePrivateKey

    def sign(self, message: bytes) -> bytes:
        return self.key.sign(message, ec.ECDSA(hashes.SHA256()))

    @property
    def public_pem(self) -> bytes:
        return self.key.public_key().public_bytes(
            serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
        )

    @property
    def key_hint(self) -> str:
        """How a bundle names the key: the hash of its DER form."""
        der = self.key.public_key().public_bytes(
            serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
        )
        return base64.b64encode(hashlib.sha256(der).digest()).decode()


def make_key() -> Signer:
    return Signer(ec.generate_private_key(ec.SECP256R1()))


def write_key(signer: Signer, password: str) -> bytes:
    """The private key as `cosign generate-key-pair` writes it."""
    from nacl.secret import SecretBox

    plain = signer.key.private_bytes(
        serialization.Encoding.DER, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    salt, nonce = secrets.token_bytes(32), secrets.token_bytes(24)
    box = SecretBox(_derive(password, salt, _SCRYPT))
    body = {
        "kdf": {"name": "scrypt", "params": _SCRYPT, "salt": _b64(salt)},
        "cipher": {"name": "nacl/secretbox", "nonce": _b64(nonce)},
        "ciphertext": _b64(box.encrypt(plain, nonce).ciphertext),
    }
    return _to_pem(_PEM_KINDS[0], json.dumps(body).encode())


def read_key(pem: bytes, password: str) -> Signer:
    """A private key of cosign's, or a plain PKCS8 one. Raises `BadInput` for a wrong password or another format."""
    hint = "Make one with `dev-tools release keygen`, or `cosign generate-key-pair`."
    try:
        if any(kind in pem for kind in _PEM_KINDS):
            key = serialization.load_der_private_key(_decrypt(json.loads(_from_pem(pem)), password), None)
        else:
            key = serialization.load_pem_private_key(pem, password.encode() or None)
    except (ValueError, TypeError, KeyError) as error:
        raise BadInput(f"The signing key cannot be read: {error or 'wrong password'}.", hint=hint) from None
    if not isinstance(key, ec.EllipticCurvePrivateKey):
        raise BadInput("The signing key is not an ECDSA key.", hint=hint)
    return Signer(key)


def verify(message: bytes, signature: bytes, public_pem: bytes) -> None:
    """Raises `Forbidden` unless the key signed the message."""
    key = serialization.load_pem_public_key(public_pem)
    if not isinstance(key, ec.EllipticCurvePublicKey):
        raise BadInput("The public key is not an ECDSA key.", hint="It is the file ending in .pub.")
    try:
        key.verify(signature, message, ec.ECDSA(hashes.SHA256()))
    except InvalidSignature:
        raise Forbidden(
            "The signature does not belong to this content and this key.", hint="Nothing was used."
        ) from None


def make_envelope(kind: str, payload: bytes, signer: Signer) -> dict[str, Any]:
    """A DSSE envelope: payload, its type, one signature over both."""
    signature = signer.sign(signed_bytes(kind, payload))
    return {
        "payloadType": kind,
        "payload": _b64(payload),
        "signatures": [{"keyid": "", "sig": _b64(signature)}],
    }


def open_envelope(envelope: Mapping[str, Any], public_pem: bytes) -> bytes:
    """The payload, once the signature holds. Raises `Forbidden`."""
    try:
        payload = base64.b64decode(envelope["payload"], validate=True)
        signature = base64.b64decode(envelope["signatures"][0]["sig"], validate=True)
        kind = str(envelope["payloadType"])
    except (ValueError, KeyError, TypeError, IndexError):
        raise Forbidden("This is no signed envelope.", hint="Nothing was used.") from None
    verify(signed_bytes(kind, payload), signature, public_pem)
    return payload


def signed_bytes(kind: str, payload: bytes) -> bytes:
    """DSSE's pre-authentication encoding (protocol v1.0.2)."""
    return b"DSSEv1 %d %s %d %s" % (len(kind), kind.encode(), len(payload), payload)


def simple_signing(repository: str, digest: str, git_sha: str) -> bytes:
    """What cosign signs for an image, with the commit bound in, so that an old image cannot pass for a new one."""
    body = {
        "critical": {
            "identity": {"docker-reference": repository},
            "image": {"docker-manifest-digest": digest},
            "type": "cosign container image signature",
        },
        "optional": {"git_sha": git_sha},
    }
    return json.dumps(body, separators=(",", ":")).encode()


def statement(repository: str, digest: str, predicate_type: str, predicate: Any) -> bytes:
    """An in-toto statement v1 about one image."""
    body = {
        "_type": "https://in-toto.io/Statement/v1",
        "subject": [{"name": repository, "digest": {"sha256": digest.removeprefix("sha256:")}}],
        "predicateType": predicate_type,
        "predicate": predicate,
    }
    return json.dumps(body, separators=(",", ":")).encode()


def make_bundle(envelope: Mapping[str, Any], signer: Signer) -> dict[str, Any]:
    """A Sigstore bundle v0.3 for a key of our own: no certificate, no transparency log."""
    signatures = [{"sig": entry["sig"]} for entry in envelope["signatures"]]
    return {
        "mediaType": "application/vnd.dev.sigstore.bundle.v0.3+json",
        "verificationMaterial": {"publicKey": {"hint": signer.key_hint}},
        "dsseEnvelope": {**envelope, "signatures": signatures},
    }


def _derive(password: str, salt: bytes, params: Mapping[str, int]) -> bytes:
    if params["N"] > _MAX_N:
        raise ValueError("its scrypt parameters are beyond all reason")
    return Scrypt(salt=salt, length=32, n=params["N"], r=params["r"], p=params["p"]).derive(password.encode())


def _decrypt(body: Mapping[str, Any], password: str) -> bytes:
    from nacl.exceptions import CryptoError
    from nacl.secret import SecretBox

    kdf, cipher = body["kdf"], body["cipher"]
    if (kdf["name"], cipher["name"]) != ("scrypt", "nacl/secretbox"):
        raise ValueError(f"{kdf['name']} with {cipher['name']} is not what cosign writes")
    box = SecretBox(_derive(password, base64.b64decode(kdf["salt"]), kdf["params"]))
    try:
        return box.decrypt(base64.b64decode(body["ciphertext"]), base64.b64decode(cipher["nonce"]))
    except CryptoError:
        raise ValueError("wrong password") from None


def _to_pem(kind: bytes, data: bytes) -> bytes:
    encoded = base64.b64encode(data)
    lines = b"\n".join(encoded[i : i + 64] for i in range(0, len(encoded), 64))
    return b"-----BEGIN %s-----\n%s\n-----END %s-----\n" % (kind, lines, kind)


def _from_pem(pem: bytes) -> bytes:
    lines = [line for line in pem.strip().splitlines() if not line.startswith(b"-----")]
    return base64.b64decode(b"".join(lines))


def _b64(data: bytes) -> str:
    return base64.b64encode(data).decode()
