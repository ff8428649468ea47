"""An agent in conversation, outside any task: its instructions, its runtime, and the tools that need no workspace.

What a managed agent is at its endpoint, this is at ours, so that a client need not know which it talks to. Nothing
here is durable; a call that a person would have to approve is refused. Each answer is a session of its own, by whose
id its model calls stand in the ledger and count against the budgets.
"""

import asyncio
import uuid
from collections.abc import AsyncIterable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol, cast

from prometheus_client import Counter
from pydantic_ai import Agent, UsageLimits
from pydantic_ai.exceptions import UnexpectedModelBehavior, UsageLimitExceeded
from pydantic_ai.messages import (
    AgentStreamEvent,
    ModelMessage,
    ModelRequest,
    ModelResponse,
    PartDeltaEvent,
    PartStartEvent,
    SystemPromptPart,
    TextPart,
    TextPartDelta,
    UserPromptPart,
)
from pydantic_ai.models import Model

from devtools_platform.agents.at_once import AtOnce
from devtools_platform.agents.interfaces import TaskLog, ToolClient
from devtools_platform.agents.spans import agent_span, tell_output
from devtools_platform.agents.tool_calls import DurableTools
from devtools_platform.agents.toolset import AgentDeps, GatewayToolset
from devtools_platform.agents.types import Definition
from devtools_platform.core.agents import AgentName
from devtools_platform.core.errors import BadInput, ToolFailed, Unavailable, UnknownAgent
from devtools_platform.core.tools import Caller

CHATS = Counter("devtools_agent_chats_total", "Conversations answered outside tasks", ["agent", "outcome"])

MAX_AT_ONCE = 4
MAX_WAITING = 16
TIMEOUT_S = 600.0
"""One answer, all its model and tool calls together."""

Say = Callable[[str], None]
Role = Literal["system", "user", "assistant"]


@dataclass(frozen=True)
class Said:
    """One message of a conversation."""

    role: Role
    text: str


@dataclass(frozen=True)
class ChatAnswer:
    """Tokens are None where the endpoint did not count them."""

    text: str
    model: str
    input_tokens: int | None
    output_tokens: int | None


class Ask(Protocol):
    """What an agent says next to a conversation, as `ChatService.answer` does."""

    async def __call__(
        self, agent: AgentName, conversation: Sequence[Said], session: str, say: Say | None = None
    ) -> ChatAnswer: ...


class ChatService:
    """All agents of a stack, as conversation partners."""

    def __init__(
        self,
        definitions: Mapping[AgentName, Definition],
        models: Callable[[AgentName], Model],
        tools: ToolClient,
        *,
        max_turns: int,
        timeout_s: float = TIMEOUT_S,
    ) -> None:
        self.definitions = definitions
        self._max_turns = max_turns
        self._timeout_s = timeout_s
        self._slots = asyncio.Semaphore(MAX_AT_ONCE)
        self._waiting = 0
        # Neither durable nor told to a task: both are of tasks, and here is none.
        toolset = GatewayToolset(DurableTools(tools, AtOnce(), cast("TaskLog", _NoLog())))
        self._agents = {
            name: Agent(
                models(name),
                name=f"{name}-chat",
                deps_type=AgentDeps,
                instructions=definition.instructions,
                toolsets=[toolset],
                retries=2,
            )
            for name, definition in definitions.items()
        }

    async def answer(
        self, agent: AgentName, conversation: Sequence[Said], session: str, say: Say | None = None
    ) -> ChatAnswer:
        """What the agent says next. Raises `UnknownAgent`, `BadInput`, `Unavailable` and what models raise.

        `say` is given every piece of text as the model writes it, also what it writes before it calls a tool.
        """
        if agent not in self._agents:
            raise UnknownAgent(f"There is no agent {agent!r}.", hint=f"The agents are: {', '.join(self._agents)}.")
        if not conversation or conversation[-1].role != "user":
            raise BadInput("The last message must be the user's.", hint="Tool results are not taken: it calls its own.")
        if self._waiting >= MAX_WAITING:
            raise Unavailable(f"{self._waiting} conversations wait already.", hint="Try again in a minute.")
        self._waiting += 1
        try:
            async with asyncio.timeout(self._timeout_s), self._slots:
                answer = await self._run(agent, conversation, session, say)
        except TimeoutError:
            CHATS.labels(agent, "timeout").inc()
            raise Unavailable(f"{agent} did not answer within {self._timeout_s:g} s.", hint="Ask for less.") from None
        except BaseException:
            CHATS.labels(agent, "error").inc()
            raise
        finally:
            self._waiting -= 1
        CHATS.labels(agent, "ok").inc()
        return answer

    async def _run(self, agent: AgentName, conversation: Sequence[Said], session: str, say: Say | None) -> ChatAnswer:
        turns = min(self._max_turns, self.definitions[agent].max_turns)
        given = self._agents[agent].iter(
            conversation[-1].text,
            deps=AgentDeps(Caller(session, agent), session, is_attentive=False),
            message_history=_history(conversation[:-1]),
            usage_limits=UsageLimits(request_limit=turns),
        )
        try:
            with agent_span(session, agent, session) as span:
                async with given as run:
                    async for node in run:
                        if say is not None and Agent.is_model_request_node(node):
                            async with node.stream(run.ctx) as stream:
                                await _pass_on(stream, say)
                result = run.result
                if result is None:
                    raise Unavailable(f"{agent} ended without an answer.", hint="Ask again.")
                tell_output(span, result.output)
        except UsageLimitExceeded as error:
            raise ToolFailed(f"{agent} used up its turns: {error}.", hint="Ask for less at once.") from None
        except UnexpectedModelBehavior as error:
            raise Unavailable(f"The model's answers could not be used: {error}.", hint="Use a stronger one.") from None
        used = result.usage
        has_count = used.input_tokens + used.output_tokens > 0
        model = result.response.model_name or agent
        counts = (used.input_tokens, used.output_tokens) if has_count else (None, None)
        return ChatAnswer(str(result.output), model, *counts)


def new_session() -> str:
    """An id that no task has, and no token's work either."""
    return f"chat:{uuid.uuid4().hex}"


async def _pass_on(stream: AsyncIterable[AgentStreamEvent], say: Say) -> None:
    async for event in stream:
        match event:
            case PartStartEvent(part=TextPart(content=text)) | PartDeltaEvent(delta=TextPartDelta(content_delta=text)):
                say(text)
            case _:
                pass


def _history(said: Sequence[Said]) -> list[ModelMessage]:
    history: list[ModelMessage] = []
    for one in said:
        match one.role:
            case "assistant":
                history.append(ModelResponse(parts=[TextPart(one.text)]))
            case "system":
                history.append(ModelRequest(parts=[SystemPromptPart(one.text)]))
            case "user":
                history.append(ModelRequest(parts=[UserPromptPart(one.text)]))
    return history


class _NoLog:
    async def append_event(self, *_: Any) -> int:
        return 0
