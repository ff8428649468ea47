"""Runs one agent: a pydantic-ai agent per definition, its tools through the gateway, its model calls durable steps."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from pydantic_ai import Agent, DeferredToolRequests, UsageLimits, capture_run_messages
from pydantic_ai.capabilities import AbstractCapability
from pydantic_ai.exceptions import UnexpectedModelBehavior, UsageLimitExceeded
from pydantic_ai.messages import ModelMessage, ModelMessagesTypeAdapter
from pydantic_ai.models import Model
from pydantic_ai.settings import ModelSettings

from devtools_platform.agents.definitions import working_agents
from devtools_platform.agents.fallback import fallbacks_in
from devtools_platform.agents.spans import agent_span, tell_output
from devtools_platform.agents.suspension import Resumed, suspend
from devtools_platform.agents.tool_calls import DurableTools
from devtools_platform.agents.toolset import AgentDeps, GatewayToolset
from devtools_platform.agents.types import (
    AgentReport,
    BudgetStop,
    Definition,
    Judgement,
    OutOfBudget,
    PlanDraft,
    TaskEnded,
    plan_type,
)
from devtools_platform.core.agents import AgentName, EditFormat
from devtools_platform.core.errors import DevToolsError, DiskFull, ModelRefused, NoModel, OverBudget
from devtools_platform.core.tasks import Degradation
from devtools_platform.core.tools import Caller

OutputT = TypeVar("OutputT")

OUTPUTS: dict[str, type[Any]] = {"plan": PlanDraft, "report": AgentReport, "judgement": Judgement}

DurableCapability = Callable[[], AbstractCapability[AgentDeps]]
"""Makes an agent's model requests durable steps; chosen by `app` with the engine. Without one nothing is durable."""


@dataclass(frozen=True)
class RunId:
    """One execution of an agent: `{task}/{agent}/{n}`, which is also its workflow id."""

    caller: Caller
    id: str

    def __str__(self) -> str:
        return self.id


class AgentRunner:
    """The agents of one process, each on the model that `models` gives it."""

    def __init__(
        self,
        definitions: dict[AgentName, Definition],
        models: Callable[[AgentName], Model],
        tools: DurableTools,
        *,
        durable: DurableCapability | None = None,
        edit_formats: Callable[[AgentName], EditFormat] | None = None,
        max_turns: int,
    ) -> None:
        """`edit_formats` chooses the editing tools of an agent by its model; without it agents see all of them."""
        self.definitions: dict[str, Definition] = {**definitions}
        self.tools = tools
        self.plan: type[PlanDraft] = plan_type(working_agents(definitions))
        outputs = {**OUTPUTS, "plan": self.plan}
        self._max_turns = max_turns
        self._stood_in: dict[str, list[Degradation]] = {}
        self._agents = {
            name: Agent(
                models(name),
                name=name,
                deps_type=AgentDeps,
                output_type=[outputs[definition.output], DeferredToolRequests],
                instructions=definition.instructions,
                toolsets=[GatewayToolset(tools, edit_formats(name) if edit_formats else None)],
                capabilities=[durable()] if durable else [],
                retries=3,
            )
            for name, definition in definitions.items()
        }
        # Without tools: one question, one answer. What a small model is asked by the guided loop.
        self._plain = {
            name: Agent(
                models(name),
                name=f"{name}-plain",
                deps_type=AgentDeps,
                instructions=f"You are an expert Python programmer.\nAgent: {name}",
                capabilities=[durable()] if durable else [],
                retries=2,
            )
            for name in definitions
        }

    async def run(self, run: RunId, prompt: str, resumed: Resumed | None = None) -> Any:
        """The agent's validated output, or `Suspended` when a call of it has to wait.

        `resumed` goes on where an earlier run was suspended; then `prompt` is not used. Raises `TaskEnded` with
        the reason when there is no output.
        """
        agent = run.caller.agent
        turns = min(self._max_turns, self.definitions[agent].max_turns)
        with agent_span(run.caller.task_id, agent, run.id) as span:
            work = self._agents[agent].run(
                None if resumed else prompt,
                deps=AgentDeps(run.caller, str(run), is_attentive=agent != "code-review"),
                usage_limits=UsageLimits(request_limit=turns),
                conversation_id=run.caller.task_id,
                message_history=resumed.messages if resumed else None,
                deferred_tool_results=resumed.results if resumed else None,
            )
            # One call after the other, whatever the engine: their order is part of the stored history.
            in_order = self._agents[agent].parallel_tool_call_execution_mode("sequential")
            with in_order, capture_run_messages() as messages:
                result = await _ended(work, messages)
            tell_output(span, result.output)
        self._note(run, result.new_messages())
        if isinstance(result.output, DeferredToolRequests):
            return suspend(result.output, result.all_messages_json())
        return result.output

    async def ask(
        self,
        run: RunId,
        prompt: str,
        output: type[OutputT],
        *,
        temperature: float = 0.0,
        max_tokens: int = 1024,
    ) -> OutputT:
        """One answer of type `output`, without tools. Raises `TaskEnded`."""
        agent = run.caller.agent
        with agent_span(run.caller.task_id, agent, run.id) as span:
            work = self._plain[agent].run(
                prompt,
                deps=AgentDeps(run.caller, str(run)),
                output_type=output,
                model_settings=ModelSettings(temperature=temperature, max_tokens=max_tokens),
                conversation_id=run.caller.task_id,
            )
            result = await _ended(work)
            tell_output(span, result.output)
        self._note(run, result.new_messages())
        return result.output

    def take_degradations(self, run: RunId) -> list[Degradation]:
        """Which runtimes stood in for the declared one during a run, once."""
        return self._stood_in.pop(str(run), [])

    def _note(self, run: RunId, messages: Sequence[ModelMessage]) -> None:
        known = self._stood_in.setdefault(str(run), [])
        known += [one for one in fallbacks_in(run.caller.agent, messages) if one not in known]


async def _ended(work: Any, messages: list[ModelMessage] | None = None) -> Any:
    """What `work` gives. `messages` is where a run that needs money goes on; without them it begins anew."""
    try:
        return await work
    except OverBudget as error:
        if not error.facts.get("may_ask"):
            raise TaskEnded("over_budget", f"{error} {error.hint}") from None
        said = ModelMessagesTypeAdapter.dump_json(messages).decode() if messages else ""
        raise OutOfBudget(BudgetStop.model_validate(error.facts), said) from None
    except UsageLimitExceeded as error:
        raise TaskEnded("not_solved", f"The agent used up its turns: {error}") from None
    except UnexpectedModelBehavior as error:
        raise TaskEnded("model_failed", f"The model's answers could not be used: {error}") from None
    except NoModel as error:
        raise TaskEnded("needs_model", f"{error} {error.hint}") from None
    except ModelRefused as error:
        raise TaskEnded("model_refused", f"{error} {error.hint}") from None
    except DiskFull as error:  # met while a call was written down
        raise TaskEnded("disk_full", f"{error} {error.hint}") from None
    except (TimeoutError, DevToolsError) as error:
        raise TaskEnded("model_failed", str(error)) from None
