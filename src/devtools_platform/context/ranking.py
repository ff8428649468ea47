"""From the engine's candidates to answers: signals of words, meaning and names, weighed together; then the budget.

Pure. The weights of `LEARNED` were fitted on docstring-to-function questions (`bench/context.py fit`), over
packages that no published figure is measured on; those of `GIVEN` were set by hand because such questions
cannot teach them: they never ask for a class, a module, a test or a path. Those of `class`, `module`, `path` and
`stem` were chosen on questions for files (`bench/context.py files`) over the same packages; those of `scope`,
`scope_stem` and `test` on subjects of commits: upstream's that five Debian packages carry as patches, and half of our
own; those of `alike` and `often` on the histories of seven GNU programs and our own (decision 114); those of
`first_type` and `first_verb` on docstrings of functions and classes of the first packages (decision 118). Each
answer says in `why` what raised it.
"""

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache
from typing import NamedTuple

from devtools_platform.context.first_words import Beginning, find_beginning
from devtools_platform.context.twins import take_apart
from devtools_platform.context.types import Candidate, Chunk
from devtools_platform.context.words import find_verb, first_stem, stems

LEARNED = {
    "text": 2.24,
    "text_root": 1.57,
    "dense": 3.63,
    "text_and_dense": 3.13,
    "name": -0.38,
    "name_and_dense": 1.2,
    "file": 0.3,
    "name_match": 2.3,
    "query_share": 0.63,
    "leaf_match": 0.62,
    "private": -0.3,
    "verb": 0.79,
}
"""What each signal, all of them between 0 and 1, adds to a score where there are vectors."""
WORDS_ONLY = {
    "text": 4.73,
    "text_root": 3.63,
    "name": 0.42,
    "file": 1.28,
    "name_match": 1.88,
    "query_share": 2.0,
    "leaf_match": 2.76,
    "private": -0.27,
}
"""The same where there are none."""
GIVEN = {
    "path": 1.2,
    "stem": 0.5,
    "symbol": 6.0,
    "mentioned": 1.0,
    "place": 4.0,
    "scope": 4.0,
    "scope_stem": 2.0,
    "test": -5.0,
    "legacy": -1.0,
    "module": -0.7,
    "class": -0.3,
    "first_type": 1.0,
    "first_verb": 0.4,
    "alike": 3.0,
    "often": 1.0,
}
REPEAT = 0.3
"""Times the square of how many better answers its file has, taken off an answer: several files say more than one file
several times, but the second place in a file is often the right one."""
CHARS_PER_TOKEN = 4

_IDENTIFIER = re.compile(r"[A-Za-z_][\w.]*")
_TEST_PATH = re.compile(r"(^|/)(tests?|testing|testsuite|__tests__|spec)(/|$)|(^|/)test_|[._](test|spec)\.\w+$")
_PLACE = re.compile(r"[\w.-]+(?:/[\w.-]+)+|[\w-]+\.\w+")
_SCOPE = re.compile(r"\s*(?:\w+\(([^)\n]+)\)!?|([^\s:,;.!?]+(?:[ ,]+[^\s:,;.!?]+){0,2})):\s")
_FUNCTIONS = frozenset({"function", "method"})
_TYPES = frozenset({"class", "struct", "interface", "trait", "enum", "type", "object"})
_LEGACY_PATH = re.compile(r"(^|/)(legacy|deprecated|compat|old|v[01]|examples?)(/|\.|$)")


@dataclass(frozen=True)
class Ranked:
    """A chunk with its final score and what it is made of."""

    chunk: Chunk
    score: float
    why: list[str]
    id: str = ""


@dataclass(frozen=True)
class Past:
    """What past commits say of a question, by path, between 0 and 1; of a file that is not there they say nothing."""

    alike: Mapping[str, float] = field(default_factory=dict[str, float])
    """How much commits that read like the question changed the file."""
    often: Mapping[str, float] = field(default_factory=dict[str, float])
    """How much it changes at all, and lately."""


NOTHING_PAST = Past()


def rank(
    query: str, candidates: Iterable[Candidate], limit: int | None = None, past: Past = NOTHING_PAST
) -> list[Ranked]:
    """The best `limit`, or all, best first. Scores are between 0 and 1 and compare only within one answer."""
    found = list(candidates)
    if not found:
        return []
    weights = (WORDS_ONLY if all(c.dense_score is None for c in found) else LEARNED) | GIVEN
    measured = measure(query, found, past)
    raw = [sum([weights.get(name, 0.0) * value for name, value in signals.items() if value]) for signals in measured]
    places = [(candidate.chunk.path, candidate.chunk.start_line) for candidate in found]
    best = _order(_spread_files(raw, places), places)[:limit]
    return [Ranked(found[i].chunk, _squash(score), _explain(found[i], measured[i]), found[i].id) for i, score in best]


