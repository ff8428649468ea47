"""Tasks as rows: read, listed by filter and cursor, and turned into what everybody sees. No decisions here."""

import base64
import binascii
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import sqlalchemy as sa

from devtools_platform.core.errors import BadInput, NotFound
from devtools_platform.core.tasks import Status, TaskRequest, TaskResult
from devtools_platform.kit import schema


@dataclass(frozen=True)
class TaskFilter:
    """Which tasks to list; what is not given does not matter."""

    status: Sequence[Status] = ()
    repo: str | None = None
    agent: str | None = None
    text: str | None = None
    """Contained in the task's text, whatever the case."""
    created_after: datetime | None = None
    created_before: datetime | None = None


def read_row(connection: sa.Connection, id_: str, *, lock: bool = False) -> sa.Row[Any]:
    """The task's row, locked until the transaction ends if asked. Raises `NotFound`."""
    query = sa.select(schema.tasks).where(schema.tasks.c.id == id_)
    row = connection.execute(query.with_for_update() if lock else query).one_or_none()
    if row is None:
        raise NotFound(f"No task {id_!r} is stored.", hint="Run `dev-tools task list`.")
    return row


def list_rows(
    connection: sa.Connection, wanted: TaskFilter, limit: int, cursor: str | None
) -> tuple[Sequence[sa.Row[Any]], str | None]:
    """One page, newest first, and the cursor of the next one."""
    table = schema.tasks
    query = sa.select(table).order_by(table.c.created_at.desc(), table.c.id.desc()).limit(limit + 1)
    for condition in _conditions(wanted):
        query = query.where(condition)
    if cursor is not None:
        at, id_ = _parse_cursor(cursor)
        query = query.where(sa.or_(table.c.created_at < at, sa.and_(table.c.created_at == at, table.c.id < id_)))
    rows = connection.execute(query).all()
    page = rows[:limit]
    return page, _cursor(page[-1]) if len(rows) > limit else None


def _conditions(wanted: TaskFilter) -> list[sa.ColumnElement[bool]]:
    table = schema.tasks
    conditions: list[sa.ColumnElement[bool]] = []
    if wanted.status:
        conditions.append(table.c.status.in_(wanted.status))
    if wanted.repo is not None:
        conditions.append(table.c.repo == wanted.repo)
    if wanted.agent is not None:
        conditions.append(table.c.agent == wanted.agent)
    if wanted.text is not None:
        conditions.append(table.c.text.icontains(wanted.text, autoescape=True))
    if wanted.created_after is not None:
        conditions.append(table.c.created_at > wanted.created_after)
    if wanted.created_before is not None:
        conditions.append(table.c.created_at < wanted.created_before)
    return conditions


def _cursor(row: sa.Row[Any]) -> str:
    return base64.urlsafe_b64encode(json.dumps([row.created_at.isoformat(), row.id]).encode()).decode()


def _parse_cursor(cursor: str) -> tuple[datetime, str]:
    try:
        at, id_ = json.loads(base64.urlsafe_b64decode(cursor.encode()))
        return datetime.fromisoformat(at).astimezone(UTC), str(id_)
    except (ValueError, TypeError, binascii.Error):
        raise BadInput(
            f"{cursor[:80]!r} is not a cursor.", hint="Give the `next` of the page before, or no cursor."
        ) from None


def to_request(row: sa.Row[Any]) -> TaskRequest:
    return TaskRequest(
        text=row.text,
        repo=row.repo,
        agent=row.agent,
        without_sandbox=row.without_sandbox,
        ask_before=tuple(row.ask_before or ()),
        priority=row.priority,
        start_at=row.start_at,
    )


def to_result(row: sa.Row[Any]) -> TaskResult:
    stored: Mapping[str, Any] = row.result or {}
    optional = ("plan", "diff", "review", "model", "cost_usd")
    return TaskResult.model_validate(
        {
            "id": row.id,
            "status": row.status,
            "reason": row.reason,
            "message": row.message,
            "text": row.text,
            "repo": row.repo,
            "branch": row.branch,
            "base_commit": row.base_commit,
            "commits": stored.get("commits", ()),
            "tests": stored.get("tests", ()),
            "degraded": stored.get("degraded", ()),
            "tokens": stored.get("tokens", {}),
            "trace_id": row.trace_id,
            "attempt": row.attempt,
            "forked_from": row.forked_from,
            "version": row.version,
            "created_at": row.created_at,
            "ended_at": row.ended_at,
            **{name: stored.get(name) for name in optional},
        }
    )
