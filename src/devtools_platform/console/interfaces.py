"""What the console needs from the rest of the stack. `app` decides who answers."""

from collections.abc import AsyncIterator, Sequence
from typing import Protocol

from devtools_platform.console.types import AgentStatus, ServiceStatus
from devtools_platform.core.tasks import Event, TaskRequest, TaskResult


class TaskReader(Protocol):
    """Tasks as they stand. An unknown id raises `core.errors.NotFound` everywhere."""

    async def list_tasks(self, limit: int) -> Sequence[TaskResult]:
        """The newest tasks, newest first."""
        ...

    async def get_task(self, id_: str) -> TaskResult: ...

    async def list_events(self, id_: str, after: int) -> Sequence[Event]:
        """Events with `seq` above `after`, in order; all of them for 0."""
        ...

    def follow_events(self, id_: str, after: int) -> AsyncIterator[Event]:
        """The same, then each further event as it happens. Ends when the task has ended."""
        ...

    async def diff(self, id_: str) -> str | None:
        """The task's change as `git diff` prints it; None while there is none."""
        ...


class TaskWriter(Protocol):
    async def create_task(self, request: TaskRequest, idempotency_key: str | None) -> str:
        """Queue a task and return its id. The same key twice is the same task."""
        ...

    async def cancel_task(self, id_: str) -> None:
        """Ask a task to stop. Raises `Conflict` when it has ended."""
        ...


class StackReader(Protocol):
    """The stack itself. A part that does not answer is a fact here, never an exception."""

    async def services(self) -> Sequence[ServiceStatus]: ...

    async def agents(self) -> Sequence[AgentStatus]: ...
