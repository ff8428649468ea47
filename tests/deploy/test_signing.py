import base64
import json

import pytest

from devtools_platform.core.errors import BadInput, Forbidden
from devtools_platform.deploy import signing


def test_a_key_file_opens_with_its_password_only() -> None:
    pytest.importorskip("nacl", reason="extra `deploy` is not installed")
    signer = signing.make_key()
    pem = signing.write_key(signer, "correct horse")

    assert pem.startswith(b"-----BEGIN ENCRYPTED SIGSTORE PRIVATE KEY-----")
    assert signing.read_key(pem, "correct horse").public_pem == signer.public_pem
    with pytest.raises(BadInput, match="wrong password"):
        signing.read_key(pem, "wrong")


def test_what_is_no_key_is_refused_with_the_next_command() -> None:
    with pytest.raises(BadInput) as error:
        signing.read_key(b"hello", "")
    assert "keygen" in error.value.hint


def test_a_key_file_that_would_eat_all_memory_is_refused() -> None:
    pytest.importorskip("nacl", reason="extra `deploy` is not installed")
    body = {
        "kdf": {"name": "scrypt", "params": {"N": 1 << 30, "r": 8, "p": 1}, "salt": ""},
        "cipher": {"name": "nacl/secretbox", "nonce": ""},
        "ciphertext": "",
    }
    encoded = base64.b64encode(json.dumps(body).encode()).decode()
    kind = "ENCRYPTED SIGSTORE PRIVATE KEY"
    with pytest.raises(BadInput, match="beyond all reason"):
        signing.read_key(f"-----BEGIN {kind}-----\n{encoded}\n-----END {kind}-----\n".encode(), "x")


def test_an_envelope_gives_its_payload_only_unchanged_and_under_its_key() -> None:
    signer = signing.make_key()
    envelope = signing.make_envelope("text/plain", b"release 7", signer)
    assert signing.open_envelope(envelope, signer.public_pem) == b"release 7"

    bent = {**envelope, "payload": base64.b64encode(b"release 8").decode()}
    for wrong in (bent, {**envelope, "payloadType": "text/html"}, {**envelope, "signatures": []}, {}):
        with pytest.raises(Forbidden):
            signing.open_envelope(wrong, signer.public_pem)
    with pytest.raises(Forbidden):
        signing.open_envelope(envelope, signing.make_key().public_pem)


def test_dsse_signs_type_and_payload_as_its_specification_shows() -> None:
    """The example of the DSSE protocol, v1.0.2."""
    message = signing.signed_bytes("http://example.com/HelloWorld", b"hello world")

    assert message == b"DSSEv1 29 http://example.com/HelloWorld 11 hello world"
