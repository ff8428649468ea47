"""Which tools mean what a request says, whatever words it uses: vectors of their names and descriptions.

They are made in the background when tools come. Until all are there, and where there is no embedder, words alone
decide, and the answer says so.
"""

import asyncio
import logging
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from typing import Any, Protocol

from devtools_platform.core.errors import DevToolsError
from devtools_platform.gateway.ranking import Described, in_our_words, spaced

log = logging.getLogger(__name__)

MAX_TEXT = 200
"""Characters; what follows in a description is more often about arguments than about what the tool is for."""
BATCH = 32


class Embedder(Protocol):
    """Texts as unit vectors. Raises `Unavailable`."""

    async def embed(self, texts: Sequence[str]) -> list[list[float]]: ...

    async def embed_query(self, text: str) -> list[float]: ...


class Meanings:
    """Use `stop` at the end."""

    def __init__(self, embedder: Embedder) -> None:
        self._embedder = embedder
        self._vectors: dict[str, Any] = {}
        """Text -> its vector: the same description is embedded once, whoever has it."""
        self._wanted: dict[str, None] = {}
        self._task: asyncio.Task[None] | None = None

    def want(self, tools: Iterable[Described]) -> None:
        """Have the vectors of these tools made."""
        texts = (text_of(tool) for tool in tools)
        self._wanted |= dict.fromkeys(text for text in texts if text not in self._vectors)
        if self._wanted and (self._task is None or self._task.done()):
            self._task = asyncio.create_task(self._fill())

    async def settled(self) -> None:
        """Wait until the vectors wanted so far are there, or cannot be made."""
        if self._task is not None:
            await self._task

    async def stop(self) -> None:
        if self._task is not None:
            self._task.cancel()
            with suppress(asyncio.CancelledError):
                await self._task

    async def closeness(self, query: str, tools: Sequence[Described]) -> Mapping[str, float] | None:
        """Full name -> cosine with the query; None while a vector is missing."""
        found = [self._vectors.get(text_of(tool)) for tool in tools]
        if not found or any(vector is None for vector in found):
            self.want(tools)
            return None
        import numpy as np  # comes with the embedder

        try:
            asked = await self._embedder.embed_query(in_our_words(query))
        except DevToolsError as error:
            log.warning("tool search goes by words only: %s", error)
            return None
        values: list[float] = (np.asarray(found, np.float32) @ np.asarray(asked, np.float32)).tolist()
        return dict(zip((tool.full for tool in tools), values, strict=True))

    async def _fill(self) -> None:
        import numpy as np  # comes with the embedder

        while batch := list(self._wanted)[:BATCH]:
            try:
                vectors = await self._embedder.embed(batch)
            except DevToolsError as error:
                log.warning("tool search goes by words only: %s", error)
                self._wanted.clear()
                return
            for text, vector in zip(batch, vectors, strict=True):
                self._vectors[text] = np.asarray(vector, np.float32)
                self._wanted.pop(text, None)


def text_of(tool: Described) -> str:
    """What is embedded of a tool: its name in words, then what it says it does."""
    prefix = f"{tool.server}_"
    name = tool.full.removeprefix(prefix).removeprefix(prefix)  # some servers begin each name with their own
    return f"{tool.server} {spaced(name)}: {tool.description}"[:MAX_TEXT]
