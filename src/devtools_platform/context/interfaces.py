"""What the context service needs from outside: an engine that stores chunks and proposes candidates."""

from collections.abc import Callable, Mapping, Sequence
from typing import Protocol

from devtools_platform.context.types import Candidate, Chunk

Progress = Callable[[int, int], None]
"""Called with (files done, files in all) while indexing."""


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
        self, collection: str, query: str, *, limit: int, blobs: Sequence[str] | None = None
    ) -> list[Candidate]:
        """The best `limit` by text and the best `limit` by name, each chunk once, in no promised order."""
        ...

    async def count(self, collection: str | None = None) -> int:
        """Chunks stored in a collection, or in all."""
        ...

    async def flush(self) -> None:
        """Write everything down, so that a later start is quick. Safety does not depend on it."""
        ...

    async def aclose(self) -> None: ...
