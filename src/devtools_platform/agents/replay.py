"""A task done again from its records: today's code, with every model and tool answered from the log.

Nothing outside is reached. What today's code would do otherwise than the record is a departure: a step of another
name ends that workflow's replay, other words (a prompt, an argument, an event) are noted and it goes on.
"""

import json
from collections.abc import Awaitable, Callable, Generator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any, TypeVar

from pydantic import BaseModel, TypeAdapter
from pydantic_ai.messages import ModelMessage, ModelResponse
from pydantic_ai.models import Model, ModelRequestParameters
from pydantic_ai.settings import ModelSettings

from devtools_platform.agents.tool_calls import shorten
from devtools_platform.core.agents import AgentName
from devtools_platform.core.errors import NotFound
from devtools_platform.core.history import StoredStep, StoredWorkflow, TaskRecord
from devtools_platform.core.interfaces import Child
from devtools_platform.core.redact import redact
from devtools_platform.core.tools import Caller, Tool, ToolResult

T = TypeVar("T")
RunChild = Callable[[str, dict[str, Any]], Awaitable[dict[str, Any]]]

MAX_SHOWN = 400
LOUD = frozenset({"tell", "finish", "tools.call"})
"""Steps whose words are compared: they are made once more, against the log."""


class Departure(BaseModel):
    """Where today's code leaves the record."""

    workflow: str
    step: int
    """Its number in the record."""
    what: str
    recorded: str
    today: str


class Replayed(BaseModel):
    """What a replay came to."""

    task_id: str
    workflows: int
    steps: int
    """How many stored steps were gone through again."""
    departures: list[Departure]


class RecordLeft(BaseException):
    """Ends the replay of a workflow whose next step is not that of the record.

    Not an `Exception`: a workflow turns those into an outcome of the task, and this is none.
    """


@dataclass
class Playback:
    """One workflow's steps, given out in the order they were stored."""

    stored: StoredWorkflow
    at: int = 0

    @property
    def next(self) -> StoredStep | None:
        return self.stored.steps[self.at] if self.at < len(self.stored.steps) else None

    @property
    def number(self) -> int:
        step = self.next
        return step.number if step else len(self.stored.steps) + 1


