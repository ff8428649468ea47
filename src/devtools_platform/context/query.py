"""What is asked of a vector engine, in words of no engine: each adapter translates these few values.

`gather` is the whole conversation of one search, without the talking: it yields questions, is sent their
answers and returns candidates. So the embedded engine and a server are asked the same, and rank the same.
"""

import hashlib
import math
import uuid
from collections.abc import Generator, Sequence
from dataclasses import dataclass, replace
from typing import Any

from devtools_platform.context.twins import list_hidden_words

DENSE, TEXT, NAME = "dense", "text", "name"
"""The vectors of a point: meaning, header and code, names defined."""

Words = tuple[list[int], list[float]]
"""A sparse vector: token ids and their weights."""


@dataclass(frozen=True)
class Where:
    """Which points. Everything that is set must hold."""

    collection: str | None = None
    blobs: Sequence[str] | None = None
    ids: Sequence[str] | None = None
    lacks: str | None = None
    """Only points without this vector."""


@dataclass(frozen=True)
class Nearest:
    """The `limit` points nearest to a vector. Words are as rare as they are in the whole collection."""

    field: str
    vector: Words | list[int]
    limit: int
    where: Where


@dataclass(frozen=True)
class Scored:
    """A point that answers. A dense score is a cosine."""

    id: str
    score: float


@dataclass(frozen=True)
class Search:
    """One search: the question's words, its vector where there is one, and where to look."""

    words: Words
    vector: list[int] | None
    limit: int
    where: Where


Found = dict[str, dict[str, Any]]
"""By point id: its `text`, `name` and `dense` scores."""


def gather(search: Search) -> Generator[list[Nearest], list[list[Scored]], Found]:
    """The best of each field, then the scores that the best of one field have in the others."""
    limits = {TEXT: search.limit, NAME: search.limit // 2}
    asked = [Nearest(field, search.words, limit, search.where) for field, limit in limits.items() if search.words[0]]
    if search.vector is not None:
        asked.append(Nearest(DENSE, search.vector, search.limit, search.where))
    found: Found = {}
    if asked:
        _note(found, asked, (yield asked))
    missing = [more for question in asked if question.field != NAME and (more := _complete(question, found))]
    if missing:
        _note(found, missing, (yield missing))
    return found


def _note(found: Found, asked: list[Nearest], answers: list[list[Scored]]) -> None:
    for question, points in zip(asked, answers, strict=True):
        for point in points:
            found.setdefault(point.id, {TEXT: 0.0, NAME: 0.0, DENSE: None})[question.field] = point.score


def _complete(question: Nearest, found: Found) -> Nearest | None:
    ids = [id_ for id_, candidate in found.items() if not candidate[question.field]]
    return replace(question, limit=len(ids), where=replace(question.where, blobs=None, ids=ids)) if ids else None


AVERAGE_TOKENS = 90.0
"""BM25's mean document length; the chunks of four packages, headers included, measure 60 to 108 words."""


def make_point_id(collection: str, blob: str, ordinal: int) -> str:
    """By content, so a request repeated after a crash overwrites and never doubles."""
    name = f"{collection}:{blob}:{ordinal}".encode()
    return str(uuid.UUID(bytes=hashlib.blake2b(name, digest_size=16).digest()))


def make_texts(header: str, text: str, name: str) -> dict[str, str]:
    """What the words of a point are taken from. Twice the header: names and path weigh double against the body."""
    hidden = list_hidden_words(name)
    header, name = f"{header} {hidden}".rstrip(), f"{name} {hidden}".rstrip()
    return {TEXT: f"{header}\n{header}\n{text}", NAME: name}


def quantise(vector: Sequence[float]) -> list[int]:
    """A unit vector in bytes: a quarter of the memory, distances all but the same."""
    scale = _scale(len(vector))
    return [min(255, max(0, round(128 + scale * value))) for value in vector]


def cosine_of(distance: float, size: int) -> float:
    """The cosine of two unit vectors from the Euclidean distance of their bytes."""
    return 1 - distance**2 / (2 * _scale(size) ** 2)


def _scale(size: int) -> float:
    """Six standard deviations of a random unit vector's component fill the byte."""
    return 127 * math.sqrt(size) / 6
