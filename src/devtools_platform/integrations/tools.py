"""CI runs as tools: which there were, why one failed, run it again, start another, say how a deployment went.

For the repository of the caller's own task and no other. Logs are other people's words: data, shortened to what
explains a failure.
"""

import re
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any, Literal

from pydantic import Field

from devtools_platform.core.errors import BadInput, DevToolsError
from devtools_platform.core.redact import redact_text
from devtools_platform.core.tools import Caller, Tool, ToolResult
from devtools_platform.integrations.interfaces import Actions
from devtools_platform.integrations.types import Json
from devtools_platform.kit.arguments import Arguments, read_arguments

MAX_JOBS = 5
LINES_BEFORE_ERROR = 40
LINES_AT_END = 60
MAX_LOG_CHARS = 20_000

_STAMP = re.compile(r"^\ufeff?\d{4}-\d\d-\d\dT[\d:.]+Z ", re.MULTILINE)
_COLOUR = re.compile(r"\x1b\[[0-9;]*[A-Za-z]")
_ERROR = "##[error]"

FindTarget = Callable[[Caller], Awaitable[Json]]
"""The repository at GitHub that a caller's task works on. Raises `BadInput` when there is none."""


class RunsArguments(Arguments):
    """Arguments of `runs`."""

    branch: str | None = Field(default=None, max_length=250, description="Only of this branch.")
    only_failed: bool = Field(default=False, description="Only runs that failed.")
    limit: int = Field(default=10, ge=1, le=50)


class JobLogArguments(Arguments):
    """Arguments of `job_log`."""

    run: int = Field(ge=1, description="The run's id, from `ci_runs`.")
    job: int | None = Field(default=None, ge=1, description="A job's id; by default every job that failed.")


class RerunArguments(Arguments):
    """Arguments of `rerun_failed`."""

    run: int = Field(ge=1, description="The run's id, from `ci_runs`.")


class StartArguments(Arguments):
    """Arguments of `start_workflow`."""

    workflow: str = Field(pattern=r"^[\w.-]+\.ya?ml$", max_length=200, description="Its file's name, as deploy.yml.")
    ref: str = Field(min_length=1, max_length=250, description="The branch or tag to run it on.")
    inputs: dict[str, str] = Field(default_factory=dict[str, str], max_length=10, description="What it asks for.")


class DeploymentArguments(Arguments):
    """Arguments of `set_deployment`."""

    deployment: int = Field(ge=1, description="The deployment's id at GitHub.")
    state: Literal["in_progress", "success", "failure", "error", "inactive", "queued", "pending"]
    url: str | None = Field(default=None, pattern=r"^https://", max_length=1000, description="Where it can be seen.")


ARGUMENTS: dict[str, type[Arguments]] = {
    "runs": RunsArguments,
    "job_log": JobLogArguments,
    "rerun_failed": RerunArguments,
    "start_workflow": StartArguments,
    "set_deployment": DeploymentArguments,
}
DESCRIPTIONS = {
    "runs": "The workflow runs of this repository at GitHub, the newest first: id, workflow, branch, outcome.",
    "job_log": "Why a run failed: for each failed job the steps that failed and the log around every error.",
    "rerun_failed": "Run the failed jobs of a run again. A person is asked first.",
    "start_workflow": "Start a workflow that has a `workflow_dispatch` trigger. A person is asked first.",
    "set_deployment": "Tell GitHub how a deployment went. A person is asked first.",
}
CHANGING = frozenset({"rerun_failed", "start_workflow", "set_deployment"})


