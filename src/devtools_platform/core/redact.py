"""Secrets leave no trace: one redactor for logs, events, tool results, spans and errors."""

import re
from bisect import bisect_left
from collections.abc import Mapping
from typing import Any

MASK = "***"

# Shapes published by their issuers; kept specific so that ordinary code survives unchanged. Each begins at a word
# boundary and is bounded: a flood of one letter must cost time in proportion to its length, not to its square.
_SHAPES = re.compile(
    r"""
    \b(?: gh[pousr]_[A-Za-z0-9]{36,255}                 # GitHub tokens
  | github_pat_[A-Za-z0-9_]{22,255}               # GitHub fine-grained tokens
  | do[opr]_v1_[a-f0-9]{64}                       # DigitalOcean tokens
  | sk-do-[A-Za-z0-9_-]{16,}                      # DigitalOcean model access keys
  | sk-lf-[a-f0-9-]{36}                           # Langfuse secret keys
  | sk-(?:ant-|proj-)?[A-Za-z0-9_-]{20,}          # OpenAI and Anthropic keys
  | lin_(?:api|oauth)_[A-Za-z0-9]{32,}            # Linear keys
  | AKIA[0-9A-Z]{16}                              # AWS access key ids
  | xox[abprs]-[A-Za-z0-9-]{10,}                  # Slack tokens
  | eyJ[A-Za-z0-9_-]{10,4000}\.eyJ[A-Za-z0-9_-]{10,4000}\.[A-Za-z0-9_-]{10,4000} )   # JSON Web Tokens
  | -----BEGIN\ [A-Z ]*PRIVATE\ KEY-----[\s\S]*?(?:-----END\ [A-Z ]*PRIVATE\ KEY-----|\Z)
    """,
    re.VERBOSE,
)
_URL_PASSWORD = re.compile(r"(?P<head>\b[a-z][a-z0-9+.-]{0,30}://[^\s:/@]{0,200}:)[^\s@/]{1,500}(?=@)", re.IGNORECASE)
_BEARER = re.compile(r"(?P<head>\bbearer\s+)[A-Za-z0-9._~+/=-]{12,}", re.IGNORECASE)


def redact_text(text: str) -> str:
    """`text` with every known shape of secret replaced by `***`."""
    text = _SHAPES.sub(MASK, text)
    text = _URL_PASSWORD.sub(rf"\g<head>{MASK}", text)
    return _BEARER.sub(rf"\g<head>{MASK}", text)


def redact(value: Any) -> Any:
    """The same for anything made of mappings, sequences and strings."""
    if isinstance(value, str):
        return redact_text(value)
    if isinstance(value, Mapping):
        return {key: redact(item) for key, item in value.items()}  # pyright: ignore[reportUnknownVariableType]
    if isinstance(value, (list, tuple)):
        return [redact(item) for item in value]  # pyright: ignore[reportUnknownVariableType]
    return value


_STARTS = (
    (
        "_",
        (
            *("ghp_", "gho_", "ghu_", "ghs_", "ghr_", "github_pat_", "doo_v1_", "dop_v1_", "dor_v1_", "lin_api_"),
            "lin_oauth_",
        ),
    ),
    ("-", ("sk-", "xoxa-", "xoxb-", "xoxp-", "xoxr-", "xoxs-", "-----BEGIN")),
    ("AKIA", ("AKIA",)),
    ("eyJ", ("eyJ",)),
)
"""Every shape above begins with one of these, by what to look for first: that costs a hundredth of the search."""
_AFTER_SCHEME = re.compile(r"://[^\s:/@]{0,200}:[^\s@/]{1,500}@")


def holds_secret(text: str) -> bool:
    """Whether `text` has any known shape of secret, as fast as that can be said."""
    for sign, starts in _STARTS:
        if sign in text and _has_any(text, starts):
            if _SHAPES.search(text) is not None:
                return True
            break
    at = text.find("://")
    while at >= 0:
        if _AFTER_SCHEME.match(text, at) and _URL_PASSWORD.search(text, max(0, at - 40), at + 800):
            return True
        at = text.find("://", at + 3)
    return False


def _has_any(text: str, starts: tuple[str, ...]) -> bool:
    for start in starts:  # noqa: SIM110 - `any` makes a generator, for twice the time
        if start in text:
            return True
    return False


def find_secrets(text: str) -> list[tuple[int, str]]:
    """(line number from 1, what it looks like) for every secret shape in `text`."""
    found = [(match.start(), match.group()[:6] + "…") for match in _SHAPES.finditer(text)]
    found += [(match.start(), "password in a URL") for match in _URL_PASSWORD.finditer(text)]
    ends = [match.start() for match in re.finditer("\n", text)]
    return [(bisect_left(ends, start) + 1, shape) for start, shape in sorted(found)]