def _squash(score: float) -> float:
    return 1 / (1 + math.exp(3 - score / 2))


_Place = tuple[str, int]
"""A chunk's path and first line, which decide between equals."""


def _order(scores: Sequence[float], places: Sequence[_Place]) -> list[tuple[int, float]]:
    """(index, score), best first."""
    return sorted(enumerate(scores), key=lambda item: (-item[1], *places[item[0]]))


def measure(query: str, found: Sequence[Candidate], past: Past = NOTHING_PAST) -> list[dict[str, float]]:
    """Every signal of every candidate."""
    text = _scale([c.text_score for c in found], floor=0.0)
    name = _scale([c.name_score for c in found], floor=0.0)
    known = [c.dense_score for c in found if c.dense_score is not None]
    floor = min(known, default=0.0)
    dense = _scale([floor if c.dense_score is None else c.dense_score for c in found], floor=floor)
    support = _support([c.chunk.path for c in found], text)
    asked = _Asked.of(query)
    compared = [asked.compare(candidate.chunk) for candidate in found]
    # Where most paths hold the scope, as `sed/` in sed's own repository, it tells nothing apart.
    rarity = 1 - sum(1 for one in compared if one["scope"]) / max(1, len(found))
    for one in compared:
        one["scope"] *= rarity
        one["scope_stem"] *= rarity
    return [
        {
            "text": text[i],
            "text_root": math.sqrt(text[i]),
            "dense": dense[i],
            "text_and_dense": text[i] * dense[i],
            "name": name[i],
            "name_and_dense": name[i] * dense[i],
            "file": support[i],
            "alike": past.alike.get(candidate.chunk.path, 0.0),
            "often": past.often.get(candidate.chunk.path, 0.0),
            **compared[i],
        }
        for i, candidate in enumerate(found)
    ]


def _scale(scores: list[float], *, floor: float) -> list[float]:
    width = max(scores) - floor
    return [(score - floor) / width if width > 0 else 0.0 for score in scores]


def _support(paths: list[str], text: list[float]) -> list[float]:
    """For each candidate the mean of the three best text scores of the others from its file."""
    of_file: dict[str, list[float]] = {}
    for path, score in zip(paths, text, strict=True):
        of_file.setdefault(path, []).append(score)
    best = {path: sorted(scores, reverse=True)[:4] for path, scores in of_file.items()}
    return [
        (sum(best[path][:3]) if score < best[path][-1] else sum(best[path]) - score) / 3
        for path, score in zip(paths, text, strict=True)
    ]


@dataclass(frozen=True)
class _Asked:
    """What of a query is compared with names and paths."""

    words: frozenset[str]
    verb: str
    """Its first word: what is asked often begins as the name of what does it."""
    beginning: Beginning | None
    """What is known of how it begins."""
    symbols: frozenset[str]
    is_symbol: bool
    """The whole query is one name."""
    wants_tests: bool
    places: tuple[str, ...]
    """What it names of the tree: `src/shop`, `shop/prices`, `prices.py`."""
    scope: frozenset[str]
    """The words before a colon that it begins with: `prices: round down` is about prices."""

    @classmethod
    def of(cls, query: str) -> "_Asked":
        identifiers = _IDENTIFIER.findall(query)
        whole = query.strip()
        is_symbol = len(identifiers) == 1 and identifiers[0] == whole
        symbols = identifiers if is_symbol else [name for name in identifiers if _is_symbol(name)]
        words = stems(query)
        lower = frozenset(symbol.lower().strip(".") for symbol in symbols)
        return cls(
            words,
            first_stem(query),
            None if is_symbol else find_beginning(query),
            lower,
            is_symbol,
            bool(words & {"test", "spec"}),
            _find_places(query),
            _find_scope(query),
        )

    def compare(self, chunk: Chunk) -> dict[str, float]:
        name, path = _Name.of(chunk.name), _Path.of(chunk.path)
        asked, begins = max(1, len(self.words)), self.beginning
        shared, in_stem = _count(name.words, self.words), _count(path.stem, self.scope)
        defines = bool(chunk.name) and not self.symbols.isdisjoint(name.forms)
        return {
            "name_match": _match(shared, len(name.words), asked),
            "query_share": shared / asked,
            "leaf_match": _match(_count(name.leaf, self.words), len(name.leaf), asked),
            "verb": float(bool(self.verb) and self.verb == name.verb and not (begins and begins.knows_verbs)),
            "private": name.private,
            "path": _count(path.words, self.words) / asked,
            "stem": _count(path.stem, self.words) / max(1, len(path.stem)),
            "symbol": float(defines and self.is_symbol),
            "mentioned": float(defines and not self.is_symbol),
            "test": path.test if not self.wants_tests else 0.0,
            "legacy": path.legacy,
            "place": float(bool(self.places) and any(_lies_at(chunk.path, place) for place in self.places)),
            "scope": _count(path.words, self.scope) / max(1, len(self.scope)),
            "scope_stem": in_stem / max(1, len(self.scope) + len(path.stem) - in_stem),
            "module": float(chunk.kind == "module"),
            "class": float(chunk.kind == "class" and not defines),
            "first_type": begins.for_type if begins and chunk.kind in _TYPES and not defines else 0.0,
            "first_verb": begins.for_verb(name.verb) if begins and chunk.kind in _FUNCTIONS else 0.0,
        }


