"""Whether a webhook is from whom it says, decided over the raw bytes. Pure; every doubt is a no."""

import hashlib
import hmac
from collections.abc import Mapping, Sequence

WINDOW_S = 60.0
"""Linear: a body whose signed `webhookTimestamp` is further away than this is a replay."""


def sign(secret: str, body: bytes) -> str:
    """Hex HMAC-SHA256, as both services use it."""
    return hmac.new(secret.encode(), body, hashlib.sha256).hexdigest()


def is_from_github(secrets: Sequence[str], body: bytes, header: str) -> bool:
    """`header` is X-Hub-Signature-256: `sha256=` and the hex digest. Several secrets count while one is rotated."""
    kind, _, given = header.partition("=")
    return kind == "sha256" and _is_any(secrets, body, given)


def is_from_linear(secrets: Sequence[str], body: bytes, header: str) -> bool:
    """`header` is Linear-Signature: the hex digest alone."""
    return _is_any(secrets, body, header)


def is_fresh(payload: Mapping[str, object], now: float) -> bool:
    """Whether Linear's signed time (milliseconds since 1970) is near `now` (seconds). Its header is not signed."""
    at = payload.get("webhookTimestamp")
    return isinstance(at, (int, float)) and not isinstance(at, bool) and abs(now - at / 1000) <= WINDOW_S


def digest(body: bytes) -> str:
    """What a body is known by."""
    return hashlib.sha256(body).hexdigest()


def _is_any(secrets: Sequence[str], body: bytes, given: str) -> bool:
    # All are tried: which one fits must not show in the time it takes. An empty secret would sign for everybody.
    found = [hmac.compare_digest(sign(secret, body).encode(), given.encode()) for secret in secrets if secret]
    return any(found)