@dataclass
class Replay:
    """Answers for the engine, the models, the tools and the log, all from one task's record."""

    record: TaskRecord
    run_child: RunChild | None = None
    """The workflow `agent_run`, as registered with an engine."""
    departures: list[Departure] = field(default_factory=list[Departure])
    steps: int = 0
    _played: set[str] = field(default_factory=set[str])
    _playing: ContextVar[Playback] = field(default_factory=lambda: ContextVar[Playback]("playing"))

    async def play(self, workflow: Callable[[str, dict[str, Any]], Awaitable[dict[str, Any]]]) -> Replayed:
        """The whole task, by the code that is given."""
        id_ = self.record.workflow_id
        with self._open(id_):
            try:
                await workflow(id_, dict(self.record.workflows[id_].argument))
            except RecordLeft:
                pass
            else:
                self._expect_end()
        return Replayed(
            task_id=self.record.result.id,
            workflows=len(self._played),
            steps=self.steps,
            departures=self.departures,
        )

    # -- the engine (core.interfaces.Durable) --------------------------------------------------------------------

    async def step(self, name: str, call: Callable[[], Awaitable[T]], returns: type[T]) -> T:
        stored = self._take(name)
        if stored.error is not None:
            raise stored.error
        if name in LOUD and not (isinstance(stored.output, Mapping) and stored.output.get("is_paused")):
            await call()
        return TypeAdapter[T](returns).validate_python(stored.output)

    async def child(
        self, workflow: str, id_: str, argument: Mapping[str, Any], *, partition: str, priority: int
    ) -> dict[str, Any]:
        return (await self.children([Child(workflow, id_, argument, partition, priority)]))[0]

    async def children(self, wanted: Sequence[Child]) -> list[dict[str, Any]]:
        started = [(child, self._take(child.workflow)) for child in wanted]
        own = [await self._play_child(child, step.child or child.id) for child, step in started]
        recorded: list[dict[str, Any]] = [self._take("DBOS.getResult").output for _ in started]
        for (_, step), today, then in zip(started, own, recorded, strict=True):
            if today is not None and today != then:
                self._note("the run ended otherwise", then, today, step)
        return recorded

    async def _play_child(self, child: Child, id_: str) -> dict[str, Any] | None:
        stored = self.record.workflows[id_]
        for key in ("agent", "prompt", "goal", "workspace"):
            then, today = stored.argument.get(key), child.argument.get(key)
            if stored.argument and then != today:
                self._note(f"the {key} given to {id_}", then, today)
        if self.run_child is None:
            return None
        with self._open(id_):
            try:
                outcome = await self.run_child(id_, dict(stored.argument or child.argument))
            except RecordLeft:
                return None
            self._expect_end()
            return outcome

    async def receive(self, topic: str, timeout_s: float) -> bool:
        received = self._take("DBOS.recv").output is not None
        if (step := self._here.next) is not None and step.name == "DBOS.sleep":
            self._take("DBOS.sleep")
        return received

    async def patched(self, name: str) -> bool:
        step = self._here.next
        if step is None or step.name != f"DBOS.patch-{name}":
            return False
        self._take(step.name)
        return True

    # -- the log and the tools -----------------------------------------------------------------------------------

    async def append_event(self, task_id: str, key: str, kind: str, agent: str | None, data: Mapping[str, Any]) -> int:
        """Compare what would be told with what was told."""
        event = self.record.events.get(key)
        if event is None:  # of the attempt, or the task, that this one has its beginning from
            return 0
        then, today = dict(event.data), _plain(redact(data))
        if kind == "tool_call":  # the outcome is the record's own
            then, today = ({name: one.get(name) for name in ("tool", "arguments")} for one in (then, today))
        if (event.kind, event.agent) != (kind, agent):
            self._note("an event", f"{event.kind} of {event.agent}", f"{kind} of {agent}", self._last)
        elif then != today:
            self._note(f"what the event {kind!r} says", *_unlike(then, today), self._last)
        return event.seq

    async def finish(
        self, task_id: str, workflow_id: str, status: str, reason: str | None, message: str, result: Mapping[str, Any]
    ) -> None:
        result_then = self.record.result
        then = {"status": result_then.status, "reason": result_then.reason, "message": result_then.message}
        today = {"status": status, "reason": reason, "message": message}
        if then != today:
            self._note("how the task ends", *_unlike(then, today), self._last)

    async def is_paused(self, task_id: str) -> bool:
        return False

    async def take_messages(self, task_id: str, taker: str) -> list[str]:
        return []

    async def append_and_take(
        self, task_id: str, key: str, kind: str, agent: str, data: Mapping[str, Any], taker: str
    ) -> list[str]:
        await self.append_event(task_id, key, kind, agent, data)
        return await self.take_messages(task_id, taker)

    async def list_tools(self, caller: Caller) -> list[Tool]:
        raise NotFound("A replay lists no tools: they are in the record.")

    async def call(
        self, caller: Caller, name: str, arguments: Mapping[str, Any], key: str, approval: str | None = None
    ) -> ToolResult:
        """Nothing is called: the step's stored result is what the agent gets."""
        return ToolResult("")

    async def exists(self, task_id: str) -> bool:
        """Whether the workspace was there: what explained a failure then explains it now."""
        return self.record.result.reason != "workspace_lost"

    async def say(self, agent: str) -> ModelResponse:
        """What the agent's model answered at this place, in the loop or to a plain question."""
        plain, step = f"{agent}-plain__model.request", self._here.next
        stored = self._take(plain if step is not None and step.name == plain else f"{agent}__model.request")
        if stored.error is not None:
            raise stored.error
        return stored.output

    def __getattr__(self, name: str) -> Callable[..., Awaitable[Any]]:
        """Everything else a task reaches for, in steps that are answered without being made."""
        if name.startswith("_"):
            raise AttributeError(name)

        async def reach(*_: object, **__: object) -> None:
            raise RuntimeError(f"a replay reached for {name!r}")

        return reach

    # -- means ---------------------------------------------------------------------------------------------------

    @contextmanager
    def _open(self, id_: str) -> Generator[None]:
        self._played.add(id_)
        token = self._playing.set(Playback(self.record.workflows[id_]))
        try:
            yield
        finally:
            self._playing.reset(token)

    @property
    def _here(self) -> Playback:
        return self._playing.get()

    @property
    def _last(self) -> StoredStep:
        return self._here.stored.steps[self._here.at - 1]

    def _take(self, name: str) -> StoredStep:
        here, step = self._here, self._here.next
        if step is None and self.record.result.status == "cancelled":
            raise RecordLeft  # it was stopped here
        if step is None or step.name != name:
            self._note("the next step", step.name if step else "the record ends", name)
            raise RecordLeft
        here.at += 1
        self.steps += 1
        return step

    def _expect_end(self) -> None:
        if (step := self._here.next) is not None:
            self._note("the end", step.name, "the workflow has ended")

    def _note(self, what: str, recorded: Any, today: Any, step: StoredStep | None = None) -> None:
        number = self._here.number if step is None else step.number
        shown = [value if isinstance(value, str) else json.dumps(value, default=str) for value in (recorded, today)]
        then, now = (shorten(text, MAX_SHOWN) for text in _from_difference(*shown))
        self.departures.append(
            Departure(workflow=self._here.stored.id, step=number, what=what, recorded=then, today=now)
        )


class RecordedModel(Model[Any]):
    """An agent's model, whose answers are those of the record."""

    def __init__(self, replay: Replay, agent: AgentName) -> None:
        super().__init__()
        self._replay = replay
        self._agent = agent

    @property
    def model_name(self) -> str:
        return "recorded"

    @property
    def system(self) -> str:
        return "recorded"

    async def request(
        self,
        messages: list[ModelMessage],
        model_settings: ModelSettings | None,
        model_request_parameters: ModelRequestParameters,
    ) -> ModelResponse:
        return await self._replay.say(self._agent)


def _plain(data: Any) -> Any:
    """As the database gives it back."""
    return json.loads(json.dumps(data, default=str))


def _unlike(then: Mapping[str, Any], today: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """What differs, and nothing else."""
    keys = [key for key in {**then, **today} if then.get(key) != today.get(key)]
    return {key: then.get(key) for key in keys}, {key: today.get(key) for key in keys}


def _from_difference(then: str, today: str) -> tuple[str, str]:
    """Two texts from a little before the place where they part, so that what is shown of them shows it."""
    same = next((at for at, (a, b) in enumerate(zip(then, today, strict=False)) if a != b), 0)
    start = max(0, same - MAX_SHOWN // 4)
    return (f"…{then[start:]}", f"…{today[start:]}") if start else (then, today)
