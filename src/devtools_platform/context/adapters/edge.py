"""The chunk engine on embedded Qdrant, seen from the service: starts the engine's process and speaks to it.

A process that dies is started again once per request and the request repeated, which every operation allows.
What dies twice is `Unavailable`.
"""

import asyncio
import logging
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec

from devtools_platform.context.child import Child, ChildDied, ChildRefused
from devtools_platform.context.interfaces import ChunkEngine
from devtools_platform.context.query import DENSE, quantise
from devtools_platform.context.types import Candidate, Chunk
from devtools_platform.core.errors import Unavailable

log = logging.getLogger(__name__)

STEP_CHUNKS = 24
"""Stored in about five milliseconds."""
_MODULE = "devtools_platform.context.adapters.edge_child"
_HINT = "See the context service's log; if the index is damaged, remove its folder and index again."

_Described = tuple[str, str, str, float, float, float | None]
"""Of a point: its id, its blob, its chunk as JSON without the text, and its scores by text, name and vector."""


class EdgeEngine:
    """`ChunkEngine` in a child process that owns `directory`."""

    def __init__(self, directory: Path, *, vector_size: int = 384, timeout_s: float = 60.0) -> None:
        """`vector_size` is that of the embedder; a directory made for another size is not opened."""
        self.directory = directory
        self.vector_size = vector_size
        self.timeout_s = timeout_s
        self._child: Child | None = None
        self._starting = asyncio.Lock()
        self._is_closed = False

    @property
    def pid(self) -> int | None:
        """The engine's process, if one runs."""
        return self._child.process.pid if self._child and self._child.is_alive else None

    async def put(self, collection: str, files: Mapping[str, Sequence[Chunk]]) -> None:
        """In small steps, so that a question waits for one of them and not for all."""
        await self.delete(collection, list(files))
        chunks = [(blob, number, chunk) for blob, found in files.items() for number, chunk in enumerate(found)]
        for start in range(0, len(chunks), STEP_CHUNKS):
            await self._call(None, "put", collection=collection, chunks=chunks[start : start + STEP_CHUNKS])

    async def delete(self, collection: str, blobs: Sequence[str] | None = None) -> None:
        await self._call(None, "delete", collection=collection, blobs=blobs if blobs is None else list(blobs))

    async def search(
        self,
        collection: str,
        query: str,
        *,
        limit: int,
        vector: Sequence[float] | None = None,
        blobs: Sequence[str] | None = None,
    ) -> list[Candidate]:
        found = await self._call(
            list[_Described],
            "search",
            collection=collection,
            query=query.encode(errors="replace").decode(),  # half a character is no text to the engine
            vector=vector if vector is None else quantise(vector),
            limit=limit,
            blobs=blobs if blobs is None else list(blobs),
        )
        read = _ABOUT.decode
        return [Candidate(blob, read(about), text, name, dense, id_) for id_, blob, about, text, name, dense in found]

    async def get_texts(self, ids: Sequence[str]) -> dict[str, str]:
        return await self._call(dict[str, str], "get_texts", ids=list(ids))

    async def list_chunks(
        self, collection: str, limit: int, after: str | None = None
    ) -> tuple[list[tuple[str, str, Chunk]], str | None]:
        kind = tuple[list[tuple[str, str, str, str]], str | None]
        found, after = await self._call(kind, "list_chunks", collection=collection, limit=limit, after=after)
        return [(id_, blob, replace(_ABOUT.decode(about), text=text)) for id_, blob, about, text in found], after

    async def list_without_vector(self, collection: str, limit: int) -> list[tuple[str, Chunk]]:
        found = await self._call(list[tuple[str, str, str]], "list_without_vector", collection=collection, limit=limit)
        return [(id_, replace(_ABOUT.decode(about), text=text)) for id_, about, text in found]

    async def set_vectors(self, vectors: Mapping[str, Sequence[float]]) -> None:
        await self._call(None, "set_vectors", vectors={id_: quantise(vector) for id_, vector in vectors.items()})

    async def count(self, collection: str | None = None, *, without_vector: bool = False) -> int:
        return await self._call(int, "count", collection=collection, lacks=DENSE if without_vector else None)

    def aside(self) -> "EdgeEngine":
        folder = self._beside("next")
        shutil.rmtree(folder, ignore_errors=True)
        return EdgeEngine(folder, vector_size=self.vector_size, timeout_s=self.timeout_s)

    async def take_over(self, generation: ChunkEngine) -> None:
        assert isinstance(generation, EdgeEngine)  # noqa: S101 - from `aside`
        await generation.flush()
        await generation.aclose()
        async with self._starting:
            if self._child is not None:
                await self._child.close()  # it answers what it was asked; later questions start the next one
                self._child = None
            generation.directory.rename(self._beside("ready"))
            await asyncio.to_thread(self._adopt)

    def _beside(self, name: str) -> Path:
        return self.directory.with_name(f"{self.directory.name}.{name}")

    def _adopt(self) -> None:
        """Put a generation that is ready in its place, also one that a killed process left."""
        ready = self._beside("ready")
        if ready.exists():
            shutil.rmtree(self.directory, ignore_errors=True)
            ready.rename(self.directory)

    async def flush(self) -> None:
        await self._call(None, "flush")

    async def aclose(self) -> None:
        async with self._starting:
            self._is_closed = True
            if self._child:
                await self._child.close()
                self._child = None

    async def _call(self, kind: Any, op: str, **arguments: Any) -> Any:
        try:
            return msgspec.msgpack.decode(await self._ask_once(op, arguments), type=kind)
        except ChildDied as death:
            log.warning("The search engine ended and is started again: %s", death)
        try:
            return msgspec.msgpack.decode(await self._ask_once(op, arguments), type=kind)
        except ChildDied as death:
            raise Unavailable(f"The search engine ended twice during {op!r}: {death}", hint=_HINT) from None

    async def _ask_once(self, op: str, arguments: Mapping[str, Any]) -> bytes:
        child = await self._get_child()
        try:
            return await asyncio.wait_for(child.ask(op, **arguments), self.timeout_s)
        except ChildRefused as error:
            raise Unavailable(f"The search engine refused: {error}", hint=_HINT) from None
        except TimeoutError:
            await child.close(patiently=False)
            raise Unavailable(f"The search engine did not answer {op!r} in {self.timeout_s} s.", hint=_HINT) from None

    async def _get_child(self) -> Child:
        async with self._starting:
            if self._is_closed:
                raise Unavailable("The search engine is closed.", hint="Start the stack: `dev-tools up`.")
            if self._child and not self._child.is_alive:
                await self._child.close()
                self._child = None
            if self._child is None:
                await asyncio.to_thread(self._adopt)
                self._child = await Child.start(_MODULE, str(self.directory), str(self.vector_size))
            return self._child


_ABOUT = msgspec.json.Decoder(Chunk)
