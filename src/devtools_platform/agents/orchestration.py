"""A task from request to branch: prepare, plan, work, test, review, commit, finish. Every line is a durable step.

The parent workflow `task` holds only our own steps; each agent run is a child workflow `{task}/{agent}/{n}`. The
order of the steps and their names are stored history: a change to them goes behind `Durable.patched`.
A change becomes a branch only if the project's tests pass with it and the review does not block it.
"""

import asyncio
import re
import traceback
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, TypeVar

from devtools_platform.agents import prompts
from devtools_platform.agents.interfaces import CodeIndex, Estimates, ModelLedger, Preflight, TaskLog, Workspaces
from devtools_platform.agents.modelless import POSSIBLE, scaffold_for
from devtools_platform.agents.planning import goal_of, list_waves, to_plan
from devtools_platform.agents.questions import People, Questions
from devtools_platform.agents.routing import Router, load_router
from devtools_platform.agents.tool_calls import DurableTools, shorten
from devtools_platform.agents.types import (
    AgentReport,
    Diff,
    Merge,
    PlanDraft,
    Refusal,
    RunCost,
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
    PlanStep,
    Reason,
    Review,
    TaskRequest,
    TestRun,
    Usage,
)
from devtools_platform.core.tools import Caller
from devtools_platform.kit.telemetry import task_span

T = TypeVar("T")

TASK = "task"
AGENT_RUN = "agent_run"
MAX_QUESTIONS = 2
COSTS = "costs"
"""The patch by which plans say what each step may cost."""
REPLAN = "replan"
"""The patch by which tasks that began before there were new plans end as they would have."""

_OLD_FILE = re.compile(r"^--- a/(?P<path>[^\t\n]+)", re.MULTILINE)
_TEST_PATH = re.compile(r"(^|/)(tests?|testing|spec|__tests__)/|(^|/)(test_[^/]*|[^/]*[_.](test|spec)\.\w+)$")

