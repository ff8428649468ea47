"""Where else a task can be seen: the issue it came from, its pull request, its trace."""

from collections.abc import Sequence
from dataclasses import dataclass

import sqlalchemy as sa

from devtools_platform.config import Settings
from devtools_platform.console.types import TaskLink
from devtools_platform.core.tasks import TaskResult
from devtools_platform.integrations.adapters.sql import SqlOutbox
from devtools_platform.integrations.publication import place_of_pull
from devtools_platform.integrations.types import Json, Link

LINEAR = "https://linear.app/issue"


@dataclass(frozen=True)
class TaskLinks:
    settings: Settings
    store: sa.Engine

    async def of(self, task: TaskResult) -> Sequence[TaskLink]:
        """Those that are known; a task that was started here has no thread."""
        links = SqlOutbox(self.store, "console")
        link = await links.find_link(task.id)
        found: list[TaskLink] = []
        if link is not None:
            found += self._thread(link)
            pull = await links.find_remote(place_of_pull(task.id))
            target: Json = link.origin if link.service == "github" else link.origin.get("target") or {}
            if pull is not None and (page := self._repository(target)):
                found.append(TaskLink(f"Pull request #{pull}", f"{page}/pull/{pull}"))
        if self.settings.langfuse_public_key and self.settings.langfuse_secret_key:
            place = self.settings.langfuse_base_url.rstrip("/")
            found.append(TaskLink("Langfuse", f"{place}/trace/{task.trace_id}"))
        return found

    def _thread(self, link: Link) -> list[TaskLink]:
        if link.service == "linear":
            name = link.origin.get("identifier")
            return [TaskLink(f"Linear {name}", f"{LINEAR}/{name}")] if name else []
        page, number = self._repository(link.origin), link.origin.get("number")
        return [TaskLink(f"GitHub #{number}", f"{page}/issues/{number}")] if page and number else []

    def _repository(self, origin: Json) -> str | None:
        owner, repo = origin.get("owner"), origin.get("repo")
        if not owner or not repo:
            return None
        return self.settings.github_git_url.format(owner=owner, repo=repo).removesuffix(".git")
