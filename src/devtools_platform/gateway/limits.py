"""How often a caller may call: a token bucket per caller and tool, in memory, forgotten when it is full again."""

import time
from dataclasses import dataclass

MAX_BUCKETS = 20_000


@dataclass(slots=True)
class _Bucket:
    left: float
    at: float


class RateLimits:
    def __init__(self) -> None:
        self._buckets: dict[tuple[str, str], _Bucket] = {}

    def wait_s(self, who: str, what: str, per_minute: int) -> float:
        """Take one call. 0 when it may go ahead, otherwise the seconds until it may."""
        now = time.monotonic()
        bucket = self._buckets.get((who, what))
        if bucket is None:
            if len(self._buckets) >= MAX_BUCKETS:
                self._forget(now)
            bucket = self._buckets[who, what] = _Bucket(float(per_minute), now)
        rate = per_minute / 60
        bucket.left = min(float(per_minute), bucket.left + (now - bucket.at) * rate)
        bucket.at = now
        if bucket.left < 1:
            return (1 - bucket.left) / rate
        bucket.left -= 1
        return 0.0

    def _forget(self, now: float) -> None:
        """A bucket untouched for a minute is full again, whatever its size."""
        old = [key for key, bucket in self._buckets.items() if now - bucket.at > 60]  # noqa: PLR2004 - a minute
        for key in old or list(self._buckets)[: MAX_BUCKETS // 10]:
            del self._buckets[key]
