"""Home: what a person should see first. What waits for them, what runs, who works on it, whether all is well."""

from collections.abc import Sequence

from fastapi import Request
from fastapi.responses import Response

from devtools_platform.console.pages import Door, Pages, get
from devtools_platform.console.task_pages import blank_form
from devtools_platform.console.types import Wanted
from devtools_platform.console.words import is_running
from devtools_platform.core.approvals import Approval
from devtools_platform.core.errors import Unavailable
from devtools_platform.core.tasks import TaskResult

LOOKED_AT = 100
RECENT = 6


class HomePage(Pages):
    def doors(self) -> Sequence[Door]:
        return (get("/", self.home),)

    async def home(self, request: Request) -> Response:
        tasks, approvals, trouble = await self._newest()
        return await self.show(
            request,
            "home.html",
            services=await self.stack.stack.services(),
            has_hosts=self.stack.delivery.is_set_up,
            delivered=self.stack.delivery.glance(),
            agents=await self.stack.stack.agents(),
            approvals=approvals,
            titles={task.id: task.text for task in tasks},
            running=[task for task in tasks if is_running(task)],
            recent=[task for task in tasks if not is_running(task)][:RECENT],
            trouble=trouble,
            **blank_form(tasks),
        )

    async def _newest(self) -> tuple[Sequence[TaskResult], Sequence[Approval], Unavailable | None]:
        """Home is where one looks when the state service is down, so it does without."""
        try:
            tasks = await self.stack.tasks.list_tasks(LOOKED_AT, Wanted())
            return tasks.items, await self.stack.approvals.list_approvals(status="pending"), None
        except Unavailable as error:
            return (), (), error
