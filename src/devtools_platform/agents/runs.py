"""The child workflow `agent_run`: one execution of one agent, whichever loop carries it."""

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from devtools_platform.agents.guided import GuidedEdit
from devtools_platform.agents.interfaces import TaskLog
from devtools_platform.agents.live import known_paths
from devtools_platform.agents.modelless import POSSIBLE, scaffold_for
from devtools_platform.agents.reviewing import Reviewer
from devtools_platform.agents.runner import AgentRunner, RunId
from devtools_platform.agents.suspension import resume
from devtools_platform.agents.types import AgentReport, Answer, OutOfBudget, RunOutcome, Suspended, TaskEnded
from devtools_platform.core.tasks import Degradation, TestRun
from devtools_platform.core.tools import Caller
from devtools_platform.kit.telemetry import task_span

UNJUDGED = (
    "The embedded model is used only where a failing test can judge what it writes, and here none does. "
    "Set DEV_TOOLS_MODEL_BASE_URL and DEV_TOOLS_MODEL, or GRADIENT_MODEL_ACCESS_KEY, to a stronger model."
)
GUIDED = Degradation(what="guided loop", why="The model is small: it wrote single functions, the program did the rest.")


@dataclass(frozen=True)
class Traits:
    """What an agent's model is like."""

    is_small: bool = False
    """It is carried by the schema adapter and the guided loop; see `core.tasks.ModelInfo.tier`."""
    needs_judge: bool = False
    """It is known to be too weak to write anything that no test judges."""
    missing: str = ""
    """Why there is no model, and which setting gives one; empty when there is one."""
    facts: Mapping[str, Any] = field(default_factory=dict[str, Any])
    """What the task's timeline says of the runtime at the start of a run; empty: nothing."""


@dataclass
class AgentRunWorkflow:
    """As registered with the engine. `traits` of an agent's model choose its loop."""

    runner: AgentRunner
    traits: Callable[[str], Traits]
    max_candidates: int
    log: TaskLog

    async def __call__(self, id_: str, argument: dict[str, Any]) -> dict[str, Any]:
        folder = argument.get("workspace", "")
        caller = Caller(argument["task_id"], argument["agent"], argument["without_sandbox"], workspace=folder)
        with task_span(caller.task_id, caller.agent, f"agent_run {caller.agent}"):
            return await self._carry_out(RunId(caller, id_), argument)

    async def _carry_out(self, run: RunId, argument: dict[str, Any]) -> dict[str, Any]:
        id_, caller = run.id, run.caller
        await self._note("run.begin", lambda: self._begin(run, argument["n"]))
        try:
            outcome = await self._choose(caller.agent, argument)(run, argument)
        except OutOfBudget as stop:
            outcome = RunOutcome(suspended=Suspended(messages=stop.messages, questions=[], budget=stop.budget))
        except TaskEnded as end:
            outcome = RunOutcome(reason=end.reason, message=end.message)
        outcome.degraded += self.runner.take_degradations(run)
        status = "suspended" if outcome.suspended else "failed" if outcome.reason else "completed"
        await self._note("run.end", lambda: self.log.end_run(id_, status, outcome.message))
        return outcome.model_dump(mode="json")

    async def _note(self, name: str, write: Callable[[], Awaitable[None]]) -> None:
        await self.runner.tools.durable.step(name, write, type(None))

    async def _begin(self, run: RunId, n: int) -> None:
        caller = run.caller
        await self.log.begin_run(run.id, caller.task_id, caller.agent, n)
        facts = self.traits(caller.agent).facts
        if facts:
            await self.log.append_event(caller.task_id, f"{run}:runtime", "runtime", caller.agent, facts)

    def _choose(self, agent: str, argument: dict[str, Any]) -> Callable[[RunId, dict[str, Any]], Awaitable[RunOutcome]]:
        if agent == "code-review":
            return self._review
        traits = self.traits(agent)
        if traits.missing:
            return self._without_model
        is_small = traits.is_small
        if agent == "orchestrator" and is_small:
            return self._plan
        if agent == "feature-dev" and is_small and not argument.get("resumed"):
            return self._guide
        return self._loop

    async def _plan(self, run: RunId, argument: dict[str, Any]) -> RunOutcome:
        """In one answer, without tools: a small model gets lost in them and needs none to route a request."""
        instructions = self.runner.definitions["orchestrator"].instructions
        plan = await self.runner.ask(run, f"{instructions}\n\n{argument['prompt']}", self.runner.plan, max_tokens=400)
        return RunOutcome(output=plan.model_dump(mode="json"))

    async def _loop(self, run: RunId, argument: dict[str, Any]) -> RunOutcome:
        traits = self.traits(run.caller.agent)
        if traits.needs_judge:
            return await self._without_model(run, argument)
        if traits.is_small:
            listed = await self.runner.tools.call(run.caller, "workspace_list_files", {}, f"{run}:paths")
            known_paths.set(tuple(listed.data.get("files", ())))
        resumed = None
        if waited := argument.get("resumed"):
            answers = [Answer.model_validate(answer) for answer in waited["answers"]]
            resumed = resume(waited["messages"], answers)
        output = await self.runner.run(run, argument["prompt"], resumed)
        if isinstance(output, Suspended):
            return RunOutcome(suspended=output)
        return RunOutcome(output=output.model_dump(mode="json"))

    async def _without_model(self, run: RunId, argument: dict[str, Any]) -> RunOutcome:
        """What a program can make by itself; the rest ends with the setting that is missing."""
        why = self.traits(run.caller.agent).missing or UNJUDGED
        kind = scaffold_for(argument["agent"], argument["goal"])
        if kind is None:
            raise TaskEnded("needs_model", f"{why} {POSSIBLE}")
        made = await self.runner.tools.call(run.caller, "workspace_scaffold", {"kind": kind}, f"{run}:scaffold")
        if made.is_error:
            raise TaskEnded("not_solved", f"{made.text} A model could do more: {why}")
        report = AgentReport(outcome="done", summary=made.text, commit_message=f"Add a first {kind.replace('-', ' ')}")
        missing = Degradation(what="done without a model", why=f"A program wrote it from the files there are. {why}")
        return RunOutcome(output=report.model_dump(mode="json"), degraded=[missing])

    async def _guide(self, run: RunId, argument: dict[str, Any]) -> RunOutcome:
        report = await GuidedEdit(self.runner, run, argument["goal"], self.max_candidates).solve()
        if report is None:
            return await self._loop(run, argument)
        return RunOutcome(output=report.model_dump(mode="json"), degraded=[GUIDED])

    async def _review(self, run: RunId, argument: dict[str, Any]) -> RunOutcome:
        tests = TestRun.model_validate_json(argument["prompt"]) if argument["prompt"] else None
        traits = self.traits(run.caller.agent)
        review, degraded = await Reviewer(self.runner, traits.is_small, traits.missing).review(
            run, argument["goal"], tests
        )
        return RunOutcome(output=review.model_dump(mode="json"), degraded=degraded)
