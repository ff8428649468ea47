"""The context part's data: what is indexed, what is found, how far an index is. No behaviour."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Literal

MAX_QUERY_CHARS = 2_000
"""Of a question; what is longer is no question."""

RepoSource = Literal["commit", "files"]
"""What the index of a repository follows: the commit at HEAD, or the files on disk with their uncommitted changes."""
Source = Literal["commit", "files", "documents"]
"""What an index follows: a repository, or what was stored as documents."""

DocumentKind = Literal["outcome", "decision", "finding", "document", "ticket"]
"""The first three are what tasks leave behind: how one ended, what people decided in it, what its review found."""


@dataclass(frozen=True)
class Document:
    """A text that is found as files are, under its id."""

    id: str
    """Reads as a path: `tasks/gv4m2xpc.md`."""
    kind: DocumentKind
    title: str
    text: str
    source: Mapping[str, Any]
    """Where it comes from: the task, the run, the commit, an address."""
    at: datetime
    """When what it says happened."""


@dataclass(frozen=True)
class DocumentInfo:
    """A document without its text."""

    id: str
    kind: DocumentKind
    title: str
    source: Mapping[str, Any]
    at: datetime
    size: int
    """Bytes, as it is indexed."""


@dataclass(frozen=True)
class Symbol:
    """A definition in a file. Lines count from 1 and both ends belong to it, decorators included."""

    name: str
    kind: str
    """`function`, `method`, `class`, `struct`, `interface`, `block`, `section`, ..."""
    start_line: int
    end_line: int
    parent: str | None = None
    """Qualified name of the definition around it."""

    @property
    def qualified(self) -> str:
        return f"{self.parent}.{self.name}" if self.parent else self.name


@dataclass(frozen=True)
class Chunk:
    """A piece of a file that is found as a whole."""

    path: str
    start_line: int
    end_line: int
    kind: str
    """A symbol's kind, or `module` (code outside definitions), or `text`."""
    name: str
    """Qualified name of the symbol it is part of; empty outside any."""
    text: str = ""

    @property
    def header(self) -> str:
        return make_header(self.path, self.kind, self.name)


def make_header(path: str, kind: str, name: str) -> str:
    """Path and names, searched together with the text: a body rarely says what it belongs to."""
    return f"{path} {kind} {name}" if name else path


@dataclass(frozen=True)
class Candidate:
    """What the engine proposes, before ranking. Word scores are its own scale; a missing match is 0.0."""

    blob: str
    chunk: Chunk
    """Without its text: hundreds are proposed, a few are answered with (`ChunkEngine.get_texts`)."""
    text_score: float
    name_score: float
    dense_score: float | None = None
    """Cosine between the question and the text; None when there was no vector of one of them."""
    id: str = ""
    """The point, as the engine knows it."""


@dataclass(frozen=True)
class Hit:
    """An answer: where, why, and the text, cut where the caller's budget ends."""

    path: str
    start_line: int
    end_line: int
    name: str
    kind: str
    score: float
    why: list[str]
    text: str
    commit: str | None
    """The indexed commit; None until the first indexing of the repository ended."""
    is_stale: bool | None = None
    """Whether the file on disk differs from what was indexed; None where there is none to compare with."""
    source: Mapping[str, Any] | None = None
    """Where a document comes from; None for a file of a repository."""


@dataclass(frozen=True)
class Lines:
    """A part of a file as it was indexed, secrets masked."""

    path: str
    start_line: int
    end_line: int
    total_lines: int
    text: str


@dataclass(frozen=True)
class Freshness:
    """How true an index is of what it follows, right now."""

    commit: str | None
    head: str | None
    """The commit at HEAD now."""
    is_current: bool
    changed: list[str]
    """Files that were added, changed or removed since; the first 100."""
    changed_total: int


@dataclass(frozen=True)
class IndexStatus:
    """How far the index of one repository is. Unknown is None."""

    collection: str
    repo: str
    commit: str | None
    """The commit that is wholly searchable; None until the first indexing ended."""
    files: int
    chunks: int
    indexed_at: datetime | None
    is_indexing: bool
    files_done: int | None
    """Files handled by the indexing that runs now or ran last in this process, of `files_total`."""
    files_total: int | None
    error: str | None
    """Why the last indexing failed."""
    follows: Source
    is_watched: bool
    """Whether saved files become searchable by themselves."""
    is_paused: bool
    """Whether a person stopped its indexing and embedding; what is there is searched all along."""
    without_vector: int | None
    """Chunks that are found by their words only, so far; None where there is no embedder."""
    embedding_error: str | None
    """Why chunks go on without a vector: what the embedder said last; None while it does its work."""
    skipped: dict[str, str]
    """Path -> reason of what is not searchable, wholly or in part."""
