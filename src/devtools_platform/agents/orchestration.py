"""A task from request to branch: prepare, plan, work, test, review, commit, finish. Every line is a durable step.

The parent workflow `task` holds only our own steps; each agent run is a child workflow `{task}/{agent}/{n}`. The
order of the steps and their names are stored history: a change to them goes behind `Durable.patched`.
A change becomes a branch only if the project's tests pass with it and the review does not block it.
"""

import re
import traceback
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

from devtools_platform.agents import prompts
from devtools_platform.agents.crew import REASONS, Crew, Means, Progress
from devtools_platform.agents.modelless import POSSIBLE, scaffold_for
from devtools_platform.agents.plans import Planned
from devtools_platform.agents.tool_calls import shorten
from devtools_platform.agents.types import (
    Diff,
    Refusal,
    TaskEnded,
    Workspace,
)
from devtools_platform.core.errors import (
    DevToolsError,
    DiskFull,
    NoModel,
)
from devtools_platform.core.tasks import (
    Degradation,
    ModelInfo,
    Plan,
    Reason,
    Review,
    TaskRequest,
    TestRun,
    Usage,
)
from devtools_platform.kit.patience import patiently
from devtools_platform.kit.telemetry import task_span

T = TypeVar("T")

_OLD_FILE = re.compile(r"^--- a/(?P<path>[^\t\n]+)", re.MULTILINE)
_TEST_PATH = re.compile(r"(^|/)(tests?|testing|spec|__tests__)/|(^|/)(test_[^/]*|[^/]*[_.](test|spec)\.\w+)$")


