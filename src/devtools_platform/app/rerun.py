"""`dev-tools eval from-history`: recorded tasks done anew with another model, prompt or version, and compared.

Each in a private clone at the commit the recorded one started from, in the sandbox, without a stack. Nothing is
published and nobody is asked: approvals are taken as given, a question to the person gets no answer.
"""

import asyncio
import tempfile
import time
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from devtools_platform.agents.adapters.git_workspaces import GitWorkspaces
from devtools_platform.agents.at_once import AtOnce
from devtools_platform.agents.crew import AGENT_RUN, Crew, TaskLimits
from devtools_platform.agents.definitions import load_definitions, working_agents
from devtools_platform.agents.orchestration import TaskWorkflow
from devtools_platform.agents.questions import People
from devtools_platform.agents.routing import load_router
from devtools_platform.agents.types import Workspace
from devtools_platform.app.bare import BareCrew, NoLog
from devtools_platform.app.models import ServedModel, choose_model, describe_model
from devtools_platform.app.replaying import open_records
from devtools_platform.config import Settings
from devtools_platform.core.approvals import Approval, ApprovalRequest, ApprovalRules
from devtools_platform.core.errors import DevToolsError, NotFound
from devtools_platform.core.tasks import Degradation, Run, TaskRequest, TaskResult


class Outcome(BaseModel):
    """What a task came to. Tokens and cost as the ledger has them, None where that is unknown."""

    status: str
    reason: str | None
    message: str
    model: str | None
    agents: tuple[str, ...]
    """Those of the plan, in order."""
    model_calls: int | None
    input_tokens: int | None
    output_tokens: int | None
    cost_usd: float | None
    work_s: float
    """The agents' runs together, in seconds; waiting for people is not in it."""

    @property
    def is_solved(self) -> bool:
        return self.status == "completed"


class Comparison(BaseModel):
    """One task, then and now."""

    task_id: str
    text: str
    recorded: Outcome
    again: Outcome | None
    """None when it could not be done anew; then `problem` says why."""
    problem: str = ""
    differences: list[str] = []


class History(BaseModel):
    """All tasks that were done anew."""

    model: str
    tasks: list[Comparison]

    def summary(self) -> dict[str, Any]:
        """Over the tasks that could be done anew; a sum with an unknown part is None."""
        done = [(one.recorded, one.again) for one in self.tasks if one.again is not None]
        return {
            "tasks": len(done),
            "not_done": len(self.tasks) - len(done),
            "recorded": _sum([recorded for recorded, _ in done]),
            "again": _sum([again for _, again in done]),
        }


def _sum(outcomes: Sequence[Outcome]) -> dict[str, Any]:
    def total(name: str) -> float | None:
        values: list[float | None] = [getattr(outcome, name) for outcome in outcomes]
        known = [value for value in values if value is not None]
        return round(sum(known), 6) if len(known) == len(values) else None

    names = ("model_calls", "input_tokens", "output_tokens", "cost_usd", "work_s")
    return {"solved": sum(outcome.is_solved for outcome in outcomes), **{name: total(name) for name in names}}


async def run_history(
    settings: Settings, limit: int, task_ids: Sequence[str], progress: Callable[[str, str], None]
) -> History:
    """The newest `limit` tasks that ended by themselves, or those that are named, on the settings' model."""
    async with open_records(settings) as records:
        wanted = list(task_ids) or await records.list_ended(limit)
        found = [(await records.read_task(id_), await records.list_runs(id_)) for id_ in wanted]
    with tempfile.TemporaryDirectory(prefix="dev-tools-history-") as name:
        folder = Path(name)
        async with _served(settings, folder, progress) as served:
            compared: list[Comparison] = []
            for (request, result), runs in found:
                progress("task", f"{result.id}  {result.text.splitlines()[0][:60]}")
                compared.append(await _compare(settings, served, folder, request, result, runs))
    return History(model=describe_model(served), tasks=compared)


@asynccontextmanager
async def _served(
    settings: Settings, folder: Path, progress: Callable[[str, str], None]
) -> AsyncGenerator[ServedModel]:
    served = await choose_model(settings, folder, lambda text: progress("model", text))
    progress("model", describe_model(served))
    try:
        yield served
    finally:
        if served.server is not None:
            await served.server.stop()


async def _compare(
    settings: Settings,
    served: ServedModel,
    folder: Path,
    request: TaskRequest,
    result: TaskResult,
    runs: Sequence[Run],
) -> Comparison:
    then = _recorded(result, runs)
    try:
        if result.base_commit is None:
            raise NotFound("The task ended before it had a clone, so it has no commit to start from.")
        again = await _do_anew(settings, served, folder / result.id, request, result)
    except DevToolsError as error:
        return Comparison(task_id=result.id, text=result.text, recorded=then, again=None, problem=str(error))
    return Comparison(
        task_id=result.id, text=result.text, recorded=then, again=again, differences=differences(then, again)
    )


