"""Run tokens: JSON Web Tokens as everybody makes them, and no others than this stack's."""

import time
from typing import Any

import jwt
import pytest

from devtools_platform.core.errors import Unauthorized
from devtools_platform.core.tools import Caller
from devtools_platform.kit.tokens import AUDIENCE, is_run_token, issue_run_token, verify_run_token

SECRET = "0123456789abcdef" * 4
CALLER = Caller("t1", "cicd", True, workspace="w1")
CLAIMS: dict[str, Any] = {"aud": AUDIENCE, "sub": "cicd", "task": "t1", "exp": int(time.time()) + 86_400}
"""Good for a day: all files are read first, and this one's turn may come half an hour later."""


def signed(claims: dict[str, Any], secret: str = SECRET, algorithm: str = "HS256") -> str:
    return jwt.encode(CLAIMS | claims, secret, algorithm=algorithm)


def test_a_token_names_its_caller() -> None:
    assert verify_run_token(SECRET, issue_run_token(SECRET, CALLER)) == CALLER


def test_it_is_a_json_web_token_as_others_read_and_write_them() -> None:
    claims = jwt.decode(issue_run_token(SECRET, CALLER), SECRET, algorithms=["HS256"], audience=AUDIENCE)
    assert (claims["sub"], claims["task"], claims["workspace"]) == ("cicd", "t1", "w1")
    assert verify_run_token(SECRET, signed({})) == Caller("t1", "cicd")


@pytest.mark.parametrize(
    ("token", "why"),
    [
        ("", "signature"),
        ("a.b", "signature"),
        ("\udcff.\udcff.\udcff", "signature"),
        (signed({}, "another-secret-another-secret-32"), "signature"),
        (signed({}, algorithm="HS512"), "signature"),
        (jwt.encode(CLAIMS, "", algorithm="none"), "signature"),
        (signed({})[:-1], "signature"),
        (signed({}) + "=", "signature"),
        (signed({"task": "x" * 8_192}), "signature"),
        (signed({"aud": "another"}), "audience"),
        (signed({"aud": [AUDIENCE]}), "audience"),
        (signed({"exp": int(time.time()) - 1}), "expired"),
        (signed({"exp": None}), "expired"),
        (signed({"task": None}), "lacks a claim"),
        (signed({"sub": "No Agent"}), "no agent"),
    ],
)
def test_any_other_is_refused(token: str, why: str) -> None:
    with pytest.raises(Unauthorized, match=why):
        verify_run_token(SECRET, token)


def test_a_changed_claim_is_seen() -> None:
    head, _, signature = signed({}).split(".")
    other = signed({"sub": "orchestrator"}).split(".")[1]
    with pytest.raises(Unauthorized, match="signature"):
        verify_run_token(SECRET, f"{head}.{other}.{signature}")


def test_whose_kind_a_token_is_shows_without_the_secret() -> None:
    assert is_run_token(signed({}, "any-other-secret-any-other-secret"))
    assert not any(map(is_run_token, ("", "a.b.c", "dtg_x", "e30.e30.e30", signed({}, algorithm="HS512"))))
