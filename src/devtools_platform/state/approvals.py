"""Approvals: asked by a workflow, decided once by a person, seen by the workflow. The row is the truth.

The message that wakes the workflow says only that there is something to read, and is sent in the transaction of
the decision. A message lost or doubled therefore changes nothing.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

import sqlalchemy as sa
from prometheus_client import Counter

from devtools_platform.core.approvals import Approval, ApprovalRequest, ApprovalStatus, Verdict
from devtools_platform.core.errors import BadInput, NotFound, TooLate
from devtools_platform.core.redact import redact, redact_text
from devtools_platform.core.tasks import FINAL
from devtools_platform.kit import schema
from devtools_platform.kit.database import in_thread
from devtools_platform.state.audit import Deed, lock_chain, record
from devtools_platform.state.events import append_event
from devtools_platform.state.interfaces import Control
from devtools_platform.state.tasks import read_row

APPROVALS = Counter("devtools_approvals_total", "Approvals by what they came to", ["kind", "status"])
MAX_PREVIEW_CHARS = 200_000
MAX_RAISE_USD = 1_000_000


@dataclass(frozen=True)
class ApprovalDesk:
    database: sa.Engine
    control: Control

    async def ask(self, request: ApprovalRequest) -> Approval:
        """Put a question to people; the task waits from now on. Asking again under the same id changes nothing."""
        return await in_thread(self.database, lambda c: _ask(c, request))

    async def settle(self, id_: str) -> Approval:
        """What the question came to, for the workflow that asked: an undecided one expires here and now."""
        return await in_thread(self.database, lambda c: _settle(c, id_))

    async def get_approval(self, id_: str) -> Approval:
        """Raises `NotFound`."""
        return await in_thread(self.database, lambda c: _to_approval(_read(c, id_)))

    async def list_approvals(
        self, *, status: ApprovalStatus | None = None, task_id: str | None = None, limit: int = 100
    ) -> list[Approval]:
        """Oldest first: who has waited longest comes first."""
        table = schema.approvals
        query = sa.select(table).order_by(table.c.created_at, table.c.id).limit(limit)
        if status is not None:
            query = query.where(table.c.status == status)
        if task_id is not None:
            query = query.where(table.c.task_id == task_id)
        rows = await in_thread(self.database, lambda c: c.execute(query).all())
        return [_to_approval(row) for row in rows]

    async def list_decided(self, limit: int = 100) -> list[Approval]:
        """Those that do not wait any more, whatever became of them, newest first."""
        table = schema.approvals
        moment = sa.func.coalesce(table.c.decided_at, table.c.created_at)
        query = sa.select(table).where(table.c.status != "pending").order_by(moment.desc(), table.c.id).limit(limit)
        rows = await in_thread(self.database, lambda c: c.execute(query).all())
        return [_to_approval(row) for row in rows]

    async def count_pending(self) -> int:
        table = schema.approvals
        query = sa.select(sa.func.count()).where(table.c.status == "pending")
        return await in_thread(self.database, lambda c: int(c.execute(query).scalar_one()))

    async def decide(
        self, id_: str, verdict: Verdict, *, by: str, key: str | None = None, version: int | None = None
    ) -> Approval:
        """Decide once. `version` is the one that was read, None to decide whatever it is now.

        Raises `NotFound`; `TooLate` when it is decided, expired or changed; `BadInput` for arguments where
        none can be edited.
        """
        decided = await in_thread(self.database, lambda c: self._decide(c, id_, verdict, by, key, version))
        APPROVALS.labels(decided.kind, decided.status).inc()
        return decided

    def _decide(
        self, connection: sa.Connection, id_: str, verdict: Verdict, by: str, key: str | None, version: int | None
    ) -> Approval:
        data = {"decision": verdict.decision, "reason": verdict.reason, "arguments": verdict.arguments}
        if record(connection, Deed(by, "approval.decide", f"approval:{id_}", data, key)) is not None:
            return _to_approval(_read(connection, id_))
        row = _read(connection, id_, lock=True)
        _refuse_late(row, version)
        _refuse_edits(row.kind, verdict)
        status: ApprovalStatus = "approved" if verdict.decision == "approve" else "denied"
        _change(connection, id_, status, by=by, reason=verdict.reason, edited_arguments=verdict.arguments)
        self._tell(connection, row, status, by, verdict.reason)
        return _to_approval(_read(connection, id_))

    def _tell(self, connection: sa.Connection, row: sa.Row[Any], status: str, by: str, reason: str) -> None:
        data = {"id": row.id, "status": status, "by": by, "reason": reason, "kind": row.kind, "tool": row.tool}
        append_event(connection, row.task_id, f"decided:{row.id}", "approval_decided", row.agent, data)
        self.control.send(connection, row.workflow_id, row.id, row.id)


def cancel_pending(connection: sa.Connection, task_id: str) -> None:
    """Nobody is asked any more about a task that has ended."""
    table = schema.approvals
    waiting = sa.update(table).where(table.c.task_id == task_id, table.c.status == "pending")
    connection.execute(waiting.values(status="cancelled", version=table.c.version + 1))


def _ask(connection: sa.Connection, request: ApprovalRequest) -> Approval:
    task = read_row(connection, request.task_id, lock=True)
    table = schema.approvals
    stored = connection.execute(sa.select(table).where(table.c.id == request.id)).one_or_none()
    if stored is not None:
        return _to_approval(stored)
    facts = request.model_dump(exclude={"expires_after_s", "arguments", "preview"})
    row = {
        **facts,
        "arguments": redact(request.arguments),
        "preview": redact_text(request.preview[:MAX_PREVIEW_CHARS]),
        "status": "pending",
        "expires_at": datetime.now(UTC) + timedelta(seconds=request.expires_after_s),
    }
    connection.execute(sa.insert(table).values(row))
    if task.status not in FINAL:
        _set_status(connection, request.task_id, "input_required")
    told = {key: row[key] for key in ("id", "kind", "tool", "arguments", "rule", "risk", "cost_usd", "environment")}
    append_event(connection, request.task_id, f"asked:{request.id}", "approval", request.agent, told)
    return _to_approval(_read(connection, request.id))


def _settle(connection: sa.Connection, id_: str) -> Approval:
    if _read(connection, id_).status == "pending":
        lock_chain(connection)  # before the row, as everybody who needs both
    row = _read(connection, id_, lock=True)
    if row.status == "pending":
        _change(connection, id_, "expired", by=None, reason="Nobody decided in time.", edited_arguments=None)
        data = {"id": id_, "status": "expired", "kind": row.kind, "tool": row.tool}
        append_event(connection, row.task_id, f"decided:{id_}", "approval_decided", row.agent, data)
        record(connection, Deed("dev-tools", "approval.expire", f"approval:{id_}", {}))
        APPROVALS.labels(row.kind, "expired").inc()
    _set_status(connection, row.task_id, "working", only_from="input_required")
    return _to_approval(_read(connection, id_))


def _change(
    connection: sa.Connection,
    id_: str,
    status: ApprovalStatus,
    *,
    by: str | None,
    reason: str,
    edited_arguments: Mapping[str, object] | None,
) -> None:
    table = schema.approvals
    values = {
        "status": status,
        "version": table.c.version + 1,
        "decided_by": by,
        "decided_at": datetime.now(UTC),
        "reason": redact_text(reason),
        "edited_arguments": edited_arguments,
    }
    connection.execute(sa.update(table).where(table.c.id == id_).values(values))


def _refuse_edits(kind: str, verdict: Verdict) -> None:
    if verdict.arguments is None:
        return
    if kind not in {"tool", "budget"} or verdict.decision == "deny":
        text = "Only the arguments of a tool call, or of a budget, that is approved can be edited."
        raise BadInput(text, hint="Leave `arguments` out.")
    amount = verdict.arguments.get("raise_by_usd")
    is_amount = isinstance(amount, (int, float)) and not isinstance(amount, bool) and 0 < amount <= MAX_RAISE_USD
    if kind == "budget" and (not is_amount or len(verdict.arguments) > 1):
        text = f"`raise_by_usd` is {amount!r}; an amount in US dollars above 0, at most {MAX_RAISE_USD}, is expected."
        raise BadInput(text, hint="""Give it alone: --arguments '{"raise_by_usd": 5}'.""")


def _refuse_late(row: sa.Row[Any], version: int | None) -> None:
    hint = f"Run `dev-tools task show {row.task_id}`."
    if row.status != "pending":
        who = f" by {row.decided_by}" if row.decided_by else ""
        raise TooLate(f"Approval {row.id!r} is {row.status}{who}; it is decided once.", hint=hint)
    if row.expires_at < datetime.now(UTC):
        raise TooLate(f"Approval {row.id!r} expired at {row.expires_at.isoformat()}.", hint=hint)
    if version is not None and version != row.version:
        raise TooLate(f"Approval {row.id!r} is at version {row.version}, not {version} as you have read.", hint=hint)


def _set_status(connection: sa.Connection, task_id: str, status: str, *, only_from: str | None = None) -> None:
    table = schema.tasks
    change = sa.update(table).where(table.c.id == task_id)
    if only_from is not None:
        change = change.where(table.c.status == only_from)
    connection.execute(change.values(status=status, updated_at=datetime.now(UTC)))


def _read(connection: sa.Connection, id_: str, *, lock: bool = False) -> sa.Row[Any]:
    query = sa.select(schema.approvals).where(schema.approvals.c.id == id_)
    row = connection.execute(query.with_for_update() if lock else query).one_or_none()
    if row is None:
        raise NotFound(f"No approval {id_!r} is stored.", hint="Run `dev-tools task approvals` for those that wait.")
    return row


def _to_approval(row: sa.Row[Any]) -> Approval:
    return Approval.model_validate({name: getattr(row, name) for name in Approval.model_fields})
