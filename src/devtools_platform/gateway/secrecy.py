"""Secrets neither leave through a tool's arguments nor come back in its result."""

import re
from collections.abc import Iterable

import msgspec
from msgspec import Raw

from devtools_platform.core.redact import MASK, holds_secret, redact

MIN_LENGTH = 8
_ESCAPED = re.compile(rb"\\[u/]")


class Secrets:
    """The values this gateway knows (tokens it injects, its own keys) and every known shape of a secret."""

    def __init__(self, values: Iterable[str]) -> None:
        known = sorted({v for v in values if len(v) >= MIN_LENGTH}, key=len, reverse=True)
        self._pattern = re.compile("|".join(map(re.escape, known))) if known else None

    def are_in(self, text: bytes) -> bool:
        """Whether JSON holds a secret, however its characters are escaped."""
        plain = text.decode("utf-8", "replace")
        if _ESCAPED.search(text):
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


def redact_free(text: bytes) -> bool:
    """Whether the shape of a bearer header is absent too; it is no secret to refuse, but one to mask."""
    return b"earer" not in text and b"EARER" not in text
