"""What signing in at any provider shares: requests that are sent for us, PKCE, and answers that are no."""

import base64
import hashlib
import json
from collections.abc import Awaitable, Callable
from typing import Any, cast

import httpx2

from devtools_platform.core.errors import Forbidden, Unavailable

Fetch = Callable[[httpx2.Request], Awaitable[httpx2.Response]]
"""Sends one bounded request; raises `Unavailable` when nobody answers."""

MAX_GROUPS = 200
MAX_TEXT = 200


def read_json(answer: httpx2.Response, who: str) -> dict[str, Any]:
    """An answer's object. Raises `Forbidden` where the provider refused, `Unavailable` where it is out of order."""
    try:
        found: Any = json.loads(answer.content)
    except ValueError:
        found = None
    if answer.status_code in {400, 401, 403} and isinstance(found, dict):
        raise refused(f"{who} says {cast('dict[str, Any]', found).get('error', 'no')!r}"[:MAX_TEXT])
    if answer.status_code != 200 or not isinstance(found, dict):  # noqa: PLR2004 - HTTP's own number
        raise Unavailable(f"{who} answered HTTP {answer.status_code}.", hint="Try again; ask who runs it.")
    return cast("dict[str, Any]", found)


def challenge_of(verifier: str) -> str:
    """RFC 7636, S256."""
    return base64.urlsafe_b64encode(hashlib.sha256(verifier.encode()).digest()).decode().rstrip("=")


def refused(why: str) -> Forbidden:
    """The error for a sign-in that does not hold."""
    return Forbidden(f"The sign-in was not accepted: {why}.", hint="Begin again from the login page.")
