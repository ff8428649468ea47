"""What the context service needs from outside, above all an engine that stores and proposes chunks; and its readers."""

from collections.abc import Callable, Mapping, Sequence
from typing import Protocol

from devtools_platform.context.git import TreeEntry
from devtools_platform.context.types import Candidate, Chunk, Document, DocumentInfo, Hit, Lines, Symbol
from devtools_platform.core.errors import Unavailable

Progress = Callable[[int, int], None]
"""Called with (files done, files in all) while indexing."""


class EngineAway(Unavailable):
    """Nobody answers where the engine should be, or not in time: it may be back at any moment."""


class ChunkEngine(Protocol):
    """Chunks by (collection, blob id). Every operation may be repeated without harm.

    Raises `Unavailable` when the engine does not answer.
    """

    async def put(self, collection: str, files: Mapping[str, Sequence[Chunk]]) -> None:
        """Make each blob's chunks exactly these, whatever was stored under the blob before."""
        ...

    async def delete(self, collection: str, blobs: Sequence[str] | None = None) -> None:
        """Forget these blobs, or the whole collection."""
        ...

    async def search(
        self,
        collection: str,
        query: str,
        *,
        limit: int,
        vector: Sequence[float] | None = None,
        blobs: Sequence[str] | None = None,
    ) -> list[Candidate]:
        """The best `limit` by text, by name and by the query's vector, each chunk once, in no promised order."""
        ...

    async def get_texts(self, ids: Sequence[str]) -> dict[str, str]:
        """The texts of chunks that `search` proposed; without those that are gone meanwhile."""
        ...

    async def list_chunks(
        self, collection: str, limit: int, after: str | None = None
    ) -> tuple[list[tuple[str, str, Chunk]], str | None]:
        """(point id, blob, chunk) of a page, and what to give as `after` for the next; None on the last."""
        ...

    async def list_without_vector(self, collection: str, limit: int) -> list[tuple[str, Chunk]]:
        """(point id, chunk) of some chunks that have no vector yet."""
        ...

    async def set_vectors(self, vectors: Mapping[str, Sequence[float]]) -> None:
        """Give points their unit vectors; points that are gone are left out."""
        ...

    async def count(self, collection: str | None = None, *, without_vector: bool = False) -> int:
        """Chunks stored in a collection, or in all; or only those that have no vector yet."""
        ...

    def aside(self) -> "ChunkEngine":
        """An empty engine of the same kind beside this one, for the next generation of what it holds.

        One that was begun before and never took over is removed.
        """
        ...

    async def take_over(self, generation: "ChunkEngine") -> None:
        """Answer from a generation that `aside` gave, from now on, and remove what was here. Ends `generation`.

        A process that is killed in between holds either the old or the new one at its next start.
        """
        ...

    async def flush(self) -> None:
        """Write everything down, so that a later start is quick. Safety does not depend on it."""
        ...

    async def aclose(self) -> None: ...


class Embedder(Protocol):
    """Texts as unit vectors, so that a question finds what says the same in other words.

    Raises `Unavailable` when the model or the endpoint does not answer.
    """

    @property
    def id(self) -> str:
        """Names the model: vectors of different ids are not compared."""
        ...

    @property
    def size(self) -> int: ...

    @property
    def reads_code(self) -> bool:
        """Whether it takes code as it stands; else it is given the words of it."""
        ...

    async def embed(self, texts: Sequence[str]) -> list[list[float]]:
        """For background work: slow and polite."""
        ...

    async def embed_query(self, text: str) -> list[float]: ...

    async def aclose(self) -> None: ...


class DocumentStore(Protocol):
    """Documents by (collection, id), kept until they are forgotten. Every operation may be repeated.

    Raises `Away` when the store does not answer.
    """

    async def list_collections(self) -> list[str]:
        """Also those whose documents are all forgotten, since their index may not know it yet."""
        ...

    async def list_entries(self, collection: str) -> list[TreeEntry]:
        """Every document as if it were a file: id, content id, size."""
        ...

    async def read(self, collection: str, id_: str) -> Document | None: ...

    async def list_infos(self, collection: str, ids: Sequence[str] | None = None) -> list[DocumentInfo]:
        """These, or all, the newest first."""
        ...

    async def save(self, collection: str, documents: Sequence[Document]) -> None:
        """Store or replace. What was forgotten under an id comes back when somebody stores it again."""
        ...

    async def forget(self, collection: str, id_: str | None = None) -> int:
        """Remove the words of one document, or of all, for good; returns how many there were."""
        ...


class Reader(Protocol):
    """What can be asked of the indexes, in this process or over HTTP. All raise `NotFound` for a collection or a path
    that is not there, and `Unavailable` when the service is away.
    """

    async def collections(self) -> list[str]:
        """Every collection that is indexed, or is being indexed for the first time."""
        ...

    async def search(
        self, collection: str, query: str, limit: int = 8, token_budget: int = 2000, path_glob: str | None = None
    ) -> list[Hit]: ...

    async def symbol(self, collection: str, name: str) -> list[Hit]: ...

    async def related(self, collection: str, path: str, line: int, limit: int = 8) -> list[Hit]: ...

    async def outline(self, collection: str, path: str) -> list[Symbol]: ...

    async def repo_map(self, collection: str, token_budget: int = 1000, path_glob: str | None = None) -> str: ...

    async def read_range(self, collection: str, path: str, first: int, last: int) -> Lines: ...
