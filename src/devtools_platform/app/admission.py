"""What is checked before a task is stored: a request that cannot be carried out is refused, and nothing is kept."""

import asyncio
import shutil
from dataclasses import dataclass
from pathlib import Path

from devtools_platform.agents.definitions import load_definitions, working_agents
from devtools_platform.app.sandbox import sandbox_of
from devtools_platform.config import Settings
from devtools_platform.core.errors import BadInput, DiskFull, UnknownAgent
from devtools_platform.core.tasks import TaskRequest
from devtools_platform.kit.git import at_commit, resolve_repository
from devtools_platform.kit.sandbox import find_sandbox


@dataclass(frozen=True)
class Admission:
    settings: Settings
    runs_commands: bool = True
    """Whether the sandbox is this process's: in services that run apart it is the gateway's."""

    async def admit(self, request: TaskRequest) -> TaskRequest:
        """The request with its repository resolved. Raises the error a person can act on."""
        if not request.text.strip():
            raise BadInput(
                "The task's text is empty; say what you want done.",
                hint='dev-tools task run "TEXT" --repo DIR',
            )
        if request.agent is not None:
            self._check_agent(request.agent)
        if not Path(request.repo).is_absolute():
            raise BadInput(f"{request.repo!r} is not an absolute path.", hint="Give the path from the root folder.")
        repository = await resolve_repository(Path(request.repo))
        if request.start_at is not None:
            await at_commit(repository, request.start_at)
        folder = self.settings.workspaces_dir or self.settings.data_dir
        free_mb = shutil.disk_usage(folder).free // 2**20
        if free_mb < self.settings.min_free_disk_mb:
            raise DiskFull(
                f"{free_mb} MB are free in {folder}; at least "
                f"{self.settings.min_free_disk_mb} MB are needed for a task.",
                hint="Free some room there, or set DEV_TOOLS_MIN_FREE_DISK_MB lower.",
            )
        if self.runs_commands and not request.without_sandbox:
            await asyncio.to_thread(find_sandbox, sandbox_of(self.settings))
        return request.model_copy(update={"repo": str(repository.path)})

    def _check_agent(self, agent: str) -> None:
        definitions = load_definitions(self.settings.agent_definitions)
        hint = f"Give the task to one of {', '.join(working_agents(definitions))}, or to nobody."
        if agent not in definitions:
            raise UnknownAgent(f"There is no agent {agent!r}.", hint=hint)
        if agent not in working_agents(definitions):
            raise BadInput(f"{agent} has a part in every task and takes none alone.", hint=hint)