_REASONS: dict[type[DevToolsError], Reason] = {
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
class Job:
    """A step that runs beside others: what its agent is told, and the clone it works in."""

    step: PlanStep
    prompt: str
    folder: str


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


class TaskRun:
    """One execution of the `task` workflow."""

    def __init__(self, crew: Crew, progress: Progress) -> None:
        self.crew = crew
        self.progress = progress
        self.caller = Caller(progress.task_id, "orchestrator", progress.request.without_sandbox)
        self.questions = Questions(crew.durable, crew.people, progress.task_id, progress.workflow_id, progress.request)
        self._events = 0

    async def work(self) -> str:
        """Do the whole task; returns the message for the person. Raises `TaskEnded`."""
        async with self.crew.slots:
            await self._prepare()
            baseline = await self._test("baseline")
        plan = await self._make_plan()
        await self.questions.plan(plan)
        plan = await self._follow(plan, baseline)
        await self._test_and_review(plan, baseline)
        await self.questions.publish(await self._last_diff())
        return await self._publish()

    # -- the steps ---------------------------------------------------------------------------------------------

    async def _prepare(self) -> None:
        request, progress = self.progress.request, self.progress
        is_ours = await self._step(
            "mark_working", lambda: self.crew.log.mark_working(progress.task_id, progress.workflow_id), bool
        )
        if not is_ours:
            raise TaskEnded("cancelled", "The task ended before its work began.")
        workspace = await self._step(
            "workspace",
            lambda: self.crew.workspaces.create(progress.task_id, request.repo, request.start_at),
            Workspace,
        )
        # A retry or a fork has this step's result from the workflow it came from.
        branch = f"task/{progress.workflow_id}"
        workspace = workspace.model_copy(update={"task_id": progress.task_id, "branch": branch})
        progress.workspace = workspace
        await self._tell("workspace", {"base_commit": workspace.base_commit, "branch": workspace.branch})
        if workspace.was_dirty:
            await self._degrade(
                "uncommitted changes left out",
                "The task works on the last commit; what is not committed is not in it.",
            )
        if request.without_sandbox:
            await self._degrade("no sandbox", "The request waived it: commands of the repository ran unisolated.")
        for lack in await self._step("machine", self.crew.preflight.list_degradations, list[Degradation]):
            await self._degrade(lack.what, lack.why)
        refusal = await self._step("preflight", self._check_model, Refusal)
        if refusal.reason is not None:
            raise TaskEnded(refusal.reason, refusal.message)
        indexed = await self._step("index", self._index, str)
        if indexed:
            await self._degrade("no code context", indexed)

    async def _check_model(self) -> Refusal:
        try:
            await self.crew.preflight.check_model()
        except NoModel as error:
            request = self.progress.request
            agent = request.agent or self.crew.router.route(request.text)
            if scaffold_for(agent, request.text) is not None:
                return Refusal()  # a program can do it; the run says that it did
            return Refusal(reason="needs_model", message=f"{error} {error.hint} {POSSIBLE}")
        except DevToolsError as error:
            return Refusal(reason=_REASONS.get(type(error), "model_failed"), message=f"{error} {error.hint}")
        return Refusal()

    async def _index(self) -> str:
        try:
            await self.crew.index.index(self.progress.request.repo)
        except DevToolsError as error:
            return str(error)
        return ""

    async def _make_plan(self) -> Plan:
        request = self.progress.request
        chosen = request.agent or self.crew.router.route(request.text)
        if chosen is not None:
            source = "request" if request.agent else "rules"
            plan = Plan(steps=(PlanStep(id="1", agent=chosen, goal=request.text),), source=source)
        else:
            plan = to_plan(await self._draft())
        return await self._adopt(plan)

    async def _adopt(self, plan: Plan) -> Plan:
        if await self.crew.durable.patched(COSTS):
            costs = await self._step("costs", lambda: self._estimate(plan), list[RunCost])
            known = [
                step.model_copy(update={"cost_usd": c.cost_usd, "cost_runs": c.runs})
                for step, c in zip(plan.steps, costs, strict=True)
            ]
            plan = plan.model_copy(update={"steps": tuple(known)})
        self.progress.plan = plan
        await self._tell("plan", plan.model_dump(mode="json"))
        return plan

    async def _estimate(self, plan: Plan) -> list[RunCost]:
        estimates = self.crew.estimates
        if estimates is None:
            return [RunCost() for _ in plan.steps]
        return [await estimates.cost_of_run(step.agent) for step in plan.steps]

    async def _draft(self) -> PlanDraft:
        """The orchestrator's draft; what it asks is answered by the person first."""
        question = ""
        for _ in range(MAX_QUESTIONS + 1):
            text = self.progress.request.text
            draft = PlanDraft.model_validate(await self._run_agent("orchestrator", prompts.plan_prompt(text), text))
            if not draft.question:
                return draft
            question = draft.question
            clearer = prompts.answered(text, question, await self.questions.clarify(question))
            self.progress.request = self.progress.request.model_copy(update={"text": clearer})
        raise TaskEnded("not_solved", f"After {MAX_QUESTIONS} answers the request is still unclear: {question}")

    async def _follow(self, plan: Plan, baseline: TestRun | None) -> Plan:
        """Carry the plan out; where one of the model's fails, a new one for the rest. Returns the last."""
        for replans in range(self.crew.limits.replans + 1):
            try:
                for wave in list_waves(plan.steps):
                    if len(wave) == 1:
                        await self._do(wave[0], baseline)
                    else:
                        await self._do_at_once(wave, baseline)
            except TaskEnded as end:
                is_hopeless = plan.source != "model" or end.reason != "not_solved"
                if is_hopeless or replans == self.crew.limits.replans or not await self.crew.durable.patched(REPLAN):
                    raise
                plan = await self._replan(plan, end.message)
            else:
                break
        return plan

    async def _replan(self, plan: Plan, problem: str) -> Plan:
        text = self.progress.request.text
        await self._degrade("the plan failed", f"A new one was made. {problem}")
        prompt = prompts.replan_prompt(text, plan, problem)
        draft = PlanDraft.model_validate(await self._run_agent("orchestrator", prompt, text))
        if draft.question:
            raise TaskEnded("not_solved", f"The plan failed ({problem}), and the orchestrator asks: {draft.question}")
        new = await self._adopt(to_plan(draft, first=int(plan.steps[-1].id) + 1))
        await self.questions.plan(new)
        return new

    async def _do(self, step: PlanStep, baseline: TestRun | None) -> None:
        prompt = prompts.step_prompt(self.progress.request.text, goal_of(step), baseline)
        report = await self._delegate(step.agent, step, prompt)
        self.progress.commit_message = self.progress.commit_message or report.commit_message

    async def _do_at_once(self, wave: Sequence[PlanStep], baseline: TestRun | None) -> None:
        """Steps that need nothing of each other, each in a clone of its own; then their changes go together.

        What does not go together is done again on top of the others. A step that fails does not lose the others'.
        """
        text, beside = self.progress.request.text, [step.id for step in wave]
        await self.questions.hold()
        said = await self._step("messages", self._take_messages, list[str])
        jobs: list[Job] = []
        for step in wave:
            data = {"agent": step.agent, "step": step.id, "goal": step.goal, "at_once": beside}
            await self._tell("delegated", data)
            prompt = prompts.with_messages(prompts.step_prompt(text, goal_of(step), baseline), said)
            # The attempt is part of it: a retry must not find the clone that an earlier one left behind.
            attempt = self.progress.workflow_id.partition(".")[2] or "1"
            name = f"{attempt}-{self.progress.snapshots}-{step.id}"
            folder = await self._step("split", partial(self.crew.workspaces.split, self._workspace(), name), str)
            jobs.append(Job(step, prompt, folder))
        started = [self._child(job.step.agent, job.prompt, job.step.goal, None, job.folder) for job in jobs]
        outcomes = await self.crew.durable.children(started)
        ends = [
            await self._collect(job, RunOutcome.model_validate(raw)) for job, raw in zip(jobs, outcomes, strict=True)
        ]
        await self._take_snapshot()
        for end in ends:
            if end is not None:
                raise end

    async def _collect(self, job: Job, outcome: RunOutcome) -> TaskEnded | None:
        """Bring in what one of several steps did; returns why it did not, for the others still count."""
        step = job.step
        try:
            output = await self._settle(step.agent, job.prompt, step.goal, outcome, job.folder)
            report = AgentReport.model_validate(output)
            await self._tell("reported", {"agent": step.agent, "step": step.id, **report.model_dump(mode="json")})
            if report.outcome == "cannot":
                return TaskEnded("not_solved", f"{step.agent} could not do it: {report.summary}")
            merge = await self._step("merge", partial(self.crew.workspaces.merge, self._workspace(), job.folder), Merge)
            if merge.conflicts:
                await self._tell("conflict", {"step": step.id, "files": merge.conflicts})
                await self._degrade("steps got in each other's way", f"Step {step.id} was done again after the others.")
                prompt = prompts.conflict_prompt(self.progress.request.text, goal_of(step), merge.conflicts)
                report = await self._delegate(step.agent, step, prompt)
        except TaskEnded as end:
            return end
        self.progress.commit_message = self.progress.commit_message or report.commit_message
        return None

    async def _delegate(self, agent: AgentName, step: PlanStep, prompt: str) -> AgentReport:
        await self._tell("delegated", {"agent": agent, "step": step.id, "goal": step.goal})
        await self.questions.hold()
        said = await self._step("messages", self._take_messages, list[str])
        report = AgentReport.model_validate(
            await self._run_agent(agent, prompts.with_messages(prompt, said), step.goal)
        )
        await self._take_snapshot()
        await self._tell("reported", {"agent": agent, "step": step.id, **report.model_dump(mode="json")})
        if report.outcome == "cannot":
            raise TaskEnded("not_solved", f"{agent} could not do it: {report.summary}")
        return report

    async def _take_messages(self) -> list[str]:
        taker = f"{self.progress.workflow_id}:{self._events}"
        return await self.crew.log.take_messages(self.progress.task_id, taker)

    async def _take_snapshot(self) -> None:
        self.progress.snapshots += 1
        name = f"s{self.progress.snapshots}"
        workspace = self._workspace()

        async def take() -> str:
            await self.crew.workspaces.snapshot(workspace, name)
            return name

        await self._step("snapshot", take, str)

    async def _test_and_review(self, plan: Plan, baseline: TestRun | None) -> None:
        last = plan.steps[-1]
        for round_ in range(self.crew.max_review_rounds + 1):
            problem = await self._problem(plan, baseline)
            if problem is None:
                return
            reason, text = problem
            if round_ == self.crew.max_review_rounds:
                raise TaskEnded(reason, text)
            prompt = prompts.repair_prompt(self.progress.request.text, last.goal, text)
            await self._delegate(last.agent, last, prompt)

    async def _problem(self, plan: Plan, baseline: TestRun | None) -> tuple[Reason, str] | None:
        """What stands against the change as it is now, or None."""
        async with self.crew.slots:
            await self._require_change()
            final = await self._test("final")
            # After the tests: what they leave behind is part of what is reviewed and committed, so it must be seen.
            await self._read_diff()
        if final is not None and not final.is_passing and not self._may_stay_red(plan, baseline):
            return "tests_failed", prompts.test_problem(final)
        if final is not None and not final.is_passing:
            await self._degrade("tests fail", "They failed before the change as well, and no step touched code.")
        review = await self._review(final)
        if review.verdict == "request_changes":
            listed = [f"{f.path}:{f.line}: {f.message} ({f.source} {f.rule})" for f in review.findings if f.is_blocking]
            return "review_blocked", "\n".join([review.remark, *listed]).strip()
        return None

    def _may_stay_red(self, plan: Plan, baseline: TestRun | None) -> bool:
        touches_code = any(step.agent == "feature-dev" for step in plan.steps)
        return not touches_code and baseline is not None and not baseline.is_passing

    async def _require_change(self) -> None:
        workspace = self._workspace()
        diff = await self._step("has_change", lambda: self.crew.workspaces.diff(workspace), Diff)
        if not diff.stat.files:
            raise TaskEnded("no_change", "The agents ended without changing a file.")

    async def _read_diff(self) -> None:
        workspace = self._workspace()
        diff = await self._step("diff", lambda: self.crew.workspaces.diff(workspace), Diff)
        self.progress.diff = diff.stat
        what = "existing tests were changed"
        changed = changed_tests(diff.text)
        if changed and all(degradation.what != what for degradation in self.progress.degraded):
            await self._degrade(what, f"Look whether they still ask for the right thing: {', '.join(changed)}.")
        await self._tell("diff", {**diff.stat.model_dump(), "text": shorten(diff.text, 60_000)})
        await self._keep("diff", f"{self.progress.workflow_id}.diff", diff.text)

    async def _keep(self, kind: str, name: str, text: str) -> None:
        key = f"{self.progress.workflow_id}:{kind}:{self._events}"
        task_id = self.progress.task_id
        await self._step("keep", lambda: self.crew.log.store_artifact(task_id, key, kind, name, text), str)

    async def _last_diff(self) -> str:
        workspace = self._workspace()
        return (await self._step("shown_diff", lambda: self.crew.workspaces.diff(workspace), Diff)).text

    async def _review(self, tests: TestRun | None) -> Review:
        text = tests.model_dump_json() if tests else ""
        output = await self._run_agent("code-review", text, self.progress.request.text)
        self.progress.review = Review.model_validate(output)
        await self._tell("review", self.progress.review.model_dump(mode="json"))
        return self.progress.review

    async def _publish(self) -> str:
        workspace = self._workspace()
        message = self.progress.commit_message or self.progress.request.text.splitlines()[0][:72]

        async def commit_change() -> str:
            return await self.crew.workspaces.commit(workspace, message) or ""

        commit = await self._step("commit", commit_change, str)
        if not commit:
            raise TaskEnded("no_change", "The agents ended without changing a file.")
        await self._step("publish", lambda: self.crew.workspaces.publish(workspace), type(None))
        self.progress.commits.append(commit)
        self.progress.branch = workspace.branch
        await self._tell("commit", {"commit": commit, "branch": workspace.branch, "message": message})
        return f"The change is on branch {workspace.branch}."

    # -- means -------------------------------------------------------------------------------------------------

    async def _test(self, stage: str) -> TestRun | None:
        """Run the project's own tests through the gateway; None when the project has none."""
        self._events += 1
        result = await self.crew.tools.call(
            self.caller, "workspace_run_tests", {}, f"{self.progress.workflow_id}:{stage}:{self._events}"
        )
        if "command" not in result.data and result.data.get("code") != "no_test_command":
            reasons: dict[str, Reason] = {"no_sandbox": "no_sandbox", "disk_full": "disk_full"}
            reason = reasons.get(str(result.data.get("code")), "internal")
            raise TaskEnded(reason, f"The project's tests could not be run: {result.text}")
        if "command" not in result.data:
            what = "no tests were run"
            if all(degradation.what != what for degradation in self.progress.degraded):
                await self._degrade(what, result.text)
            return None
        known = {key: result.data[key] for key in ("command", "exit_code", "duration_s", "ended_by", "output")}
        run = TestRun.model_validate({"stage": stage, **known})
        self.progress.tests.append(run)
        await self._tell("tests", run.model_dump(mode="json"))
        await self._keep("test_output", f"{stage}-tests.txt", run.output)
        return run

    async def _run_agent(self, agent: AgentName, prompt: str, goal: str) -> Mapping[str, Any]:
        """The agent's output. A run that stops to wait for a person is followed by one that goes on."""
        return await self._settle(agent, prompt, goal, await self._run_once(agent, prompt, goal, None))

    async def _settle(
        self, agent: AgentName, prompt: str, goal: str, outcome: RunOutcome, folder: str = ""
    ) -> Mapping[str, Any]:
        """The output of a run, once every question it stopped for is answered."""
        while True:
            for degradation in outcome.degraded:
                await self._degrade(degradation.what, degradation.why)
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
        child = self._child(agent, prompt, goal, resumed, folder)
        return RunOutcome.model_validate((await self.crew.durable.children([child]))[0])

    def _child(self, agent: AgentName, prompt: str, goal: str, resumed: dict[str, Any] | None, folder: str) -> Child:
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

    def _workspace(self) -> Workspace:
        if self.progress.workspace is None:
            raise TaskEnded("internal", "The task has no workspace.")
        return self.progress.workspace

    async def _degrade(self, what: str, why: str) -> None:
        self.progress.degraded.append(Degradation(what=what, why=why))
        await self._tell("degraded", {"what": what, "why": why})

    async def _tell(self, kind: str, data: Mapping[str, Any]) -> None:
        """Write an event, as a step: neither a replay nor a retry's replay tells it again."""
        self._events += 1
        key = f"{self.progress.workflow_id}:{kind}:{self._events}"
        task_id = self.progress.task_id
        await self._step("tell", lambda: self.crew.log.append_event(task_id, key, kind, "orchestrator", data), int)

    async def _step(self, name: str, call: Callable[[], Awaitable[T]], returns: type[T]) -> T:
        try:
            return await self.crew.durable.step(name, call, returns)
        except DevToolsError as error:
            raise TaskEnded(await self._reason(error), f"{error} {error.hint}") from None

    async def _reason(self, error: DevToolsError) -> Reason:
        """Why a step failed; a workspace that is not there explains whatever failed in it."""
        workspace = self.progress.workspace
        if workspace is not None and not await self.crew.workspaces.exists(workspace.task_id):
            return "workspace_lost"
        return _REASONS.get(type(error), "internal")


def changed_tests(diff: str) -> list[str]:
    """Test files that were there before and that a unified diff changes or deletes."""
    old = {match["path"] for match in _OLD_FILE.finditer(diff)}
    return sorted(path for path in old if _TEST_PATH.search(path))


class TaskWorkflow:
    """The workflow `task`, as registered with the engine."""

    def __init__(self, crew: Crew) -> None:
        self.crew = crew

    async def __call__(self, id_: str, argument: dict[str, Any]) -> dict[str, Any]:
        # Not from the argument: a fork has that of the workflow it came from.
        task_id = id_.partition(".")[0]
        with task_span(task_id, "orchestrator", "task"):
            request = await self.crew.durable.step("request", lambda: self.crew.log.get_request(task_id), TaskRequest)
            return await self._carry_out(TaskRun(self.crew, Progress(task_id, id_, request)))

    async def _carry_out(self, run: TaskRun) -> dict[str, Any]:
        progress, log, durable = run.progress, self.crew.log, self.crew.durable
        reason: Reason | None = None
        try:
            message = await run.work()
        except TaskEnded as end:
            message, reason = end.message, end.reason
        except Exception as error:  # noqa: BLE001 - the edge of a task: a bug ends this one, not the worker
            message, reason = f"Something broke on our side: {type(error).__name__}.", "internal"
            detail = {"message": message, "traceback": traceback.format_exc()[-4000:]}
            key = f"{progress.workflow_id}:error"
            await durable.step("error", lambda: log.append_event(progress.task_id, key, "error", None, detail), int)
        usage = await durable.step("usage", lambda: self.crew.ledger.usage(progress.task_id), Usage)
        result = _result(progress, usage, self.crew.model)
        status = "failed" if reason else "completed"
        await durable.step(
            "finish",
            lambda: log.finish(progress.task_id, progress.workflow_id, status, reason, message, result),
            type(None),
        )
        if reason == "disk_full":  # kept for a retry otherwise; here its room is what everybody else needs
            await durable.step("clean", lambda: self.crew.workspaces.remove(progress.task_id), type(None))
        return {"status": status, "reason": reason}


def _result(progress: Progress, usage: Usage, model: ModelInfo | None) -> dict[str, Any]:
    def dump(value: Any) -> Any:
        return value.model_dump(mode="json") if value is not None else None

    return {
        "plan": dump(progress.plan),
        "branch": progress.branch,
        "base_commit": progress.workspace.base_commit if progress.workspace else None,
        "commits": progress.commits,
        "diff": dump(progress.diff),
        "tests": [dump(run) for run in progress.tests],
        "review": dump(progress.review),
        "tokens": {
            "input": usage.input_tokens,
            "output": usage.output_tokens,
            "model_calls": usage.model_calls,
            "tool_calls": usage.tool_calls,
        },
        "cost_usd": usage.cost_usd,
        "model": dump(model),
        "degraded": [dump(degradation) for degradation in progress.degraded],
    }
