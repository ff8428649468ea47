"""What the state service needs from outside: something that carries workflows out, and the tasks' workspaces."""

from collections.abc import Collection, Mapping, Sequence
from typing import Any, Protocol

import sqlalchemy as sa

from devtools_platform.core.history import StoredStep, StoredWorkflow


class Control(Protocol):
    """Starts, wakes and ends durable workflows. Works from any process that reaches the database.

    What takes a connection is part of the caller's transaction: it happens when that commits, or not at all.
    """

    def start(
        self, connection: sa.Connection, workflow: str, id_: str, argument: Mapping[str, Any], *, priority: int
    ) -> None:
        """Queue a workflow. Starting the same id twice starts it once."""
        ...

    def hurry(self) -> None:
        """What was queued is stored now: a worker in this process, if there is one, need not wait for its next look."""
        ...

    def send(self, connection: sa.Connection, workflow_id: str, topic: str, key: str) -> None:
        """Wake a workflow that waits on `topic`, or will. The same `key` wakes once."""
        ...

    async def cancel(self, workflow_id: str) -> None:
        """Stop a workflow and its children at their next step."""
        ...

    async def list_steps(self, workflow_id: str) -> list[StoredStep]:
        """The history so far, in order; empty for a workflow that is not there."""
        ...

    async def read_workflow(self, id_: str) -> StoredWorkflow:
        """A workflow's argument and its history so far."""
        ...

    async def find_missing(self, workflow_ids: Collection[str]) -> set[str]:
        """Those of `workflow_ids` that do not exist."""
        ...

    async def find_ended(self, workflow_ids: Collection[str]) -> set[str]:
        """Those of `workflow_ids` whose result, or whose failure, is stored."""
        ...

    async def fork(self, source: str, id_: str, step: int) -> None:
        """Queue a new workflow that has the history of `source` up to `step`, which it does anew.

        Forking to an id that exists does nothing.
        """
        ...

    async def list_held(self) -> dict[str, list[str]]:
        """Worker id -> the workflows it has taken and not ended."""
        ...

    async def delete(self, workflow_ids: Sequence[str]) -> None:
        """Forget workflows and all their children."""
        ...


class Executor(Protocol):
    """This process's share of the durable work, as its supervision sees it."""

    @property
    def queues(self) -> Sequence[str]: ...

    async def recover(self, worker_ids: Sequence[str]) -> int:
        """Queue again what these workers held; returns how many workflows. Safe to repeat."""
        ...

    async def list_orphans(self) -> set[str]:
        """Workflows the database gives to this process and this process knows nothing of."""
        ...


class WorkspaceKeeper(Protocol):
    """The private clones of tasks, where this process can reach them."""

    async def exists(self, task_id: str) -> bool: ...

    async def restore(self, task_id: str, snapshot: str, branch: str) -> bool:
        """Bring a task's clone back to a snapshot (`base`: as cloned), on `branch`; False when it is gone."""
        ...

    async def fork(self, source: str, target: str, snapshot: str, branch: str) -> bool:
        """Make `target`'s clone from a snapshot of `source`'s; False when that is gone."""
        ...

    async def remove(self, task_id: str) -> None: ...


class TraceReader(Protocol):
    """The finished spans of a task, oldest first."""

    async def read_trace(self, task_id: str) -> Sequence[Mapping[str, Any]]: ...
