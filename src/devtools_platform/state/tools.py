"""Tasks as tools, for people in their editor: hand one over, look at it, talk to it, cancel it.

Approving is not among them: that a person decides where no model can do it for them.
"""

from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any

from pydantic import Field

from devtools_platform.core.agents import AgentName
from devtools_platform.core.errors import DevToolsError
from devtools_platform.core.tasks import MAX_TASK_TEXT, Status, TaskRequest, TaskResult
from devtools_platform.core.tools import Caller, Tool, ToolResult
from devtools_platform.kit.arguments import Arguments, read_arguments
from devtools_platform.state.events import EventLog
from devtools_platform.state.service import StateService, Write
from devtools_platform.state.tasks import TaskFilter

MAX_EVENTS = 20


class ListArguments(Arguments):
    """Arguments of `list`."""

    status: Status | None = None
    limit: int = Field(default=10, ge=1, le=50)


class TaskArguments(Arguments):
    """Arguments of `show` and `cancel`."""

    id: str = Field(min_length=1, max_length=100, description="The task's id.")


class SteerArguments(TaskArguments):
    """Arguments of `steer`."""

    text: str = Field(min_length=1, max_length=MAX_TASK_TEXT, description="What the agent at work should know.")


class HandOverArguments(Arguments):
    """Arguments of `hand_over`."""

    text: str = Field(min_length=1, max_length=MAX_TASK_TEXT, description="What is to be done, as told to a colleague.")
    repo: str = Field(min_length=1, description="Absolute path of the git repository where the crew runs.")
    agent: AgentName | None = Field(default=None, description="One agent for all of it; by default the crew plans.")


def _tool(name: str, description: str, arguments: type[Arguments], *, is_read_only: bool) -> Tool:
    return Tool(name, description, arguments.model_json_schema(), is_read_only, is_for_people=True)


TOOLS = (
    _tool("list", "The crew's tasks, the newest first.", ListArguments, is_read_only=True),
    _tool(
        "show", "One task: its status, what has happened last, its branch and diff.", TaskArguments, is_read_only=True
    ),
    _tool(
        "hand_over",
        "Give the crew a task. It plans, changes a private clone, tests, reviews, and offers a branch `task/ID`.",
        HandOverArguments,
        is_read_only=False,
    ),
    _tool("steer", "Say something into a running task.", SteerArguments, is_read_only=False),
    _tool("cancel", "End a task now.", TaskArguments, is_read_only=False),
)


class TaskTools:
    """`ToolServer` named `tasks`."""

    name = "tasks"

    def __init__(
        self, service: StateService, events: EventLog, admit: Callable[[TaskRequest], Awaitable[TaskRequest]]
    ) -> None:
        self.service = service
        self.events = events
        self.admit = admit

    def list_tools(self) -> Sequence[Tool]:
        return TOOLS

    async def call(self, name: str, arguments: Mapping[str, Any], caller: Caller) -> ToolResult:
        try:
            return await self._call(name, arguments, Write(caller.task_id))
        except DevToolsError as error:
            return ToolResult(str(error), error.to_dict(), is_error=True)

    async def _call(self, name: str, arguments: Mapping[str, Any], write: Write) -> ToolResult:
        if name == "list":
            wanted = read_arguments(ListArguments, arguments)
            statuses = () if wanted.status is None else (wanted.status,)
            page = await self.service.list_tasks(TaskFilter(statuses), limit=wanted.limit)
            text = "\n".join(_line(task) for task in page.items) or "There are no tasks."
            return ToolResult(text, {"tasks": [_facts(task) for task in page.items]})
        if name == "hand_over":
            asked = read_arguments(HandOverArguments, arguments)
            request = await self.admit(TaskRequest(text=asked.text, repo=asked.repo, agent=asked.agent))
            return await self._shown(await self.service.create_task(request, write))
        if name == "steer":
            message = read_arguments(SteerArguments, arguments)
            await self.service.steer_task(message.id, message.text, write)
            return await self._shown(message.id)
        id_ = read_arguments(TaskArguments, arguments).id
        if name == "cancel":
            await self.service.cancel_task(id_, write)
        return await self._shown(id_)

    async def _shown(self, id_: str) -> ToolResult:
        task = await self.service.get_task(id_)
        happened = (await self.events.list_events(id_))[-MAX_EVENTS:]
        lines = [_line(task), task.message, *(f"  {e.at:%H:%M:%S} {e.kind}" for e in happened)]
        if task.branch:
            lines.append(f"branch {task.branch}")
        return ToolResult("\n".join(line for line in lines if line), _facts(task))


def _line(task: TaskResult) -> str:
    return f"{task.id}  {task.status:<14} {task.text.partition(chr(10))[0][:80]}"


def _facts(task: TaskResult) -> dict[str, Any]:
    return task.model_dump(mode="json")
