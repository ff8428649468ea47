"""From the engine's candidates to answers: code-aware signals on top of BM25, then the caller's budget.

Pure. The weights were chosen on docstring-to-function queries over five packages; each signal says itself in
`why`, so that a reader can tell a match in a name from a match in prose.
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass, replace

from devtools_platform.context.types import Candidate, Chunk

NAME_WEIGHT = 0.8
"""A name counts as far as its text does: short names share a word with every other question."""
SYMBOL_WEIGHT = 1.0
PATH_WEIGHT = 0.2
TEST_FACTOR = 0.6
REPEAT_FACTOR = 0.95
"""For each better answer from the same file: several files say more than one file several times."""
CHARS_PER_TOKEN = 4

_PARTS = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+|\d+")
_IDENTIFIER = re.compile(r"[A-Za-z_][\w.]*")
_TEST_PATH = re.compile(r"(^|/)(tests?|testing|__tests__|spec)(/|$)|(^|/)test_|[._](test|spec)\.\w+$")


@dataclass(frozen=True)
class Ranked:
    """A chunk with its final score and what it is made of."""

    chunk: Chunk
    score: float
    why: list[str]


def rank(query: str, candidates: Iterable[Candidate]) -> list[Ranked]:
    """Best first."""
    found = list(candidates)
    best_text = max((c.text_score for c in found), default=0.0) or 1.0
    best_name = max((c.name_score for c in found), default=0.0) or 1.0
    scored = [_score(query, c, c.text_score / best_text, c.name_score / best_name) for c in found]
    return _spread_files(sorted(scored, key=_order))


def _order(ranked: Ranked) -> tuple[float, str, int]:
    return -ranked.score, ranked.chunk.path, ranked.chunk.start_line


def _score(query: str, candidate: Candidate, text: float, name: float) -> Ranked:
    chunk = candidate.chunk
    why: list[str] = []
    score = text + NAME_WEIGHT * name * text
    if text:
        why.append("text")
    if name:
        why.append(f"name {chunk.name}")
    if symbol := _find_symbol(query, chunk.name):
        score += SYMBOL_WEIGHT
        why.append(f"defines {symbol}")
    words = split_words(query)
    if shared := words & split_words(chunk.path):
        score += PATH_WEIGHT * len(shared) / len(words)
        why.append(f"path {' '.join(sorted(shared))}")
    if _TEST_PATH.search(chunk.path) and not words & {"test", "tests", "spec"}:
        score *= TEST_FACTOR
        why.append("lowered: a test")
    return Ranked(chunk, score, why)


def _find_symbol(query: str, name: str) -> str | None:
    """The identifier in `query` that names this definition. A plain word counts only as the whole query."""
    if not name:
        return None
    full, last = name.lower(), name.lower().rpartition(".")[2]
    for identifier in _IDENTIFIER.findall(query):
        if identifier.lower() in {full, last} and (_is_symbol(identifier) or identifier == query.strip()):
            return identifier
    return None


def _is_symbol(identifier: str) -> bool:
    return "_" in identifier or "." in identifier or not (identifier.islower() or identifier.istitle())


def split_words(text: str) -> set[str]:
    """The words of identifiers and prose alike, lower case: `getHTTPHeader` is get, http, header."""
    return {part.lower() for part in _PARTS.findall(text)}


def _spread_files(ranked: list[Ranked]) -> list[Ranked]:
    seen: dict[str, int] = {}
    spread: list[Ranked] = []
    for item in ranked:
        count = seen[item.chunk.path] = seen.get(item.chunk.path, -1) + 1
        spread.append(replace(item, score=item.score * REPEAT_FACTOR**count))
    return sorted(spread, key=_order)


def fit(ranked: Iterable[Ranked], *, limit: int, token_budget: int) -> list[Ranked]:
    """The first `limit` whose text fits the budget; the one that crosses it is cut at a line and says so."""
    left = token_budget * CHARS_PER_TOKEN
    fitted: list[Ranked] = []
    for item in ranked:
        if len(fitted) == limit or left <= 0:
            break
        cut = _cut(item, left)
        left -= len(item.chunk.text)
        if cut:
            fitted.append(cut)
    return fitted


def _cut(item: Ranked, chars: int) -> Ranked | None:
    chunk = item.chunk
    if len(chunk.text) <= chars:
        return item
    lines = chunk.text[: chars + 1].split("\n")[:-1]
    if not lines:
        return None
    shown = replace(chunk, text="\n".join(lines), end_line=chunk.start_line + len(lines) - 1)
    return Ranked(shown, item.score, [*item.why, f"cut: goes on to line {chunk.end_line}"])
