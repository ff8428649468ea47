"""What tasks leave behind, as documents: how each ended, what people decided in it, what its review found.

Derived from the state database and written in one transaction a task, so a process that is killed at any point
has either done a task or will do it again. A forgotten document is never made again.
"""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import sqlalchemy as sa

from devtools_platform.context.adapters.sql.documents import save_document
from devtools_platform.context.names import name_collection, name_memory
from devtools_platform.context.types import Document
from devtools_platform.kit import schema
from devtools_platform.kit.database import in_thread

LESSONS = ("tests_failed", "review_blocked", "no_change", "not_solved", "denied")
"""Reasons of a failure that say something about the repository. The others speak of machines and models."""
MAX_TASKS = 20
"""Tasks made documents of in one transaction."""
MAX_FINDINGS = 50
MAX_FILES = 50
_CHARS = 3_000
_TITLE_CHARS = 120
_CHANGED = re.compile(r"^\+\+\+ b/([^\t\n]+)", re.MULTILINE)


@dataclass(frozen=True)
class TaskMemory:
    database: sa.Engine

    async def collect(self) -> set[str]:
        """Make documents of tasks that have ended since; returns the collections that were changed."""
        return await in_thread(self.database, lambda c: {_remember(c, task) for task in _list_new(c)})


def _list_new(connection: sa.Connection) -> list[sa.Row[Any]]:
    """Ended tasks without an outcome of their present attempt, the oldest first."""
    tasks, documents = schema.tasks, schema.documents
    done = sa.exists().where(
        documents.c.task_id == tasks.c.id,
        documents.c.kind == "outcome",
        documents.c.version >= tasks.c.attempt,
    )
    ended = sa.or_(tasks.c.status == "completed", sa.and_(tasks.c.status == "failed", tasks.c.reason.in_(LESSONS)))
    query = sa.select(tasks).where(ended, tasks.c.ended_at.is_not(None), ~done)
    return list(connection.execute(query.order_by(tasks.c.ended_at).limit(MAX_TASKS)))


def _remember(connection: sa.Connection, task: sa.Row[Any]) -> str:
    collection = name_memory(name_collection(Path(task.repo)))
    table = schema.documents
    before = sa.select(table.c.id, table.c.forgotten_at).where(table.c.task_id == task.id)
    stored = {row.id: row.forgotten_at is not None for row in connection.execute(before)}
    made = list(_make_documents(connection, task))
    for document in made:
        if not stored.get(document.id):
            save_document(connection, collection, document, task_id=task.id, version=task.attempt)
    mine = table.c.task_id == task.id
    left = [id_ for id_ in stored if id_ not in {document.id for document in made}]
    connection.execute(sa.delete(table).where(mine, table.c.id.in_(left), table.c.forgotten_at.is_(None)))
    connection.execute(sa.update(table).where(mine).values(version=task.attempt))
    return collection


def _make_documents(connection: sa.Connection, task: sa.Row[Any]) -> Iterator[Document]:
    result: Mapping[str, Any] = task.result or {}
    title = task.text.strip().split("\n")[0][:_TITLE_CHARS]
    commits: list[str] = result.get("commits") or []
    source = {
        "task_id": task.id,
        "attempt": task.attempt,
        "run": task.workflow_id,
        "commit": commits[-1] if commits else None,
        "base_commit": task.base_commit,
        "branch": task.branch,
        "status": task.status,
        "reason": task.reason,
    }
    text = "\n\n".join(_tell_outcome(task, result, _list_changed(connection, task.id)))
    yield Document(f"tasks/{task.id}.md", "outcome", title, text, source, task.ended_at)
    if decisions := list(_tell_decisions(connection, task.id)):
        text = "\n".join(decisions)
        yield Document(f"decisions/{task.id}.md", "decision", f"Decided in: {title}", text, source, task.ended_at)
    if findings := list(_tell_findings(result)):
        run = _find_review_run(connection, task.id)
        text, whence = "\n".join(findings), {**source, "run": run or task.workflow_id}
        yield Document(f"findings/{task.id}.md", "finding", f"Review of: {title}", text, whence, task.ended_at)


def _tell_outcome(task: sa.Row[Any], result: Mapping[str, Any], changed: list[str]) -> Iterator[str]:
    yield f"Asked: {task.text[:_CHARS]}"
    yield f"Ended: {task.status}{f' ({task.reason})' if task.reason else ''}. {task.message[:_CHARS]}"
    if changed:
        yield f"Changed files: {', '.join(changed)}"
    tests = [f"{run['stage']} {'passed' if run['exit_code'] == 0 else 'failed'}" for run in result.get("tests") or ()]
    if tests:
        yield f"Tests: {', '.join(tests)}"
    if review := result.get("review"):
        yield f"Review: {review['verdict']}. {(review.get('remark') or '')[:_CHARS]}".strip()


def _list_changed(connection: sa.Connection, task_id: str) -> list[str]:
    """The files of the task's last diff."""
    table = schema.artifacts
    query = sa.select(table.c.content).where(table.c.task_id == task_id, table.c.kind == "diff")
    content = connection.execute(query.order_by(table.c.created_at.desc()).limit(1)).scalar()
    return _CHANGED.findall(bytes(content).decode(errors="replace"))[:MAX_FILES] if content else []


def _tell_decisions(connection: sa.Connection, task_id: str) -> Iterator[str]:
    """What people denied, what they approved with a reason, and what they said into the task."""
    table, said = schema.approvals, schema.messages
    decided = sa.select(table).where(table.c.task_id == task_id, table.c.status.in_(("approved", "denied")))
    for row in connection.execute(decided.order_by(table.c.decided_at)):
        if row.status == "denied" or row.reason:
            what = row.tool or row.kind
            yield f"- {row.decided_by} {row.status} the {what}{f': {row.reason[:_CHARS]}' if row.reason else ''}"
    for row in connection.execute(sa.select(said).where(said.c.task_id == task_id).order_by(said.c.at)):
        yield f"- {row.author} said: {row.text[:_CHARS]}"


def _tell_findings(result: Mapping[str, Any]) -> Iterator[str]:
    review: dict[str, Any] = result.get("review") or {}
    findings: list[dict[str, Any]] = review.get("findings", [])
    for finding in findings[:MAX_FINDINGS]:
        place: str = finding["path"] + (f":{finding['line']}" if finding["line"] else "")
        weight = f"{finding['severity']}{', blocking' if finding['is_blocking'] else ''}"
        yield f"- {place}: {finding['message'][:_CHARS]} ({finding['source']} {finding['rule']}, {weight})"


def _find_review_run(connection: sa.Connection, task_id: str) -> str | None:
    table = schema.runs
    query = sa.select(table.c.id).where(table.c.task_id == task_id, table.c.agent == "code-review")
    return connection.execute(query.order_by(table.c.n.desc()).limit(1)).scalar()
