"""What tasks tell the threads they came from: events in, messages into the outbox, each event once.

The words are the services' (`Voice`); here is only that nothing is left out and nothing told twice: the number of
the last told event moves in the transaction that stores the messages.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from devtools_platform.core.errors import NotFound
from devtools_platform.integrations.interfaces import Links, OutboxStore, Tasks
from devtools_platform.integrations.types import Json, Link, Message, TaskEvent, TaskView
from devtools_platform.kit.recurring import keep_doing

POLL_S = 0.5


class Voice(Protocol):
    """How a service is spoken to. Pure: the same events make the same keys."""

    def begin(self, link: Link) -> Sequence[Message]:
        """The first words, when a task has been made."""
        ...

    def reply(self, thread: str, origin: Json, key: str, text: str) -> Sequence[Message]:
        """An answer to what a person said, which no event will give."""
        ...

    def tell(self, link: Link, view: TaskView, events: Sequence[TaskEvent]) -> Sequence[Message]: ...


@dataclass(frozen=True)
class Narrator:
    tasks: Tasks
    links: Links
    outbox: OutboxStore
    voices: Mapping[str, Voice]
    wake: Callable[[], None]
    poll_s: float = POLL_S

    async def run(self) -> None:
        """Tell, until cancelled."""
        await keep_doing("telling", self.tell_all, self.poll_s)

    async def tell_all(self) -> int:
        """Tell what is new; returns how many tasks had news."""
        links = await self.links.list_links()
        if not links:
            return 0
        last = await self.tasks.count_events([link.task_id for link in links])
        news = [link for link in links if last.get(link.task_id, 0) > link.told]
        for link in news:
            await self._tell(link)
        if news:
            self.wake()
        return len(news)

    async def _tell(self, link: Link) -> None:
        try:
            events = await self.tasks.list_events(link.task_id, link.told)
            view = await self.tasks.view(link.task_id)
        except NotFound:  # its time was over
            return
        voice = self.voices.get(link.service)
        messages = voice.tell(link, view, events) if voice is not None else ()
        await self.outbox.tell(link, messages, events[-1].seq)