class CiTools:
    """`ToolServer` named `ci`."""

    name = "ci"

    def __init__(self, actions: Actions, find_target: FindTarget) -> None:
        self.actions = actions
        self.find_target = find_target

    def list_tools(self) -> Sequence[Tool]:
        return [
            Tool(
                name,
                DESCRIPTIONS[name],
                arguments.model_json_schema(),
                is_read_only=name not in CHANGING,
                risk="high" if name in CHANGING else "low",
            )
            for name, arguments in ARGUMENTS.items()
        ]

    async def call(self, name: str, arguments: Mapping[str, Any], caller: Caller) -> ToolResult:
        try:
            return await self._call(name, arguments, caller)
        except DevToolsError as error:
            return ToolResult(str(error), error.to_dict(), is_error=True)

    async def _call(self, name: str, arguments: Mapping[str, Any], caller: Caller) -> ToolResult:
        match name:
            case "runs":
                wanted = read_arguments(RunsArguments, arguments)
                return await self._runs(await self.find_target(caller), wanted)
            case "job_log":
                which = read_arguments(JobLogArguments, arguments)
                return await self._job_log(await self.find_target(caller), which)
            case "rerun_failed":
                run = read_arguments(RerunArguments, arguments).run
                await self.actions.run_failed_again(await self.find_target(caller), run)
                return ToolResult(f"The failed jobs of run {run} run again.", {"run": run})
            case "start_workflow":
                start = read_arguments(StartArguments, arguments)
                await self.actions.dispatch(await self.find_target(caller), start.workflow, start.ref, start.inputs)
                return ToolResult(f"{start.workflow} starts on {start.ref}.", start.model_dump())
            case "set_deployment":
                said = read_arguments(DeploymentArguments, arguments)
                target = await self.find_target(caller)
                await self.actions.set_deployment(target, said.deployment, said.state, said.url)
                return ToolResult(f"Deployment {said.deployment} is {said.state}.", said.model_dump())
            case _:
                raise BadInput(f"There is no tool {name!r}.", hint=f"There are: {', '.join(ARGUMENTS)}.")

    async def _runs(self, target: Json, wanted: RunsArguments) -> ToolResult:
        found = await self.actions.list_runs(target, wanted.branch, only_failed=wanted.only_failed, limit=wanted.limit)
        runs = [
            {
                "id": run["id"],
                "workflow": run.get("name"),
                "path": run.get("path"),
                "branch": run.get("head_branch"),
                "commit": run.get("head_sha"),
                "event": run.get("event"),
                "status": run.get("status"),
                "conclusion": run.get("conclusion"),
            }
            for run in found
        ]
        lines = [
            f"{r['id']}  {r['conclusion'] or r['status']}  {r['workflow']} ({r['path']}) on {r['branch']}" for r in runs
        ]
        return ToolResult("\n".join(lines) or "There are no such runs.", {"runs": runs})

    async def _job_log(self, target: Json, wanted: JobLogArguments) -> ToolResult:
        failed = await self.actions.list_failed_jobs(target, wanted.run)
        jobs = failed if wanted.job is None else [job for job in failed if job["id"] == wanted.job]
        if not jobs:
            which = f"job {wanted.job} among the failed ones" if wanted.job else "failed job"
            raise BadInput(f"Run {wanted.run} has no {which}.", hint="Look at `ci_runs`.")
        told: list[dict[str, Any]] = []
        for job in jobs[:MAX_JOBS]:
            steps = [s.get("name") for s in job.get("steps") or () if s.get("conclusion") == "failure"]
            text = explain_log(
                await self.actions.read_log(target, job["id"]), MAX_LOG_CHARS // min(len(jobs), MAX_JOBS)
            )
            told.append({"id": job["id"], "name": job.get("name"), "failed_steps": steps, "log": text})
        parts = [
            f"job {t['id']} {t['name']}; failed: {', '.join(map(str, t['failed_steps']))}\n{t['log']}" for t in told
        ]
        left = f"\n\n{len(jobs) - MAX_JOBS} more jobs failed." if len(jobs) > MAX_JOBS else ""
        return ToolResult("\n\n".join(parts) + left, {"run": wanted.run, "jobs": told})


def explain_log(log: str, limit: int) -> str:
    """What of a job's log says why it failed: the lines before each error, and the end. At most `limit` characters."""
    lines = redact_text(_COLOUR.sub("", _STAMP.sub("", log))).splitlines()
    marks = [at for at, line in enumerate(lines) if line.startswith(_ERROR)]
    kept: set[int] = set()
    for at in marks:
        kept.update(range(max(0, at - LINES_BEFORE_ERROR), at + 1))
    if not marks:
        kept.update(range(max(0, len(lines) - LINES_AT_END), len(lines)))
    shown: list[str] = []
    last = -1
    for at in sorted(kept):
        if at != last + 1:
            shown.append(f"… {at - last - 1} lines left out …")
        shown.append(lines[at])
        last = at
    text = "\n".join(shown)
    return text if len(text) <= limit else f"…{text[-limit:]}"
