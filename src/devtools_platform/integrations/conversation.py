"""A thread outside and its tasks: an order makes one, an answer decides, anything else is said to the agent at work."""

import logging
from dataclasses import dataclass

from devtools_platform.core.errors import Conflict, DevToolsError, NotFound, Unavailable
from devtools_platform.integrations.interfaces import Heads, Links, OutboxStore, Tasks, TryLater
from devtools_platform.integrations.narration import Voice
from devtools_platform.integrations.types import Decision, Json, Link, Outcome, Service
from devtools_platform.integrations.words import Order, task_text

log = logging.getLogger(__name__)

PATIENCE = 3
"""How often a word that answers to an earlier one is put off while that has not come in: seven seconds in all, less
than the ten after which Linear calls us unresponsive. Deliveries are not promised in order."""


@dataclass(frozen=True)
class Said:
    """Something a person who may give orders said in a thread."""

    service: Service
    thread: str
    origin: Json
    repo: str
    """Where the work is done: an absolute path, from the settings."""
    actor: str
    key: str
    """Of the delivery it came in: said once, done once."""
    order: Order
    source: str
    """How people call the thread: `issue acme/shop#7`."""
    title: str = ""
    body: str = ""
    opens: bool = False
    """The first word of its thread, whenever it comes in."""
    follows: bool = False
    """Said in a thread that somebody opened."""
    attempts: int = 0
    """How often it was put off."""


@dataclass(frozen=True)
class Conversation:
    tasks: Tasks
    links: Links
    outbox: OutboxStore
    voice: Voice
    heads: Heads | None = None
    """Where threads are pull requests: how to come by their heads."""

    async def hear(self, said: Said) -> Outcome:
        """Do what was said; the answer goes through the outbox. May be repeated."""
        link = await self.links.latest_link(said.thread)
        try:
            return await self._obey(said, link)
        except Unavailable:
            raise  # it is tried again
        except TryLater as error:
            raise Unavailable(str(error), hint=error.hint) from None
        except DevToolsError as error:
            await self._reply(said, f"{error} {error.hint}")
            return Outcome("done", str(error))

    async def _obey(self, said: Said, link: Link | None) -> Outcome:
        if link is None or link.origin.get("key") == said.key:
            # The second: we were killed between making the task and saying that the delivery is worked.
            return await self._begin(said)
        view = await self.tasks.view(link.task_id)
        if said.opens and (view.has_ended or not said.order.text):
            return Outcome("done", f"came after what follows it, which is task {link.task_id}")
        if view.has_ended and said.order.verb == "do":
            return await self._begin(said)
        if await self.tasks.is_done(said.key):
            return Outcome("done", "was done before we were interrupted")
        return await self._about(said, link)

    async def _about(self, said: Said, link: Link) -> Outcome:
        """What was said about the thread's present task."""
        verb = said.order.verb
        if verb != "cancel" and (asked := await self._find_question(link)) is not None:
            # Whatever is said now is the answer, "no" as well.
            answer = Decision(is_approved=True, reason=said.order.said)
            await self.tasks.decide(asked, answer, actor=said.actor, key=said.key)
            return Outcome("done", f"answered {asked}")
        if verb in {"approve", "deny"}:
            return await self._decide(said, link)
        if verb == "cancel":
            await self.tasks.cancel(link.task_id, actor=said.actor, key=said.key)
        elif verb == "retry":
            await self.tasks.retry(link.task_id, actor=said.actor, key=said.key)
        else:
            await self.tasks.steer(link.task_id, said.order.text, actor=said.actor, key=said.key)
            await self._reply(said, "I have passed that on to the agent at work.")
        return Outcome("done", f"{verb} {link.task_id}")

    async def _begin(self, said: Said) -> Outcome:
        if said.attempts < PATIENCE and (said.follows or said.order.verb != "do"):
            raise Unavailable("what this answers to has not come in yet", hint="")
        if said.order.verb != "do":
            raise NotFound("There is no task here yet.", hint="Say what you want done, and I begin.")
        text = task_text(said.order.text, said.source, said.title, said.body)
        start_at, origin = None, said.origin
        if self.heads is not None and origin.get("is_pull"):
            start_at, branch = await self.heads.fetch(origin, said.repo)
            origin = {**origin, "base": branch or origin["base"]}
        id_ = await self.tasks.create(text, said.repo, start_at=start_at, actor=said.actor, key=said.key)
        link = Link(id_, said.service, said.thread, {**origin, "key": said.key})
        await self.links.add_link(link, self.voice.begin(link))
        return Outcome("done", f"task {id_}")

    async def _find_question(self, link: Link) -> str | None:
        """What the crew wants to know before it begins, if anything."""
        waiting = await self.tasks.list_questions(link.task_id)
        return next((question.id for question in waiting if question.kind == "question"), None)

    async def _decide(self, said: Said, link: Link) -> Outcome:
        questions = await self.tasks.list_questions(link.task_id)
        if not questions:
            raise Conflict("Nothing waits for a decision here.", hint="")
        named, _, reason = said.order.text.partition(" ")
        asked = next((question for question in questions if question.id == named), None)
        if asked is None and len(questions) > 1:
            listed = ", ".join(question.id for question in questions)
            raise Conflict(f"Several approvals wait: {listed}.", hint="Name the one you mean.")
        decision = Decision(said.order.verb == "approve", reason if asked else said.order.text)
        about = asked or questions[0]
        await self.tasks.decide(about.id, decision, actor=said.actor, key=said.key)
        return Outcome("done", f"{said.order.verb} {about.id}")

    async def _reply(self, said: Said, text: str) -> None:
        await self.outbox.put(self.voice.reply(said.thread, said.origin, said.key, text.strip()))
