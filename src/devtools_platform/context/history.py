"""What past commits say of a question: which files those that read alike have changed, and which files change often.

Only subjects and paths are read, of source files that are no tests: every commit changes the changelog. On seven
histories and our own this finds the file that a commit will change more often than the words of the code alone do;
decision 114 has the figures, and the numbers below are from there.
"""

import asyncio
import logging
import math
import re
import sys
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from devtools_platform.context import git
from devtools_platform.context.manifest import Manifest
from devtools_platform.context.ranking import Past, is_test_path
from devtools_platform.context.words import stems
from devtools_platform.core.errors import DevToolsError

SOURCE = re.compile(r"\.(py|go|rs|[jt]sx?|rb|java|kt|swift|c|cc|cpp|h|hpp|cs|php|scala|sh)$")
MOST_COMMITS = 2_000
MOST_FILES = 30
"""A commit that changes more files says too little of each."""
MOST_ALIKE = 20
"""How many commits have a say, those that read most alike."""
MOST_WORDS = 60
"""A longer question is code, or a page of prose, and reads like every commit."""
HALF_LIFE = 100.0
"""Commits after which a change counts half in what changes often."""
EXTRA_WORDS = 5
"""Added to the words of a subject, else one of a single word would read most alike."""
READ_S = 20.0

log = logging.getLogger(__name__)


def is_source(path: str) -> bool:
    return SOURCE.search(path) is not None and not is_test_path(path)


@dataclass(frozen=True)
class _Said:
    """One commit, as far as it is asked about."""

    files: tuple[str, ...]
    share: float
    """Of each file in what the commit says: one over the root of how many it changed."""
    words: int


class History:
    """Of one repository, up to one commit."""

    def __init__(self, commits: Sequence[git.Commit], there: Iterable[str]) -> None:
        """`commits` oldest first; `there`: the files that are left of it."""
        known = {path: sys.intern(path) for path in there if is_source(path)}
        self._said: list[_Said] = []
        self._saying: defaultdict[str, list[int]] = defaultdict(list)
        often: defaultdict[str, float] = defaultdict(float)
        for age, commit in enumerate(reversed(commits)):
            files = tuple(known[path] for path in commit.files if path in known)
            if not files or len(commit.files) > MOST_FILES:
                continue
            words, share = stems(commit.subject), 1 / math.sqrt(len(commit.files))
            for word in words:
                self._saying[word].append(len(self._said))
            self._said.append(_Said(files, share, len(words)))
            for path in files:
                often[path] += share * 0.5 ** (age / HALF_LIFE)
        most = max(often.values(), default=1.0)
        self._often = {path: math.sqrt(value / most) for path, value in often.items()}

    def recall(self, question: str) -> Past:
        """What past commits say of it; nothing of a question that is too long to read like one."""
        words = stems(question)
        if len(words) > MOST_WORDS:
            return Past()
        alike: defaultdict[int, float] = defaultdict(float)
        for word in words:
            saying = self._saying.get(word, ())
            rarity = math.log(1 + (len(self._said) - len(saying) + 0.5) / (len(saying) + 0.5))
            for n in saying:
                alike[n] += rarity
        likeness = {n: value / math.sqrt(EXTRA_WORDS + self._said[n].words) for n, value in alike.items()}
        of_file: defaultdict[str, float] = defaultdict(float)
        for n in sorted(likeness, key=lambda n: (-likeness[n], n))[:MOST_ALIKE]:
            for path in self._said[n].files:
                of_file[path] += likeness[n] * self._said[n].share
        most = max(of_file.values(), default=1.0)
        return Past({path: value / most for path, value in of_file.items()}, self._often)


@dataclass
class Histories:
    """The histories of the collections of one service, each as of the commit its index is true of."""

    _read: dict[str, tuple[str, History]] = field(default_factory=dict[str, tuple[str, History]])
    _locks: defaultdict[str, asyncio.Lock] = field(default_factory=lambda: defaultdict(asyncio.Lock))

    async def recall(self, manifest: Manifest, question: str) -> Past:
        """What the past of a collection says of a question; nothing where there is no history to read."""
        history = await self.read(manifest)
        return history.recall(question) if history else Past()

    async def read(self, manifest: Manifest) -> History | None:
        """Read once a commit; None for documents, and for files that no repository has."""
        if manifest.commit is None:
            return None
        async with self._locks[manifest.collection]:
            held = self._read.get(manifest.collection)
            if held is None or held[0] != manifest.commit:
                commits = await _list_commits(manifest.repo, manifest.commit)
                held = manifest.commit, await asyncio.to_thread(History, commits, list(manifest.files))
                self._read[manifest.collection] = held
            return held[1]

    def forget(self, collection: str) -> None:
        self._read.pop(collection, None)


async def _list_commits(repo: Path, commit: str) -> Sequence[git.Commit]:
    try:
        async with asyncio.timeout(READ_S):
            return await git.list_commits(repo, commit, MOST_COMMITS)
    except (DevToolsError, TimeoutError) as error:
        log.warning("Search does without the history of %s: %s", repo, str(error) or f"more than {READ_S:.0f} s")
        return ()
