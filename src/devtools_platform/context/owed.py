"""Collections that could not be brought up to date because something was away, and the work of trying again.

For this process only: what a killed one was in the middle of stands in its manifests.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable
from pathlib import Path

from devtools_platform.context.types import Source
from devtools_platform.core.errors import DevToolsError, Unavailable

log = logging.getLogger(__name__)

RETRY_S = 5.0


class Owed:
    """`bring_up` is called again with what was noted until it does not raise `Unavailable`."""

    def __init__(self, bring_up: Callable[[str, Path, Source], Awaitable[None]], retry_s: float = RETRY_S) -> None:
        self.retry_s = retry_s
        self._bring_up = bring_up
        self._waiting: dict[str, tuple[Path, Source]] = {}
        self._work: asyncio.Task[None] | None = None
        self._is_closed = False

    def note(self, collection: str, repo: Path, follow: Source) -> None:
        """The collection's index is owed; the last `repo` and `follow` count."""
        if self._is_closed:
            return
        self._waiting[collection] = (repo, follow)
        if self._work is None or self._work.done():
            self._work = asyncio.create_task(self._run())

    def settle(self, collection: str) -> None:
        """It is true again, or nobody wants it any more."""
        self._waiting.pop(collection, None)

    async def aclose(self) -> None:
        self._is_closed = True
        if self._work is not None:
            self._work.cancel()
            await asyncio.gather(self._work, return_exceptions=True)

    async def _run(self) -> None:
        while self._waiting:
            await asyncio.sleep(self.retry_s)
            for collection, (repo, follow) in list(self._waiting.items()):
                await self._try(collection, repo, follow)

    async def _try(self, collection: str, repo: Path, follow: Source) -> None:
        try:
            await self._bring_up(collection, repo, follow)
            self.settle(collection)
            log.info("%s is up to date again", collection)
        except Unavailable as error:
            log.debug("%s still waits: %s", collection, error)
        except DevToolsError as error:
            log.warning("%s is not tried any more: %s", collection, error)
            self.settle(collection)
        except Exception:
            log.exception("%s is not tried any more", collection)
            self.settle(collection)
