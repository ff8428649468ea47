"""DBOS from outside a worker: queue, wake, cancel and fork workflows over a plain database connection.

Unlike the library's defaults it never waits for a database that is away: a request must be answered, so errors
come out as `core.errors.Away`.
"""

import asyncio
from collections.abc import Callable, Collection, Mapping, Sequence
from datetime import UTC, datetime
from functools import cached_property
from typing import TYPE_CHECKING, Any

import sqlalchemy as sa

from devtools_platform.core.history import StoredStep, StoredWorkflow
from devtools_platform.kit.database import as_ours

if TYPE_CHECKING:
    from dbos import DBOSClient, EnqueueOptions

WORKFLOW_VERSION = "wf-1"
"""Pinned: unset, it is a hash of the source, and a deploy would strand every task in flight. A change of the
workflows' steps goes through `DbosEngine.patched`; raise this only when stored histories can no longer be replayed."""

TASKS = "tasks"
AGENTS = "agents"
ENDED = ("SUCCESS", "ERROR", "CANCELLED", "MAX_RECOVERY_ATTEMPTS_EXCEEDED")


class DbosControl:
    """See `state.interfaces.Control`."""

    def __init__(self, database: sa.Engine) -> None:
        self._database = database
        self.on_queued: Callable[[str], None] | None = None
        """Told the queue, where a worker lives in this process."""

    @cached_property
    def _client(self) -> "DBOSClient":
        """Made when first needed: a process that only asks for approvals never wakes a workflow."""
        from dbos import DBOSClient

        return DBOSClient(
            system_database_engine=self._database,
            dbos_system_schema="dbos",
            lazy=True,
            retry_connection_errors=False,
            application_name="dev-tools",
        )

    def start(
        self, connection: sa.Connection, workflow: str, id_: str, argument: Mapping[str, Any], *, priority: int
    ) -> None:
        options: EnqueueOptions = {
            "workflow_name": workflow,
            "queue_name": TASKS,
            "workflow_id": id_,
            "app_version": WORKFLOW_VERSION,
            "priority": priority,
        }
        self._client.enqueue_in_transaction(connection, options, dict(argument))

    def hurry(self) -> None:
        if self.on_queued is not None:
            self.on_queued(TASKS)

    def send(self, connection: sa.Connection, workflow_id: str, topic: str, key: str) -> None:
        self._client.send_in_transaction(connection, workflow_id, key, topic, key)

    async def cancel(self, workflow_id: str) -> None:
        await _in_thread(lambda: self._client.cancel_workflow(workflow_id, cancel_children=True))

    async def list_steps(self, workflow_id: str) -> list[StoredStep]:
        steps = await _in_thread(lambda: self._client.list_workflow_steps(workflow_id))
        return [
            StoredStep(
                number=step["function_id"],
                name=step["function_name"],
                output=step["output"],
                error=step["error"],
                child=step["child_workflow_id"],
                started_at=_time(step["started_at_epoch_ms"]),
                ended_at=_time(step["completed_at_epoch_ms"]),
            )
            for step in steps
        ]

    async def read_workflow(self, id_: str) -> StoredWorkflow:
        found = await _in_thread(
            lambda: self._client.list_workflows(workflow_ids=[id_], load_input=True, load_output=False)
        )
        given: Any = found[0].input if found else None
        argument: dict[str, Any] = given["args"][0] if given and given["args"] else {}
        return StoredWorkflow(id_, argument, await self.list_steps(id_))

    async def find_missing(self, workflow_ids: Collection[str]) -> set[str]:
        return set(workflow_ids) - await self._find(workflow_ids, None)

    async def find_ended(self, workflow_ids: Collection[str]) -> set[str]:
        """Those of `workflow_ids` whose result is there."""
        return await self._find(workflow_ids, list(ENDED))

    async def _find(self, workflow_ids: Collection[str], status: list[str] | None) -> set[str]:
        if not workflow_ids:
            return set()
        found = await _in_thread(
            lambda: self._client.list_workflows(
                workflow_ids=list(workflow_ids), status=status, load_input=False, load_output=False
            )
        )
        return {workflow.workflow_id for workflow in found}

    async def fork(self, source: str, id_: str, step: int) -> None:
        from dbos import SetWorkflowID

        def fork() -> None:
            with SetWorkflowID(id_):
                self._client.fork_workflow(source, step, application_version=WORKFLOW_VERSION, queue_name=TASKS)

        if await self.find_missing([id_]):
            await _in_thread(fork)

    async def list_held(self) -> dict[str, list[str]]:
        held: dict[str, list[str]] = {}
        for workflow in await _in_thread(
            lambda: self._client.list_workflows(status="PENDING", load_input=False, load_output=False)
        ):
            held.setdefault(workflow.executor_id or "", []).append(workflow.workflow_id)
        return held

    async def delete(self, workflow_ids: Sequence[str]) -> None:
        await _in_thread(lambda: self._client.delete_workflows(list(workflow_ids), delete_children=True))


async def _in_thread(call: Any) -> Any:
    from dbos import error as dbos_error

    def run() -> Any:
        with as_ours():
            try:
                return call()
            except dbos_error.DBOSNonExistentWorkflowError:
                return []

    return await asyncio.to_thread(run)


def _time(epoch_ms: int | None) -> datetime | None:
    return None if epoch_ms is None else datetime.fromtimestamp(epoch_ms / 1000, UTC)