class TaskRun:
    """One execution of the `task` workflow."""

    def __init__(self, crew: Crew, progress: Progress) -> None:
        self.crew = crew
        self.progress = progress
        self.means = Means(crew, progress)
        self.plans = Planned(self.means)

    async def work(self) -> str:
        """Do the whole task; returns the message for the person. Raises `TaskEnded`."""
        async with self.crew.slots:
            await self._prepare()
            baseline = await self.means.test("baseline")
        plan = await self.plans.make()
        await self.means.questions.plan(plan)
        plan = await self.plans.follow(plan, baseline)
        await self._test_and_review(plan, baseline)
        await self.means.questions.publish(await self._last_diff())
        return await self._publish()

    async def _prepare(self) -> None:
        request, progress = self.progress.request, self.progress
        is_ours = await self.means.step(
            "mark_working", lambda: self.crew.log.mark_working(progress.task_id, progress.workflow_id), bool
        )
        if not is_ours:
            raise TaskEnded("cancelled", "The task ended before its work began.")
        workspace = await self.means.step(
            "workspace",
            lambda: self.crew.workspaces.create(progress.task_id, request.repo, request.start_at),
            Workspace,
        )
        # A retry or a fork has this step's result from the workflow it came from.
        branch = f"task/{progress.workflow_id}"
        workspace = workspace.model_copy(update={"task_id": progress.task_id, "branch": branch})
        progress.workspace = workspace
        await self.means.tell("workspace", {"base_commit": workspace.base_commit, "branch": workspace.branch})
        if workspace.was_dirty:
            await self.means.degrade(
                "uncommitted changes left out",
                "The task works on the last commit; what is not committed is not in it.",
            )
        if request.without_sandbox:
            await self.means.degrade("no sandbox", "The request waived it: commands of the repository ran unisolated.")
        for lack in await self.means.step("machine", self.crew.preflight.list_degradations, list[Degradation]):
            await self.means.degrade(lack.what, lack.why)
        refusal = await self.means.step("preflight", self._check_model, Refusal)
        if refusal.reason is not None:
            raise TaskEnded(refusal.reason, refusal.message)
        indexed = await self.means.step("index", self._index, str)
        if indexed:
            await self.means.degrade("no code context", indexed)

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
            return Refusal(reason=REASONS.get(type(error), "model_failed"), message=f"{error} {error.hint}")
        return Refusal()

    async def _index(self) -> str:
        try:
            await self.crew.index.index(self.progress.request.repo)
        except DevToolsError as error:
            return str(error)
        return ""

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
            await self.plans.delegate(last.agent, last, prompt)

    async def _problem(self, plan: Plan, baseline: TestRun | None) -> tuple[Reason, str] | None:
        """What stands against the change as it is now, or None."""
        async with self.crew.slots:
            await self._require_change()
            final = await self.means.test("final")
            # After the tests: what they leave behind is part of what is reviewed and committed, so it must be seen.
            await self._read_diff()
        if final is not None and not final.is_passing and not self._may_stay_red(plan, baseline):
            return "tests_failed", prompts.test_problem(final)
        if final is not None and not final.is_passing:
            await self.means.degrade("tests fail", "They failed before the change as well, and no step touched code.")
        review = await self._review(final)
        if review.verdict == "request_changes":
            listed = [f"{f.path}:{f.line}: {f.message} ({f.source} {f.rule})" for f in review.findings if f.is_blocking]
            return "review_blocked", "\n".join([review.remark, *listed]).strip()
        return None

    def _may_stay_red(self, plan: Plan, baseline: TestRun | None) -> bool:
        touches_code = any(step.agent == "feature-dev" for step in plan.steps)
        return not touches_code and baseline is not None and not baseline.is_passing

    async def _require_change(self) -> None:
        workspace = self.means.workspace()
        diff = await self.means.step("has_change", lambda: self.crew.workspaces.diff(workspace), Diff)
        if not diff.stat.files:
            raise TaskEnded("no_change", "The agents ended without changing a file.")

    async def _read_diff(self) -> None:
        workspace = self.means.workspace()
        diff = await self.means.step("diff", lambda: self.crew.workspaces.diff(workspace), Diff)
        self.progress.diff = diff.stat
        what = "existing tests were changed"
        changed = changed_tests(diff.text)
        if changed and all(degradation.what != what for degradation in self.progress.degraded):
            await self.means.degrade(what, f"Look whether they still ask for the right thing: {', '.join(changed)}.")
        await self.means.tell("diff", {**diff.stat.model_dump(), "text": shorten(diff.text, 60_000)})
        await self.means.keep("diff", f"{self.progress.workflow_id}.diff", diff.text)

    async def _last_diff(self) -> str:
        workspace = self.means.workspace()
        return (await self.means.step("shown_diff", lambda: self.crew.workspaces.diff(workspace), Diff)).text

    async def _review(self, tests: TestRun | None) -> Review:
        text = tests.model_dump_json() if tests else ""
        output = await self.means.run_agent("code-review", text, self.progress.request.text)
        self.progress.review = Review.model_validate(output)
        await self.means.tell("review", self.progress.review.model_dump(mode="json"))
        return self.progress.review

    async def _publish(self) -> str:
        workspace = self.means.workspace()
        message = self.progress.commit_message or self.progress.request.text.splitlines()[0][:72]

        async def commit_change() -> str:
            return await self.crew.workspaces.commit(workspace, message) or ""

        commit = await self.means.step("commit", commit_change, str)
        if not commit:
            raise TaskEnded("no_change", "The agents ended without changing a file.")
        await self.means.step("publish", lambda: self.crew.workspaces.publish(workspace), type(None))
        self.progress.commits.append(commit)
        self.progress.branch = workspace.branch
        await self.means.tell("commit", {"commit": commit, "branch": workspace.branch, "message": message})
        return f"The change is on branch {workspace.branch}."


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
        progress = run.progress
        reason: Reason | None = None
        try:
            message = await run.work()
        except TaskEnded as end:
            message, reason = end.message, end.reason
        except DiskFull as error:  # met outside a step of `Means`, as where a call is written down
            message, reason = f"{error} {error.hint}", "disk_full"
        except Exception as error:  # noqa: BLE001 - the edge of a task: a bug ends this one, not the worker
            message, reason = f"Something broke on our side: {type(error).__name__}.", "internal"
            detail = {"message": message, "traceback": traceback.format_exc()[-4000:]}
            key = f"{progress.workflow_id}:error"
            log = self.crew.log
            await self._last_step("error", lambda: log.append_event(progress.task_id, key, "error", None, detail), int)
        if reason == "disk_full":  # kept for a retry otherwise; here its room is what everybody else needs, its end too
            await self.crew.workspaces.remove(progress.task_id)
        usage = await self._last_step("usage", lambda: self.crew.ledger.usage(progress.task_id), Usage)
        result = _result(progress, usage, self.crew.model)
        status = "failed" if reason else "completed"
        await self._last_step(
            "finish",
            lambda: self.crew.log.finish(progress.task_id, progress.workflow_id, status, reason, message, result),
            type(None),
        )
        return {"status": status, "reason": reason}

    async def _last_step(self, name: str, call: Callable[[], Awaitable[T]], returns: type[T]) -> T:
        """A step without which a task that is over would stay open for ever: it waits for room in the database."""
        return await self.crew.durable.step(name, lambda: patiently(call, while_=DiskFull), returns)


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
