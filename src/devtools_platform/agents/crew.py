"""What a task's workflow is made of: the crew it reaches for, what it knows so far, and its durable means.

Every line of a task is a step, told or done by what is here. The names of the steps are stored history: see
`orchestration`.
"""

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeVar

from devtools_platform.agents.interfaces import CodeIndex, Estimates, ModelLedger, Preflight, TaskLog, Workspaces
from devtools_platform.agents.questions import People, Questions
from devtools_platform.agents.routing import Router, load_router
from devtools_platform.agents.tool_calls import DurableTools
from devtools_platform.agents.types import (
    RunOutcome,
    TaskEnded,
    Workspace,
)
from devtools_platform.core.agents import AgentName
from devtools_platform.core.errors import (
    DevToolsError,
    DiskFull,
    ModelRefused,
    NoModel,
    NoSandbox,
    Unavailable,
)
from devtools_platform.core.interfaces import Child, Durable
from devtools_platform.core.tasks import (
    Degradation,
    DiffStat,
    ModelInfo,
    Plan,
    Reason,
    Review,
    TaskRequest,
    TestRun,
)
from devtools_platform.core.tools import Caller

T = TypeVar("T")

AGENT_RUN = "agent_run"

REASONS: dict[type[DevToolsError], Reason] = {
    NoModel: "needs_model",
    ModelRefused: "model_refused",
    Unavailable: "model_failed",
    NoSandbox: "no_sandbox",
    DiskFull: "disk_full",
}


@dataclass(frozen=True)
class TaskLimits:
    """What one task may use, beside its budget."""

    replans: int = 1
    agent_runs: int = 30


@dataclass(frozen=True)
class Crew:
    """Everything a task's workflow reaches for. Wired once by `app`."""

    durable: Durable
    log: TaskLog
    ledger: ModelLedger
    workspaces: Workspaces
    tools: DurableTools
    index: CodeIndex
    preflight: Preflight
    people: People
    slots: asyncio.Semaphore
    """How many tasks may clone, index or test in this process at once. Nobody waits for a person in one."""
    model: ModelInfo | None
    max_review_rounds: int
    limits: TaskLimits = field(default_factory=TaskLimits)
    router: Router = field(default_factory=load_router)
    estimates: Estimates | None = None
    """None where there is no history to ask: then no cost is known in advance."""


@dataclass
class Progress:
    """What is known of the task so far; the one mutable thing in a run, rebuilt by replay."""

    task_id: str
    workflow_id: str
    """The task's own id, or `{id}.{attempt}` after a retry: runs, events and branches carry it."""
    request: TaskRequest
    workspace: Workspace | None = None
    plan: Plan | None = None
    tests: list[TestRun] = field(default_factory=list[TestRun])
    review: Review | None = None
    diff: DiffStat | None = None
    commits: list[str] = field(default_factory=list[str])
    branch: str | None = None
    degraded: list[Degradation] = field(default_factory=list[Degradation])
    runs: dict[AgentName, int] = field(default_factory=dict[AgentName, int])
    snapshots: int = 0
    commit_message: str = ""