def differences(then: Outcome, again: Outcome) -> list[str]:
    """What came out otherwise, one line each; figures that vary from run to run are left to the reader."""
    names = ("status", "reason", "model", "agents")
    found = [
        f"{name}: {_said(getattr(then, name))} -> {_said(getattr(again, name))}"
        for name in names
        if getattr(then, name) != getattr(again, name)
    ]
    if then.model_calls != again.model_calls:
        found.append(f"model calls: {_said(then.model_calls)} -> {_said(again.model_calls)}")
    return found


def _said(value: Any) -> str:
    if isinstance(value, tuple):
        return ", ".join(str(one) for one in value) or "none"  # pyright: ignore[reportUnknownVariableType, reportUnknownArgumentType]
    return "none" if value is None else str(value)


def _recorded(result: TaskResult, runs: Sequence[Run]) -> Outcome:
    work = sum((run.ended_at - run.started_at).total_seconds() for run in runs if run.ended_at is not None)
    return Outcome(
        status=result.status,
        reason=result.reason,
        message=result.message,
        model=result.model.name if result.model else None,
        agents=tuple(step.agent for step in result.plan.steps) if result.plan else (),
        model_calls=result.tokens.get("model_calls"),
        input_tokens=result.tokens.get("input"),
        output_tokens=result.tokens.get("output"),
        cost_usd=result.cost_usd,
        work_s=round(work, 3),
    )


async def _do_anew(
    settings: Settings, served: ServedModel, workspaces: Path, request: TaskRequest, result: TaskResult
) -> Outcome:
    await asyncio.to_thread(workspaces.mkdir)
    # Whoever waived the sandbox did so for the task as it was, not for what another model makes of it.
    changed = {"start_at": result.base_commit, "without_sandbox": False, "ask_before": ()}
    log = _Log(request.model_copy(update=changed))
    crew = BareCrew(settings, served, workspaces, log)
    given: Any = log
    ledger: Any = crew.meter
    task = Crew(
        durable=AtOnce({AGENT_RUN: crew.run}),
        log=given,
        ledger=ledger,
        workspaces=_Unpublished(workspaces, settings.min_free_disk_mb),
        tools=crew.tools,
        index=given,
        preflight=_Preflight(served),
        people=People(given, given, ledger, ApprovalRules(), "test"),
        slots=asyncio.Semaphore(1),
        model=served.info,
        max_review_rounds=settings.max_review_rounds,
        limits=TaskLimits(settings.max_replans, settings.max_agent_runs),
        router=load_router(settings.routing, working_agents(load_definitions(settings.agent_definitions))),
    )
    await TaskWorkflow(task)(result.id, {})
    plan: Mapping[str, Any] = log.result.get("plan") or {}
    meter = crew.meter
    return Outcome(
        status=log.status,
        reason=log.reason,
        message=log.message,
        model=served.info.name if served.info else None,
        agents=tuple(step["agent"] for step in plan.get("steps", ())),
        model_calls=meter.calls,
        input_tokens=meter.input_tokens,
        output_tokens=meter.output_tokens,
        cost_usd=None if meter.cost_usd is None else float(meter.cost_usd),
        work_s=round(log.work_s, 3),
    )


@dataclass(frozen=True)
class _Unpublished(GitWorkspaces):
    async def publish(self, workspace: Workspace) -> None:
        """Nothing leaves the clone."""


@dataclass(frozen=True)
class _Preflight:
    served: ServedModel

    async def check_model(self) -> None:
        await self.served.check_model()

    async def list_degradations(self) -> list[Degradation]:
        return []


@dataclass
class _Log(NoLog):
    """The task's life while it is done anew: how it ended, and how long its agents worked."""

    request: TaskRequest
    status: str = "failed"
    reason: str | None = None
    message: str = ""
    result: Mapping[str, Any] = field(default_factory=dict[str, Any])
    work_s: float = 0.0
    _began: dict[str, float] = field(default_factory=dict[str, float])

    async def get_request(self, _task_id: str) -> TaskRequest:
        return self.request

    async def mark_working(self, _task_id: str, _workflow_id: str) -> bool:
        return True

    async def is_paused(self, _task_id: str) -> bool:
        return False

    async def index(self, _repo: str) -> int:
        return 0

    async def begin_run(self, id_: str, _task_id: str, _agent: str, _n: int) -> None:
        self._began[id_] = time.perf_counter()

    async def end_run(self, id_: str, _status: str, _message: str) -> None:
        self.work_s += time.perf_counter() - self._began.pop(id_)

    async def finish(
        self,
        _task_id: str,
        _workflow_id: str,
        status: str,
        reason: str | None,
        message: str,
        result: Mapping[str, Any],
    ) -> None:
        self.status, self.reason, self.message, self.result = status, reason, message, result

    async def ask(self, request: ApprovalRequest) -> Approval:
        self._asked = request
        return await self.settle(request.id)

    async def settle(self, _id: str) -> Approval:
        now = datetime.now(UTC)
        asked = self._asked.model_dump(exclude={"workflow_id", "expires_after_s"})
        decided = {"decided_by": None, "decided_at": now, "reason": "", "edited_arguments": None}
        times = {"expires_at": now, "created_at": now}
        return Approval.model_validate({**asked, **decided, **times, "status": "approved", "version": 1})
