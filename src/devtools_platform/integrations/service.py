"""Inbox, narrator and outbox at work, side by side: what comes in becomes tasks, what tasks do goes out."""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass

from devtools_platform.core.errors import DevToolsError
from devtools_platform.integrations.inbox import Inbox
from devtools_platform.integrations.narration import Narrator
from devtools_platform.integrations.outbox import Outbox

log = logging.getLogger(__name__)

FORGET_EVERY_S = 3600.0


@dataclass(frozen=True)
class Integrations:
    inbox: Inbox
    outbox: Outbox
    narrator: Narrator
    forget: Sequence[Callable[[], Awaitable[int]]] = ()
    """Delete what was finished long ago."""

    async def run(self) -> None:
        """Work, until cancelled."""
        async with asyncio.TaskGroup() as group:
            for work in (self.inbox.run(), self.outbox.run(), self.narrator.run(), self._forget()):
                group.create_task(work)

    async def _forget(self) -> None:
        while True:
            for forget in self.forget:
                try:
                    await forget()
                except DevToolsError as error:
                    log.warning("nothing was forgotten: %s", error)
            await asyncio.sleep(FORGET_EVERY_S)
