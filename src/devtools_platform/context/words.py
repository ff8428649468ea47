"""Words of code and prose: taken apart, without their endings, without those that say nothing. Pure."""

import re
import sys

from devtools_platform.context.twins import take_apart

_PARTS = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+|\d+")
_STOP_WORDS = frozenset(
    "a an the of to in for and or is are be by with from as on at it its this that if not".split()  # noqa: SIM905 - a list of words
)
_BEGINNING = 100
"""Characters in which to look for a text's first words."""
_ENDINGS = ("ing", "ed", "es", "s", "e")


def split_words(text: str) -> set[str]:
    """The words of identifiers and prose alike, lower case: `getHTTPHeader` is get, http, header."""
    return {part.lower() for part in _PARTS.findall(text)}


def share_of_words(query: str, text: str) -> float:
    """How many of a query's words a text holds, in whatever form; 0 for a query without words."""
    words = stems(query)
    return len(words & stems(text)) / len(words) if words else 0.0


def stems(text: str) -> frozenset[str]:
    """The words of a text without their endings and without those that say nothing."""
    return frozenset(_stem(word) for word in split_words(text)) - _STOP_WORDS


def first_stem(text: str) -> str:
    """Of its first word; empty for a text without any."""
    first = _PARTS.search(text)
    return _stem(first[0].lower()) if first else ""


def first_stems(text: str) -> tuple[str, str]:
    """Of its first word, and of the next that says something; empty where there is none."""
    first, *others = [_stem(word.lower()) for word in _PARTS.findall(text[:_BEGINNING])] or [""]
    return first, next((word for word in others if word not in _STOP_WORDS), "")


def find_verb(name: str) -> str:
    """What the last part of a name begins with: `get` for `Order._get_total`."""
    return first_stem(take_apart(name).rpartition(".")[2].lstrip("_").removeprefix("async_"))


def _stem(word: str) -> str:
    for ending in _ENDINGS:
        if word.endswith(ending) and len(word) - len(ending) > 2:  # noqa: PLR2004 - "use" and "bus" stay
            return sys.intern(word[: -len(ending)])
    return sys.intern(word)
