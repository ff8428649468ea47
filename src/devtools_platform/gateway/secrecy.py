"""Secrets neither leave through a tool's arguments nor come back in its result."""

import re
from collections import deque
from collections.abc import Iterable

import msgspec
from msgspec import Raw

from devtools_platform.core.redact import MASK, holds_secret, redact, redact_text

MIN_LENGTH = 8
MAX_LEARNED = 16
_ESCAPED = re.compile(rb"\\[u/]")


class Secrets:
    """The values this gateway knows (tokens it injects, its own keys) and every known shape of a secret."""

    def __init__(self, values: Iterable[str]) -> None:
        self._fixed = set(values)
        self._learned: dict[str, deque[str]] = {}
        self._pattern = _pattern_of(self._fixed)

    def learn(self, owner: str, values: Iterable[str]) -> None:
        """Values that come and go, such as tokens; of each owner the latest are remembered."""
        kept = self._learned.setdefault(owner, deque(maxlen=MAX_LEARNED))
        if new := [value for value in values if value not in kept]:
            kept.extend(new)
            self._pattern = _pattern_of(self._fixed.union(*self._learned.values()))

    def mask(self, text: str) -> str:
        """Text that people and models may see."""
        return self.mask_values(redact_text(text))

    def mask_values(self, text: str) -> str:
        """For a text whose known shapes are masked already: that costs more than this."""
        return self._pattern.sub(MASK, text) if self._pattern is not None else text

    def are_in(self, text: bytes) -> bool:
        """Whether JSON holds a secret, however its characters are escaped."""
        plain = text.decode("utf-8", "replace")
        if b"\\" in text and _ESCAPED.search(text):
            plain = msgspec.json.encode(msgspec.json.decode(text)).decode() if text else ""
        return holds_secret(plain) or bool(self._pattern and self._pattern.search(plain))

    def redact(self, result: Raw) -> Raw:
        """A result with every secret replaced; the same bytes when there is none, which is nearly always."""
        text = bytes(result)
        if not self.are_in(text) and redact_free(text):
            return result
        value = redact(msgspec.json.decode(text))
        clean = msgspec.json.encode(value)
        if self._pattern is not None:
            clean = self._pattern.sub(MASK, clean.decode()).encode()
        return Raw(clean)


def _pattern_of(values: Iterable[str]) -> re.Pattern[str] | None:
    known = sorted({v for v in values if len(v) >= MIN_LENGTH}, key=len, reverse=True)
    return re.compile("|".join(map(re.escape, known))) if known else None


def redact_free(text: bytes) -> bool:
    """Whether the shape of a bearer header is absent too; it is no secret to refuse, but one to mask."""
    return b"earer" not in text and b"EARER" not in text
