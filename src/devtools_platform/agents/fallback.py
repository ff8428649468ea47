"""A model with others that stand in for it, as a team declared them. Never silently: told, traced and counted."""

import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, replace
from typing import Any, cast

from opentelemetry import trace
from prometheus_client import Counter
from pydantic_ai import RunContext
from pydantic_ai.messages import ModelMessage, ModelResponse
from pydantic_ai.models import Model, ModelRequestParameters, StreamedResponse
from pydantic_ai.models.wrapper import WrapperModel
from pydantic_ai.settings import ModelSettings

from devtools_platform.core.errors import ModelRefused, NoModel, Unavailable
from devtools_platform.core.tasks import Degradation

FALLBACKS = Counter("devtools_model_fallbacks_total", "Model calls another runtime answered", ["agent", "runtime"])

COOL_DOWN_S = 300.0
"""A runtime that failed is not asked again for so long: each try of one that hangs costs its whole time limit."""
MARK = "devtools.fallback"

FAILURES = (Unavailable, ModelRefused, NoModel)
"""What another runtime may be better at. A model that answers badly is not among them: it answered."""


@dataclass(frozen=True)
class Member:
    """One runtime of a chain. `name` is how people know it: `gradient openai-gpt-oss-120b`."""

    name: str
    model: Model


@dataclass(frozen=True)
class Fallback:
    """One runtime stood in for another."""

    agent: str
    declared: str
    used: str
    why: str

    @property
    def degradation(self) -> Degradation:
        what = f"{self.agent} ran on {self.used}"
        return Degradation(what=what, why=f"Its declared runtime {self.declared} failed: {self.why}")


Tell = Callable[[Fallback], Awaitable[None]]


class FallbackModel(WrapperModel):
    """Asks its members in order; the last one's failure is the caller's to see."""

    def __init__(
        self, agent: str, members: Sequence[Member], tell: Tell, *, clock: Callable[[], float] = time.monotonic
    ) -> None:
        super().__init__(members[0].model)
        self._agent = agent
        self._members = tuple(members)
        self._tell = tell
        self._clock = clock
        self._failed: dict[str, tuple[float, str]] = {}
        """Name -> until when it is left alone, and why."""

    async def request(
        self,
        messages: list[ModelMessage],
        model_settings: ModelSettings | None,
        model_request_parameters: ModelRequestParameters,
    ) -> ModelResponse:
        last = self._members[-1]
        for member in self._members:
            if member is not last and self._is_resting(member):
                continue
            try:
                response = await member.model.request(messages, model_settings, model_request_parameters)
            except FAILURES as error:
                if member is last:
                    raise
                self._failed[member.name] = (self._clock() + COOL_DOWN_S, str(error))
                continue
            self._failed.pop(member.name, None)
            return response if member is self._members[0] else await self._note(member, response)
        raise AssertionError("the last member answered or raised")

    @asynccontextmanager
    async def request_stream(
        self,
        messages: list[ModelMessage],
        model_settings: ModelSettings | None,
        model_request_parameters: ModelRequestParameters,
        run_context: RunContext[Any] | None = None,
    ) -> AsyncGenerator[StreamedResponse]:
        """The same until the first word: after it, nobody else can take over."""
        last = self._members[-1]
        async with AsyncExitStack() as stack:
            for member in self._members:
                if member is not last and self._is_resting(member):
                    continue
                opened = member.model.request_stream(messages, model_settings, model_request_parameters, run_context)
                try:
                    stream = await stack.enter_async_context(opened)
                except FAILURES as error:
                    if member is last:
                        raise
                    self._failed[member.name] = (self._clock() + COOL_DOWN_S, str(error))
                    continue
                self._failed.pop(member.name, None)
                if member is not self._members[0]:
                    await self._say(member)
                yield stream
                return

    def _is_resting(self, member: Member) -> bool:
        until, _ = self._failed.get(member.name, (0.0, ""))
        return until > self._clock()

    async def _note(self, used: Member, response: ModelResponse) -> ModelResponse:
        facts = await self._say(used)
        return replace(response, metadata={**(response.metadata or {}), MARK: facts})

    async def _say(self, used: Member) -> dict[str, str]:
        """Tell that one stood in; returns what is to be known of it."""
        declared = self._members[0].name
        _, why = self._failed.get(declared, (0.0, "it did not answer"))
        fallback = Fallback(self._agent, declared, used.name, why)
        FALLBACKS.labels(self._agent, used.name).inc()
        facts = {"declared": declared, "used": used.name, "why": why[:500]}
        trace.get_current_span().set_attributes({f"{MARK}.{key}": value for key, value in facts.items()})
        await self._tell(fallback)
        return facts


def fallbacks_in(agent: str, messages: Sequence[ModelMessage]) -> list[Degradation]:
    """What stood in for what in a conversation. Read from the answers themselves, so a replay says the same."""
    found: list[Degradation] = []
    for message in messages:
        if not isinstance(message, ModelResponse) or MARK not in (message.metadata or {}):
            continue
        facts = cast("dict[str, Any]", (message.metadata or {})[MARK])
        degradation = Fallback(agent, facts["declared"], facts["used"], facts["why"]).degradation
        if all(one.what != degradation.what for one in found):
            found.append(degradation)
    return found
