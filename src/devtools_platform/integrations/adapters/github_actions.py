"""GitHub Actions and deployments: start a workflow, see what ran, read why it failed, run it again."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol
from urllib.parse import urlencode

from devtools_platform.integrations.types import Json

FULL_PAGE = 100
MAX_LOG_BYTES = 4_000_000


class Calls(Protocol):
    """`adapters.github.GitHub`."""

    async def call(self, target: Json, method: str, path: str, body: Json | None = None) -> Any: ...

    async def read_tail(self, target: Json, path: str, limit: int) -> str: ...


@dataclass(frozen=True)
class GitHubActions:
    """Workflows: start one, run what failed again, read why."""

    github: Calls

    async def dispatch(self, target: Json, workflow: str, ref: str, inputs: Mapping[str, str]) -> None:
        """Start a workflow that has a `workflow_dispatch` trigger. `workflow` is its file name or id."""
        body = {"ref": ref, "inputs": dict(inputs)}
        await self.github.call(target, "POST", f"/actions/workflows/{workflow}/dispatches", body)

    async def run_failed_again(self, target: Json, run: int) -> None:
        await self.github.call(target, "POST", f"/actions/runs/{run}/rerun-failed-jobs", {})

    async def list_runs(self, target: Json, branch: str | None, *, only_failed: bool, limit: int) -> list[Json]:
        """The newest first."""
        wanted = {"per_page": str(limit), **({"branch": branch} if branch else {})}
        wanted |= {"status": "failure"} if only_failed else {}
        answer = await self.github.call(target, "GET", f"/actions/runs?{urlencode(wanted)}")
        return answer["workflow_runs"]

    async def list_failed_jobs(self, target: Json, run: int) -> list[Json]:
        answer = await self.github.call(target, "GET", f"/actions/runs/{run}/jobs?per_page={FULL_PAGE}")
        return [job for job in answer["jobs"] if job["conclusion"] == "failure"]

    async def read_log(self, target: Json, job: int) -> str:
        """The log of a job, of a long one its end; GitHub keeps it behind an address of its own that lasts a minute."""
        return await self.github.read_tail(target, f"/actions/jobs/{job}/logs", MAX_LOG_BYTES)

    async def set_deployment(self, target: Json, deployment: int, state: str, url: str | None = None) -> None:
        """`state` is GitHub's: `in_progress`, `success`, `failure`, `inactive` and so on."""
        body = {"state": state, **({"environment_url": url} if url else {})}
        await self.github.call(target, "POST", f"/deployments/{deployment}/statuses", body)