def _count(known: tuple[str, ...], asked: frozenset[str]) -> int:
    """How many of some words, each there once, are asked for."""
    return sum(map(asked.__contains__, known))


class _Name(NamedTuple):
    """What of a chunk's name is compared with a query, whatever the query: taken apart once.

    Tuples of interned words: a set of five takes ten times as much, and thousands are kept.
    """

    forms: tuple[str, str]
    words: tuple[str, ...]
    leaf: tuple[str, ...]
    verb: str
    private: float

    @staticmethod
    @lru_cache(maxsize=20_000)
    def of(name: str) -> "_Name":
        apart = take_apart(name)
        words, leaf = tuple(stems(apart)), apart.rpartition(".")[2]
        return _Name(
            forms=(name.lower(), name.rpartition(".")[2].lower()),
            words=words,
            leaf=tuple(stems(leaf)) if leaf != apart else words,
            verb=find_verb(name),
            private=float(leaf.startswith("_") and not leaf.startswith("__")),
        )


class _Path(NamedTuple):
    """The same of its path."""

    words: tuple[str, ...]
    stem: tuple[str, ...]
    test: float
    legacy: float

    @staticmethod
    @lru_cache(maxsize=5_000)
    def of(path: str) -> "_Path":
        return _Path(
            words=tuple(stems(path)),
            stem=tuple(stems(_find_stem(path))),
            test=float(is_test_path(path)),
            legacy=float(bool(_LEGACY_PATH.search(path))),
        )


def _explain(candidate: Candidate, signals: dict[str, float]) -> list[str]:
    chunk = candidate.chunk
    why = ["text"] if candidate.text_score else []
    if signals["dense"] > 0.5:  # noqa: PLR2004 - the better half of what was found by meaning
        why.append("meaning")
    if signals["name_match"]:
        why.append(f"name {chunk.name}")
    if signals["symbol"] or signals["mentioned"]:
        why.append(f"defines {chunk.name.rpartition('.')[2]}")
    if signals["path"] or signals["place"] or signals["scope"]:
        why.append("path")
    if signals["alike"] > 0.5:  # noqa: PLR2004 - the better half of what past commits point at
        why.append("past commits")
    if signals["test"]:
        why.append("lowered: a test")
    if signals["legacy"]:
        why.append("lowered: old or an example")
    return why


def _match(shared: int, of_name: int, asked: int) -> float:
    """How well a name fits a question: a name of one word that a long question also uses says little."""
    return shared / max(1, of_name) * math.sqrt(shared / asked)


_SAYS_NOTHING = frozenset({"__init__", "index", "mod", "main", "lib"})


def _find_stem(path: str) -> str:
    """What a file is called: its name without an ending, or its folder's where the name is every file's."""
    *folders, name = path.split("/")
    stem = name.rpartition(".")[0] or name
    return folders[-1] if stem in _SAYS_NOTHING and folders else stem


def _find_places(query: str) -> tuple[str, ...]:
    return tuple(found.strip("./") for found in _PLACE.findall(query) if found.strip("./"))


def _find_scope(query: str) -> frozenset[str]:
    """Commits and tickets begin so, `fix(prices):` among them."""
    found = _SCOPE.match(query)
    return stems(found[1] or found[2]) if found else frozenset()


def _lies_at(path: str, place: str) -> bool:
    """Whether a path is, or is below, or without its ending is, what a question calls `place`."""
    whole, sought = f"/{path}", f"/{place}"
    return whole.endswith(sought) or f"{sought}/" in whole or whole.rpartition(".")[0].endswith(sought)


def _is_symbol(identifier: str) -> bool:
    inner = identifier.strip("._")
    return "_" in inner or "." in inner or not (inner.islower() or inner.istitle() or inner.isupper())


def is_test_path(path: str) -> bool:
    return bool(_TEST_PATH.search(path))


def _spread_files(scores: Sequence[float], places: Sequence[_Place]) -> list[float]:
    seen: dict[str, int] = {}
    spread = list(scores)
    for index, score in _order(scores, places):
        path = places[index][0]
        count = seen[path] = seen.get(path, -1) + 1
        spread[index] = score - REPEAT * count**2
    return spread


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
    return replace(item, chunk=shown, why=[*item.why, f"cut: goes on to line {chunk.end_line}"])
