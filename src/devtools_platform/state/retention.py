"""What is kept and for how long: workspaces for days, tasks with their history for months, the audit for ever."""

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

import sqlalchemy as sa

from devtools_platform.core.tasks import FINAL
from devtools_platform.kit import schema
from devtools_platform.kit.database import in_thread
from devtools_platform.kit.recurring import keep_doing
from devtools_platform.state.interfaces import Control, WorkspaceKeeper

EVERY_S = 3600.0
BATCH = 200


@dataclass(frozen=True)
class Retention:
    database: sa.Engine
    control: Control
    workspaces: WorkspaceKeeper
    keep_workspaces: timedelta
    keep_tasks: timedelta

    async def run(self) -> None:
        """Clean up now and every hour, until cancelled."""
        await keep_doing("cleaning up", self.clean, EVERY_S)

    async def clean(self) -> tuple[int, int]:
        """Remove what is too old; returns how many workspaces and how many tasks went."""
        stale = await self._ended_before(datetime.now(UTC) - self.keep_workspaces, only_with_workspace=True)
        for task_id in stale:
            await self.workspaces.remove(task_id)
        await in_thread(self.database, lambda c: c.execute(_forget_workspaces(stale)))
        old = await self._ended_before(datetime.now(UTC) - self.keep_tasks, only_with_workspace=False)
        await self._forget(old)
        return len(stale), len(old)

    async def _ended_before(self, moment: datetime, *, only_with_workspace: bool) -> list[str]:
        table = schema.tasks
        query = sa.select(table.c.id).where(table.c.status.in_(tuple(FINAL)), table.c.ended_at < moment)
        if only_with_workspace:
            query = query.where(table.c.has_workspace)
        rows = await in_thread(self.database, lambda c: c.execute(query.order_by(table.c.ended_at).limit(BATCH)).all())
        return [str(row.id) for row in rows]

    async def _forget(self, task_ids: list[str]) -> None:
        """The workflows first: a task without its row could not be found again."""
        table = schema.tasks
        attempts = sa.select(table.c.id, table.c.attempt).where(table.c.id.in_(task_ids))
        rows = await in_thread(self.database, lambda c: c.execute(attempts).all())
        workflows = [
            row.id if attempt == 1 else f"{row.id}.{attempt}" for row in rows for attempt in range(1, row.attempt + 1)
        ]
        if workflows:
            await self.control.delete(workflows)
        await in_thread(self.database, lambda c: _delete(c, task_ids))


def _forget_workspaces(task_ids: list[str]) -> sa.Update:
    return sa.update(schema.tasks).where(schema.tasks.c.id.in_(task_ids)).values(has_workspace=False)


def _delete(connection: sa.Connection, task_ids: list[str]) -> None:
    """The cost ledger stays: what was spent was spent."""
    for table in (schema.tool_calls, schema.spans):
        connection.execute(sa.delete(table).where(table.c.task_id.in_(task_ids)))
    connection.execute(sa.delete(schema.tasks).where(schema.tasks.c.id.in_(task_ids)))
