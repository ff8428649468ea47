"""Short-lived signed tokens by which an agent run is known at the gateway (JWT, HS256, one secret per stack).

HMAC and JSON of the standard library: a token of ours has one algorithm and is read by nobody else, and PyJWT brings
10 MB of public-key cryptography into every process that verifies one.
"""

import base64
import binascii
import hmac
import json
import re
import time
from collections.abc import Mapping
from typing import Any, cast

from devtools_platform.core.agents import NAME_PATTERN
from devtools_platform.core.errors import Unauthorized
from devtools_platform.core.tools import Caller

AUDIENCE = "dev-tools-gateway"
LIFETIME_S = 24 * 3600.0
MAX_TOKEN_BYTES = 8_192
_HEADER = {"alg": "HS256", "typ": "JWT"}


def issue_run_token(secret: str, caller: Caller) -> str:
    """A token that names one agent in one task, and nothing else."""
    claims = {
        "aud": AUDIENCE,
        "sub": caller.agent,
        "task": caller.task_id,
        "without_sandbox": caller.without_sandbox,
        **({"workspace": caller.workspace} if caller.workspace else {}),
        "exp": int(time.time() + LIFETIME_S),
    }
    signed = f"{_write(_HEADER)}.{_write(claims)}"
    return f"{signed}.{_signature(secret, signed)}"


def is_run_token(token: str) -> bool:
    """Whether it is signed as ours are. Says nothing about whether it counts."""
    return token.count(".") == 2 and _read(token.partition(".")[0]).get("alg") == "HS256"  # noqa: PLR2004


def verify_run_token(secret: str, token: str) -> Caller:
    """Who the token names. Raises `Unauthorized` for one that is forged, expired or for another audience."""
    signed, _, signature = token.rpartition(".")
    # What it says is looked at only after that: nothing in a forged token decides how it is verified.
    if len(token) > MAX_TOKEN_BYTES or not hmac.compare_digest(
        _signature(secret, signed).encode(), signature.encode("utf-8", "replace")
    ):
        raise _invalid("its signature is not this stack's")
    claims = _read(signed.rpartition(".")[2])
    if not is_run_token(token) or claims.get("aud") != AUDIENCE:
        raise _invalid("it was made for another audience")
    expires = claims.get("exp")
    if not isinstance(expires, int) or expires <= time.time():
        raise _invalid("it has expired")
    agent, task, workspace = claims.get("sub"), claims.get("task"), claims.get("workspace", "")
    if not (isinstance(agent, str) and isinstance(task, str) and isinstance(workspace, str)):
        raise _invalid("it lacks a claim")
    # Which agents there are, the gateway's policy says: one it does not list may call nothing.
    if not re.fullmatch(NAME_PATTERN, agent):
        raise Unauthorized(f"The gateway token names {agent!r}, which is no agent.")
    return Caller(task, agent, claims.get("without_sandbox") is True, workspace=workspace)


def _invalid(why: str) -> Unauthorized:
    return Unauthorized(f"The gateway token is not valid: {why}.")


def _signature(secret: str, signed: str) -> str:
    return _encode(hmac.digest(secret.encode(), signed.encode("utf-8", "replace"), "sha256"))


def _write(value: Mapping[str, Any]) -> str:
    return _encode(json.dumps(value, separators=(",", ":")).encode())


def _encode(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def _read(part: str) -> dict[str, Any]:
    """The object a part holds; an empty one for what holds none."""
    try:
        value: Any = json.loads(base64.urlsafe_b64decode(part + "=" * (-len(part) % 4)))
    except (binascii.Error, ValueError, RecursionError):
        return {}
    return cast("dict[str, Any]", value) if isinstance(value, dict) else {}
