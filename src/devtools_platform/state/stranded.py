"""Tasks whose workflow is over and did not say so: an error of the database at its last step, or worker after worker
that died with it. Nothing would ever end them; here they fail, and can be retried from any step they did."""

import logging
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import partial

import sqlalchemy as sa
from prometheus_client import Counter

from devtools_platform.core.tasks import FINAL
from devtools_platform.kit import schema
from devtools_platform.kit.database import in_thread
from devtools_platform.kit.recurring import keep_doing
from devtools_platform.state.approvals import cancel_pending
from devtools_platform.state.events import append_event
from devtools_platform.state.interfaces import Control
from devtools_platform.state.service import TASKS_ENDED
from devtools_platform.state.tasks import read_row

EVERY_S = 5.0

log = logging.getLogger(__name__)

STRANDED = Counter("devtools_tasks_stranded_total", "Tasks ended because their workflow had, without a word")


@dataclass
class Stranded:
    database: sa.Engine
    control: Control
    _seen: set[str] = field(default_factory=set[str])
    """The workflows that were over at the last look: one that is being cancelled or retried is so for a moment."""

    async def run(self) -> None:
        """Look now and every while, until cancelled."""
        await keep_doing("looking for stranded tasks", self.end_all, EVERY_S)

    async def end_all(self) -> None:
        """End each task that was stranded at the last look, too."""
        table = schema.tasks
        begun = sa.select(table.c.id, table.c.workflow_id).where(table.c.status.not_in((*FINAL, "queued")))
        rows = await in_thread(self.database, lambda c: c.execute(begun).all())
        over = await self.control.find_ended([row.workflow_id for row in rows])
        for row in rows:
            end = partial(_end, task_id=row.id, workflow_id=row.workflow_id)
            if row.workflow_id in over & self._seen and await in_thread(self.database, end):
                log.warning("task %s was stranded: its workflow had ended without a result", row.id)
                STRANDED.inc()
                TASKS_ENDED.labels("failed", "internal").inc()
        self._seen = over


def _end(connection: sa.Connection, task_id: str, workflow_id: str) -> bool:
    """False where it has ended, or goes on in another workflow, by now."""
    row = read_row(connection, task_id, lock=True)
    if row.workflow_id != workflow_id or row.status in FINAL:
        return False
    message = (
        f"The workflow that carried this task ended without a result. Go on with `dev-tools task retry {task_id}`."
    )
    failed = {"status": "failed", "reason": "internal", "message": message}
    now = datetime.now(UTC)
    change = sa.update(schema.tasks).where(schema.tasks.c.id == task_id)
    connection.execute(change.values(**failed, is_paused=False, updated_at=now, ended_at=now))
    cancel_pending(connection, task_id)
    append_event(connection, task_id, f"end:{workflow_id}", "failed", None, failed)
    return True
