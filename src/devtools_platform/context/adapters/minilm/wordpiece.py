"""BERT's uncased WordPiece tokenizer: the vocabulary file beside it and the two rules it was made with.

Written here because the library that does it comes with a client for a model hub and its dependencies. The
vocabulary is that of `bert-base-uncased` (Apache-2.0), which all-MiniLM-L6-v2 uses unchanged.
"""

import gzip
import unicodedata
from collections.abc import Iterator
from functools import lru_cache
from importlib import resources

UNKNOWN, FIRST, LAST = 100, 101, 102
"""Ids of `[UNK]`, `[CLS]` and `[SEP]`."""
MAX_WORD_CHARS = 100


def encode(text: str, max_tokens: int) -> list[int]:
    """Token ids of `text` between the first and the last token, at most `max_tokens` together."""
    ids = [FIRST]
    for word in _split(text):
        ids.extend(_pieces(word))
        if len(ids) >= max_tokens:
            break
    return [*ids[: max_tokens - 1], LAST]


@lru_cache
def _vocabulary() -> dict[str, int]:
    packed = (resources.files("devtools_platform.context.adapters.minilm") / "vocab.txt.gz").read_bytes()
    return {word: number for number, word in enumerate(gzip.decompress(packed).decode().split("\n"))}


@lru_cache(maxsize=50_000)
def _pieces(word: str) -> tuple[int, ...]:
    """The longest known pieces, from left to right; one unknown token where that fails."""
    known = _vocabulary()
    if len(word) > MAX_WORD_CHARS:
        return (UNKNOWN,)
    pieces: list[int] = []
    start = 0
    while start < len(word):
        prefix = "##" if start else ""
        end = next((end for end in range(len(word), start, -1) if prefix + word[start:end] in known), None)
        if end is None:
            return (UNKNOWN,)
        pieces.append(known[prefix + word[start:end]])
        start = end
    return tuple(pieces)


def _split(text: str) -> Iterator[str]:
    """Words without accents in lower case; each punctuation mark and each ideograph alone."""
    word: list[str] = []
    for char in unicodedata.normalize("NFD", text.lower()):
        category = unicodedata.category(char)
        if category == "Mn" or (category[0] == "C" and char not in "\t\n\r"):
            continue
        stands_alone = category[0] == "P" or (char.isascii() and not char.isalnum()) or _is_ideograph(char)
        if not char.isspace() and not stands_alone:
            word.append(char)
            continue
        if word:
            yield "".join(word)
            word = []
        if not char.isspace():
            yield char
    if word:
        yield "".join(word)


def _is_ideograph(char: str) -> bool:
    return char >= "\u3400" and unicodedata.name(char, "").startswith("CJK ")
