"""What the first words of a question say of its answer: a class or a function, and how a function's name begins.

"A pool of connections" asks for a class; "Return the total" for a function, `get_total` rather than `set_total`.
Counted over docstrings of Python packages that no figure is measured on (`bench/first_words.py`, decision 118).
"""

import gzip
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from devtools_platform.context.words import first_stems

COUNTS = Path(__file__).with_name("first_words.json.gz")
CLASS_SMOOTHING, VERB_SMOOTHING = 5, 30
"""So much of the usual mix is added to what was counted: what is rare says less."""
FOR_TYPE, FOR_VERB = (-5.0, 5.0), (-2.5, 1.0)
"""The least and the most that is said. How a name does not begin says more than how it does."""


@dataclass(frozen=True)
class Counted:
    """What docstrings that begin alike were of."""

    functions: int
    classes: int
    verbs: Mapping[str, int]
    """With what the names of the functions begin; empty where too few were seen."""

    def share_of_classes(self, usual: float) -> float:
        return (self.classes + CLASS_SMOOTHING * usual) / (self.functions + self.classes + CLASS_SMOOTHING)

    def share_of(self, verb: str, usual: float) -> float:
        return (self.verbs.get(verb, 0) + VERB_SMOOTHING * usual) / (self.functions + VERB_SMOOTHING)


@dataclass(frozen=True)
class Beginning:
    """Its answers are natural logarithms of ratios, cut where they would decide alone; 0 says nothing."""

    word: Counted
    words: Counted | None
    """Of the first two, where they were seen often enough together."""
    all: Counted

    @property
    def knows_verbs(self) -> bool:
        return bool(self.word.verbs)

    @property
    def for_type(self) -> float:
        """Of how many times likelier a class, or another type, is asked for than a function."""
        share = self.word.share_of_classes(self.all.classes / (self.all.functions + self.all.classes))
        if self.words:
            share = self.words.share_of_classes(share)
        return _limit(math.log(share / (1 - share)), *FOR_TYPE)

    def for_verb(self, verb: str) -> float:
        """Of how many times likelier than usual a function is asked for whose name begins so."""
        if not self.knows_verbs or verb not in self.all.verbs:
            return 0.0
        usual = self.all.verbs[verb] / self.all.functions
        share = self.word.share_of(verb, usual)
        if self.words and self.words.verbs:
            share = self.words.share_of(verb, share)
        return _limit(math.log(share / usual), *FOR_VERB)


def find_beginning(question: str) -> Beginning | None:
    """None for one that begins as too few docstrings do."""
    first, second = first_stems(question)
    known = _load()
    return Beginning(known[first], known.get(f"{first} {second}"), known[""]) if first in known and first else None


@cache
def _load() -> Mapping[str, Counted]:
    """By one or two words without their endings; under the empty text all that was counted."""
    return {words: Counted(*counted) for words, counted in json.loads(gzip.decompress(COUNTS.read_bytes())).items()}


def _limit(value: float, least: float, most: float) -> float:
    return max(least, min(most, value))
