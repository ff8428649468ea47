"""What the state service needs from outside: something that runs a task's workflow."""

from collections.abc import Mapping, Sequence
from typing import Any, Protocol


class Engine(Protocol):
    """Starts and cancels durable workflows."""

    async def start(self, workflow: str, id_: str, argument: Mapping[str, Any]) -> None:
        """Hand a workflow to the queue. Starting the same id twice starts it once."""
        ...

    async def cancel(self, id_: str) -> None:
        """Stop a workflow and its children at their next step."""
        ...


class TraceReader(Protocol):
    """The finished spans of a task, oldest first."""

    async def read_trace(self, task_id: str) -> Sequence[Mapping[str, Any]]: ...
