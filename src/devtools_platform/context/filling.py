"""Vectors in the background, one collection at a time; words find the chunks meanwhile."""

import asyncio
import logging
from collections import deque

from devtools_platform.context.interfaces import ChunkEngine, Embedder
from devtools_platform.context.manifest import ManifestStore
from devtools_platform.context.vectors import VectorCache, fill_vectors
from devtools_platform.core.errors import Unavailable

log = logging.getLogger(__name__)

REFILL_S = 60.0
"""After how long an embedder that failed is asked again for what it still owes."""
MANY_RETRIES = 1_000


class Filling:
    """Which collections wait for vectors, and the work on them."""

    def __init__(self, engine: ChunkEngine, embedder: Embedder, cache: VectorCache, manifests: ManifestStore) -> None:
        self.engine = engine
        self.embedder = embedder
        self.cache = cache
        self.manifests = manifests
        self.error: str | None = None
        """What the embedder said last; None while it does its work."""
        self._waiting: dict[str, None] = {}
        self._work: asyncio.Task[None] | None = None
        self._retries: deque[asyncio.TimerHandle] = deque(maxlen=MANY_RETRIES)
        self._is_closed = False

    def start(self, collection: str) -> None:
        """Give the collection's chunks the vectors they lack, after those that wait already."""
        if self._is_closed:
            return
        self._waiting[collection] = None
        if self._work is None or self._work.done():
            self._work = asyncio.create_task(self._run())

    async def wait(self) -> None:
        """Until the work that is known now has ended."""
        if self._work is not None:
            await asyncio.wait([self._work])

    async def aclose(self) -> None:
        self._is_closed = True
        for retry in self._retries:
            retry.cancel()
        if self._work is not None:
            self._work.cancel()
            await asyncio.gather(self._work, return_exceptions=True)
        await self.embedder.aclose()

    async def _run(self) -> None:
        while self._waiting:
            collection = next(iter(self._waiting))
            del self._waiting[collection]
            try:
                await fill_vectors(self.engine, self.embedder, self.cache, collection, self.manifests.is_paused)
                self.error = None
            except Unavailable as error:
                log.warning("%s stays without some vectors: %s", collection, error)
                self.error = str(error)
                self._retries.append(asyncio.get_running_loop().call_later(REFILL_S, self.start, collection))
            except Exception:
                log.exception("Embedding %s failed", collection)
