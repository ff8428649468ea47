"""The stack's tasks as threads outside may use them: their place, and nothing that a comment could choose."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

import sqlalchemy as sa

from devtools_platform.app.admission import Admission
from devtools_platform.core.approvals import Verdict
from devtools_platform.core.tasks import FINAL, AskBefore, Event, TaskRequest
from devtools_platform.integrations.types import Decision, OpenQuestion, TaskEvent, TaskView
from devtools_platform.kit import schema
from devtools_platform.kit.database import read_in_thread
from devtools_platform.state.parts import StateParts
from devtools_platform.state.service import Write

RESULT = ("plan", "tests", "review", "commits", "degraded", "tokens", "cost_usd", "diff")


@dataclass(frozen=True)
class StackTasks:
    """See `integrations.interfaces.Tasks`."""

    parts: StateParts
    admission: Admission
    database: sa.Engine
    ask_before: tuple[AskBefore, ...]

    async def create(self, text: str, repo: str, *, start_at: str | None, actor: str, key: str) -> str:
        asked = TaskRequest(text=text, repo=repo, start_at=start_at, ask_before=self.ask_before)
        request = await self.admission.admit(asked)
        return await self.parts.service.create_task(request, Write(actor, key))

    async def is_done(self, key: str) -> bool:
        table = schema.audit
        query = sa.select(table.c.seq).where(table.c.idempotency_key == key)
        return await read_in_thread(self.database, lambda c: c.execute(query).first() is not None)

    async def cancel(self, task_id: str, *, actor: str, key: str) -> None:
        await self.parts.service.cancel_task(task_id, Write(actor, key))

    async def retry(self, task_id: str, *, actor: str, key: str) -> None:
        await self.parts.service.retry_task(task_id, None, Write(actor, key))

    async def steer(self, task_id: str, text: str, *, actor: str, key: str) -> None:
        await self.parts.service.steer_task(task_id, text, Write(actor, key))

    async def view(self, task_id: str) -> TaskView:
        task = await self.parts.service.get_task(task_id)
        facts = task.model_dump(mode="json")
        return TaskView(
            id=task.id,
            status=task.status,
            reason=task.reason,
            message=task.message,
            branch=task.branch,
            repo=task.repo,
            has_ended=task.status in FINAL,
            attempt=task.attempt,
            plan=await self._plan(task_id),
            result={name: facts[name] for name in RESULT},
        )

    async def _plan(self, task_id: str) -> Sequence[Mapping[str, Any]]:
        table = schema.events
        query = sa.select(table.c.data).where(table.c.task_id == task_id, table.c.kind == "plan")
        last = query.order_by(table.c.seq.desc()).limit(1)
        data = await read_in_thread(self.database, lambda c: c.execute(last).scalar())
        return cast("Sequence[Mapping[str, Any]]", data["steps"]) if data else ()

    async def list_questions(self, task_id: str) -> Sequence[OpenQuestion]:
        waiting = await self.parts.approvals.list_approvals(status="pending", task_id=task_id)
        return [OpenQuestion(approval.id, approval.kind, approval.preview) for approval in waiting]

    async def decide(self, approval_id: str, decision: Decision, *, actor: str, key: str) -> None:
        verdict = Verdict(decision="approve" if decision.is_approved else "deny", reason=decision.reason[:4000])
        await self.parts.approvals.decide(approval_id, verdict, by=actor, key=key)

    async def list_events(self, task_id: str, after: int) -> Sequence[TaskEvent]:
        events = await self.parts.events.list_events(task_id, after)
        return [TaskEvent(e.seq, e.kind, e.agent, await self._with_question(e), e.at) for e in events]

    async def _with_question(self, event: Event) -> Mapping[str, object]:
        """What is asked stands in the approval, not in the event."""
        if event.kind != "approval" or event.data.get("kind") != "question":
            return event.data
        return {**event.data, "preview": (await self.parts.approvals.get_approval(str(event.data["id"]))).preview}

    async def count_events(self, task_ids: Sequence[str]) -> Mapping[str, int]:
        table = schema.events
        query = sa.select(table.c.task_id, sa.func.max(table.c.seq).label("last")).group_by(table.c.task_id)
        rows = await read_in_thread(
            self.database, lambda c: c.execute(query.where(table.c.task_id.in_(list(task_ids)))).all()
        )
        return {row.task_id: int(row.last) for row in rows}
