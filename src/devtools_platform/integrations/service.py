"""Inbox, narrator and outbox at work, side by side: what comes in becomes tasks, what tasks do goes out."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass

from devtools_platform.integrations.inbox import Inbox
from devtools_platform.integrations.narration import Narrator
from devtools_platform.integrations.outbox import Outbox
from devtools_platform.kit.recurring import keep_doing

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
            for work in (self.inbox.run(), self.outbox.run(), self.narrator.run()):
                group.create_task(work)
            for forget in self.forget:
                group.create_task(keep_doing("forgetting what was finished", forget, FORGET_EVERY_S))
