"""Short-lived signed tokens by which an agent run is known at the gateway (JWT, HS256, one secret per stack)."""

import re
import time

import jwt

from devtools_platform.core.agents import NAME_PATTERN
from devtools_platform.core.errors import Unauthorized
from devtools_platform.core.tools import Caller

AUDIENCE = "dev-tools-gateway"
LIFETIME_S = 24 * 3600.0


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
    return jwt.encode(claims, secret, algorithm="HS256")


def is_run_token(token: str) -> bool:
    """Whether it is signed as ours are. Says nothing about whether it counts."""
    try:
        return jwt.get_unverified_header(token).get("alg") == "HS256"
    except jwt.InvalidTokenError:
        return False


def verify_run_token(secret: str, token: str) -> Caller:
    """Who the token names. Raises `Unauthorized` for one that is forged, expired or for another audience."""
    try:
        claims = jwt.decode(
            token,
            secret,
            algorithms=["HS256"],
            audience=AUDIENCE,
            options={"require": ["exp", "sub", "task"]},
        )
    except jwt.InvalidTokenError as error:
        raise Unauthorized(f"The gateway token is not valid: {error}.") from None
    # Which agents there are, the gateway's policy says: one it does not list may call nothing.
    if not re.fullmatch(NAME_PATTERN, str(claims["sub"])):
        raise Unauthorized(f"The gateway token names {claims['sub']!r}, which is no agent.")
    workspace = str(claims.get("workspace", ""))
    return Caller(claims["task"], claims["sub"], bool(claims.get("without_sandbox", False)), workspace=workspace)
