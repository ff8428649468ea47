"""How often search finds the files a commit changed, by the commit's subject: a measure any history gives for free.

The index is of the tree before the first of those commits, so nothing that is asked about has happened yet.
Read from the object store alone, as everything here: no filters, hooks or programs of a repository run.
"""

import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from devtools_platform.context import git
from devtools_platform.context.chunking import find_skipped_path
from devtools_platform.context.history import SOURCE, is_source
from devtools_platform.context.indexer import index_commit
from devtools_platform.context.interfaces import ChunkEngine, Progress
from devtools_platform.context.manifest import ManifestStore
from devtools_platform.context.service import ContextService
from devtools_platform.core.errors import BadInput

COLLECTION = "bench"
MOST_FILES = 3
"""A commit that changes more files says too little of each."""
TOPS = (1, 5, 10)
_HITS = 50
_TOKENS = 50_000


@dataclass(frozen=True)
class Question:
    """A commit's subject, and the source files it changed that were there before."""

    subject: str
    files: frozenset[str]


@dataclass(frozen=True)
class Localisation:
    """What came of asking. Accuracies are shares of the questions; None where nothing could be asked."""

    start: str
    """The commit whose tree was searched."""
    files: int
    questions: int
    accuracy: dict[int, float | None]
    """By how many files are looked at: how often one of the changed files is among them."""


async def read_questions(repo: Path, back: int) -> tuple[str, list[Question]]:
    """The commit before the last `back` ones (merges left out), and the questions they give.

    Raises `NotARepository`, and `BadInput` for a history that is too short to ask about.
    """
    head = await git.find_head(repo)
    commits = await git.list_commits(repo, head, back)
    if len(commits) < 2:  # noqa: PLR2004 - one to start from and one to ask about
        raise BadInput(f"{str(repo)!r} has only {len(commits)} commits.", hint="Give a repository with a history.")
    start, asked = commits[0].id, commits[1:]
    there = {entry.path for entry in await git.list_tree(repo, start) if is_asked_about(entry)}
    questions = [Question(c.subject, frozenset(there.intersection(c.changed))) for c in asked]
    return start, [q for q in questions if 1 <= len(q.files) <= MOST_FILES and q.subject.strip()]


def is_asked_about(entry: git.TreeEntry) -> bool:
    return is_source(entry.path) and find_skipped_path(entry.path, entry.size) is None


def judge(questions: Sequence[Question], answers: Sequence[Sequence[str]]) -> dict[int, float | None]:
    """Among source files alone: an index holds documents too, and a changelog says what a commit's subject says."""
    ranked = [list(dict.fromkeys(path for path in paths if SOURCE.search(path))) for paths in answers]
    found = list(zip(questions, ranked, strict=True))
    return {
        top: statistics.mean(bool(q.files.intersection(paths[:top])) for q, paths in found) if found else None
        for top in TOPS
    }


async def measure(
    engine: ChunkEngine, directory: Path, repo: Path, back: int, indexed: Progress, asked: Progress
) -> Localisation:
    """By words, in an engine that holds nothing else. `asked` is told of (questions asked, questions in all)."""
    start, questions = await read_questions(repo, back)
    manifests = ManifestStore(directory)
    manifest = await index_commit(engine, manifests, COLLECTION, repo, start, indexed)
    service = ContextService(engine, directory)
    answers: list[list[str]] = []
    for question in questions:
        hits = await service.search(COLLECTION, question.subject[:2_000], _HITS, _TOKENS)
        answers.append([hit.path for hit in hits])
        asked(len(answers), len(questions))
    await service.aclose()
    return Localisation(start, len(manifest.files), len(questions), judge(questions, answers))