class Means:
    """How one execution of a task does, tells, tests and has agents work.

    It numbers what it does, so that a replay does nothing twice.
    """

    def __init__(self, crew: Crew, progress: Progress) -> None:
        self.crew = crew
        self.progress = progress
        self.caller = Caller(progress.task_id, "orchestrator", progress.request.without_sandbox)
        self.questions = Questions(crew.durable, crew.people, progress.task_id, progress.workflow_id, progress.request)
        self._events = 0

    async def test(self, stage: str) -> TestRun | None:
        """Run the project's own tests through the gateway; None when the project has none."""
        self._events += 1
        result = await self.crew.tools.call(
            self.caller, "workspace_run_tests", {}, f"{self.progress.workflow_id}:{stage}:{self._events}"
        )
        if "command" not in result.data and result.data.get("code") != "no_test_command":
            reason: Reason = "no_sandbox" if result.data.get("code") == "no_sandbox" else "internal"
            raise TaskEnded(reason, f"The project's tests could not be run: {result.text}")
        if "command" not in result.data:
            what = "no tests were run"
            if all(degradation.what != what for degradation in self.progress.degraded):
                await self.degrade(what, result.text)
            return None
        known = {key: result.data[key] for key in ("command", "exit_code", "duration_s", "ended_by", "output")}
        run = TestRun.model_validate({"stage": stage, **known})
        self.progress.tests.append(run)
        await self.tell("tests", run.model_dump(mode="json"))
        await self.keep("test_output", f"{stage}-tests.txt", run.output)
        return run

    async def run_agent(self, agent: AgentName, prompt: str, goal: str) -> Mapping[str, Any]:
        """The agent's output. A run that stops to wait for a person is followed by one that goes on."""
        return await self.settle(agent, prompt, goal, await self._run_once(agent, prompt, goal, None))

    async def settle(
        self, agent: AgentName, prompt: str, goal: str, outcome: RunOutcome, folder: str = ""
    ) -> Mapping[str, Any]:
        """The output of a run, once every question it stopped for is answered."""
        while True:
            for degradation in outcome.degraded:
                await self.degrade(degradation.what, degradation.why)
            if outcome.suspended is not None and outcome.suspended.budget is not None:
                await self.questions.budget(agent, outcome.suspended.budget)
                said = outcome.suspended.messages
                went_on: dict[str, Any] | None = {"messages": said, "answers": []} if said else None
                outcome = await self._run_once(agent, prompt, goal, went_on, folder)
                continue
            if outcome.suspended is not None:
                answers = [await self.questions.answer(agent, question) for question in outcome.suspended.questions]
                listed = [answer.model_dump(mode="json") for answer in answers]
                resumed = {"messages": outcome.suspended.messages, "answers": listed}
                outcome = await self._run_once(agent, prompt, goal, resumed, folder)
                continue
            if outcome.reason is not None or outcome.output is None:
                raise TaskEnded(outcome.reason or "internal", outcome.message)
            return outcome.output

    async def _run_once(
        self, agent: AgentName, prompt: str, goal: str, resumed: dict[str, Any] | None, folder: str = ""
    ) -> RunOutcome:
        child = self.child(agent, prompt, goal, resumed, folder)
        return RunOutcome.model_validate((await self.crew.durable.children([child]))[0])

    def child(self, agent: AgentName, prompt: str, goal: str, resumed: dict[str, Any] | None, folder: str) -> Child:
        if sum(self.progress.runs.values()) >= self.crew.limits.agent_runs:
            raise TaskEnded("not_solved", f"The task used up its {self.crew.limits.agent_runs} runs of agents.")
        n = self.progress.runs.get(agent, 0) + 1
        self.progress.runs[agent] = n
        argument: dict[str, Any] = {
            "task_id": self.progress.task_id,
            "agent": agent,
            "n": n,
            "prompt": prompt,
            "goal": goal,
            "without_sandbox": self.progress.request.without_sandbox,
            "resumed": resumed,
        }
        if folder:
            argument["workspace"] = folder
        id_ = f"{self.progress.workflow_id}/{agent}/{n}"
        return Child(AGENT_RUN, id_, argument, agent, self.progress.request.priority)

    async def take_messages(self) -> list[str]:
        taker = f"{self.progress.workflow_id}:{self._events}"
        return await self.crew.log.take_messages(self.progress.task_id, taker)

    async def take_snapshot(self) -> None:
        self.progress.snapshots += 1
        name = f"s{self.progress.snapshots}"
        workspace = self.workspace()

        async def take() -> str:
            await self.crew.workspaces.snapshot(workspace, name)
            return name

        await self.step("snapshot", take, str)

    async def keep(self, kind: str, name: str, text: str) -> None:
        key = f"{self.progress.workflow_id}:{kind}:{self._events}"
        task_id = self.progress.task_id
        await self.step("keep", lambda: self.crew.log.store_artifact(task_id, key, kind, name, text), str)

    def workspace(self) -> Workspace:
        if self.progress.workspace is None:
            raise TaskEnded("internal", "The task has no workspace.")
        return self.progress.workspace

    async def degrade(self, what: str, why: str) -> None:
        self.progress.degraded.append(Degradation(what=what, why=why))
        await self.tell("degraded", {"what": what, "why": why})

    async def tell(self, kind: str, data: Mapping[str, Any]) -> None:
        """Write an event, as a step: neither a replay nor a retry's replay tells it again."""
        self._events += 1
        key = f"{self.progress.workflow_id}:{kind}:{self._events}"
        task_id = self.progress.task_id
        await self.step("tell", lambda: self.crew.log.append_event(task_id, key, kind, "orchestrator", data), int)

    async def step(self, name: str, call: Callable[[], Awaitable[T]], returns: type[T]) -> T:
        try:
            return await self.crew.durable.step(name, call, returns)
        except DevToolsError as error:
            raise TaskEnded(await self._reason(error), f"{error} {error.hint}") from None

    async def _reason(self, error: DevToolsError) -> Reason:
        """Why a step failed; a workspace that is not there explains whatever failed in it."""
        workspace = self.progress.workspace
        if workspace is not None and not await self.crew.workspaces.exists(workspace.task_id):
            return "workspace_lost"
        return REASONS.get(type(error), "internal")
