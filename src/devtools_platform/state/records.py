"""The records a task left: its request and result, its events, and the stored steps of its workflows.

Read only, over the database, by whoever can reach it: nothing is asked of a running stack.
"""

from dataclasses import dataclass

import sqlalchemy as sa

from devtools_platform.core.errors import NotFound
from devtools_platform.core.history import StoredWorkflow, TaskRecord
from devtools_platform.core.tasks import FINAL, Event, Run, Status, TaskRequest, TaskResult
from devtools_platform.kit import schema
from devtools_platform.kit.database import in_thread
from devtools_platform.state.interfaces import Control
from devtools_platform.state.tasks import TaskFilter, list_rows, read_row, to_request, to_result


@dataclass(frozen=True)
class Records:
    database: sa.Engine
    control: Control

    async def read(self, id_: str) -> TaskRecord:
        """Raises `NotFound` when there is no such task, or its steps are not kept any more."""
        row = await in_thread(self.database, lambda c: read_row(c, id_))
        workflows: dict[str, StoredWorkflow] = {}
        await self._read_workflow(row.workflow_id, workflows)
        if not workflows[row.workflow_id].steps:
            raise NotFound(
                f"Of task {id_!r} no steps are stored.",
                hint="They are removed some time after a task has ended: see DEV_TOOLS_KEEP_TASKS_DAYS.",
            )
        table = schema.events
        query = sa.select(table).where(table.c.task_id == id_).order_by(table.c.seq)
        rows = await in_thread(self.database, lambda c: c.execute(query).all())
        events = {
            r.key: Event(seq=r.seq, task_id=r.task_id, kind=r.kind, at=r.at, agent=r.agent, data=r.data) for r in rows
        }
        return TaskRecord(to_request(row), to_result(row), row.workflow_id, workflows, events)

    async def read_task(self, id_: str) -> tuple[TaskRequest, TaskResult]:
        """Raises `NotFound`."""
        row = await in_thread(self.database, lambda c: read_row(c, id_))
        return to_request(row), to_result(row)

    async def list_ended(self, limit: int) -> list[str]:
        """Ids of tasks that ended by themselves, newest first."""
        status: list[Status] = sorted(FINAL - {"cancelled"})
        found, _ = await in_thread(self.database, lambda c: list_rows(c, TaskFilter(status=status), limit, None))
        return [row.id for row in found]

    async def list_runs(self, task_id: str) -> list[Run]:
        """The agents' runs of a task, in the order they began."""
        table = schema.runs
        query = sa.select(table).where(table.c.task_id == task_id).order_by(table.c.started_at, table.c.id)
        rows = await in_thread(self.database, lambda c: c.execute(query).all())
        return [Run.model_validate({name: getattr(row, name) for name in Run.model_fields}) for row in rows]

    async def _read_workflow(self, id_: str, into: dict[str, StoredWorkflow]) -> None:
        into[id_] = await self.control.read_workflow(id_)
        for step in into[id_].steps:
            if step.child is not None and step.child not in into:
                await self._read_workflow(step.child, into)
