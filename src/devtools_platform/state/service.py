"""What people do with tasks: hand over, look, cancel, pause, resume, steer, retry from a step, fork from a step.

Every write is one transaction with its audit entry, and takes an idempotency key: sent twice, it is done once.
The workflow that carries a task out lives above, in `agents`; it reports through `state.journal`.
"""

import asyncio
import logging
import secrets
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, TypeVar

import sqlalchemy as sa
from prometheus_client import Counter

from devtools_platform.core.errors import Conflict, DevToolsError, NotFound, TooLate, Unavailable
from devtools_platform.core.history import StoredStep
from devtools_platform.core.redact import redact_text
from devtools_platform.core.tasks import FINAL, Artifact, Page, Run, Step, TaskRequest, TaskResult
from devtools_platform.kit import schema
from devtools_platform.kit.database import in_thread
from devtools_platform.kit.recurring import keep_doing
from devtools_platform.kit.telemetry import trace_id_for
from devtools_platform.state.approvals import cancel_pending
from devtools_platform.state.audit import Deed, is_recorded, record
from devtools_platform.state.events import append_event, copy_events
from devtools_platform.state.interfaces import Control, WorkspaceKeeper
from devtools_platform.state.tasks import TaskFilter, list_rows, read_row, to_request, to_result

TASK_WORKFLOW = "task"
CONTROL_TOPIC = "control"
"""On it a paused workflow is told to look again."""
TELL_STEP = "tell"
SNAPSHOT_STEP = "snapshot"
BASE_SNAPSHOT = "base"
START_AGAIN_S = 15.0
STOPPING_S = 3.0
"""Seconds after a cancellation in which a retry waits. Gateways and workers look each second for what was cancelled;
what they have not stopped yet must not meet the next attempt in the workspace."""
ALPHABET = "abcdefghjkmnpqrstuvwxyz23456789"  # no letter that reads as another

log = logging.getLogger(__name__)

TASKS_ENDED = Counter("devtools_tasks_ended_total", "Tasks that ended", ["status", "reason"])
TASKS_CREATED = Counter("devtools_tasks_created_total", "Tasks that were handed over")

T = TypeVar("T")


@dataclass(frozen=True)
class Write:
    """Who writes, and how a repeated or an outdated request is told."""

    actor: str
    key: str | None = None
    """Idempotency key."""
    version: int | None = None
    """The version of the task that the writer has seen; None writes whatever it is now."""


@dataclass(frozen=True)
class StateService:
    database: sa.Engine
    control: Control
    workspaces: WorkspaceKeeper
    _launching: asyncio.Lock = field(default_factory=asyncio.Lock, repr=False)

    async def is_reachable(self) -> bool:
        """Whether the database answers."""
        try:
            return await self._do(lambda c: c.execute(sa.select(sa.literal(1))).scalar() == 1)
        except Unavailable:
            return False

    # -- looking -------------------------------------------------------------------------------------------------

    async def get_request(self, id_: str) -> TaskRequest:
        return to_request(await self._do(lambda c: read_row(c, id_)))

    async def get_task(self, id_: str) -> TaskResult:
        """The task as it stands; raises `NotFound`."""
        return to_result(await self._do(lambda c: read_row(c, id_)))

    async def list_tasks(
        self, wanted: TaskFilter | None = None, *, limit: int = 50, cursor: str | None = None
    ) -> Page[TaskResult]:
        """Newest first."""
        rows, following = await self._do(lambda c: list_rows(c, wanted or TaskFilter(), limit, cursor))
        return Page(items=tuple(to_result(row) for row in rows), next=following)

    async def list_runs(self, task_id: str) -> list[Run]:
        """The agents' runs of a task, in the order they began."""
        table = schema.runs
        query = sa.select(table).where(table.c.task_id == task_id).order_by(table.c.started_at, table.c.id)
        rows = await self._do(lambda c: (read_row(c, task_id), c.execute(query).all())[1])
        return [Run.model_validate({name: getattr(row, name) for name in Run.model_fields}) for row in rows]

    async def list_steps(self, task_id: str) -> list[Step]:
        """The stored steps of the workflow that carries the task, in order."""
        row = await self._do(lambda c: read_row(c, task_id))
        return [_to_step(step) for step in await self.control.list_steps(row.workflow_id)]

    async def list_artifacts(self, task_id: str) -> list[Artifact]:
        table = schema.artifacts
        columns = [table.c[name] for name in Artifact.model_fields]
        query = sa.select(*columns).where(table.c.task_id == task_id).order_by(table.c.created_at, table.c.id)
        rows = await self._do(lambda c: (read_row(c, task_id), c.execute(query).all())[1])
        return [Artifact.model_validate({name: getattr(row, name) for name in Artifact.model_fields}) for row in rows]

    async def read_artifact(self, id_: str) -> tuple[Artifact, bytes]:
        """An artifact and its bytes; raises `NotFound`."""
        query = sa.select(schema.artifacts).where(schema.artifacts.c.id == id_)
        row = await self._do(lambda c: c.execute(query).one_or_none())
        if row is None:
            raise NotFound(f"No artifact {id_!r} is stored.", hint="See `GET /tasks/{id}/artifacts`.")
        return Artifact.model_validate({name: getattr(row, name) for name in Artifact.model_fields}), row.content

    # -- writing -------------------------------------------------------------------------------------------------

    async def create_task(self, request: TaskRequest, write: Write | None = None) -> str:
        """Store a task and queue its workflow, both or neither. The same key gives the same task."""
        by = write or Write("dev-tools")
        id_, is_new = await self._do(lambda c: self._create(c, request, by))
        if is_new:
            TASKS_CREATED.inc()
            self.control.hurry()
        return id_

    def _create(self, connection: sa.Connection, request: TaskRequest, write: Write) -> tuple[str, bool]:
        id_ = _new_id()
        data = request.model_dump(mode="json")
        deed = Deed(write.actor, "task.create", f"task:{id_}", data, write.key, makes_subject=True)
        if (subject := record(connection, deed)) is not None:
            return subject.removeprefix("task:"), False
        connection.execute(sa.insert(schema.tasks).values(_new_row(id_, request)))
        append_event(connection, id_, "queued", "queued", None, {"text": request.text})
        self.control.start(connection, TASK_WORKFLOW, id_, {"id": id_}, priority=request.priority)
        return id_, True

    async def cancel_task(self, id_: str, write: Write) -> None:
        """End a task now; raises `Conflict` when it has ended already."""

        def cancel(connection: sa.Connection, row: sa.Row[Any]) -> None:
            _require_open(row, "cancelled")
            cancel_pending(connection, id_)
            # The event first: a follower stops as soon as it sees a final status and no newer event.
            append_event(connection, id_, f"cancelled:{row.attempt}", "cancelled", None, {"by": write.actor})
            values = {"status": "cancelled", "reason": "cancelled", "message": f"Cancelled by {write.actor}."}
            _update(connection, row, **values, ended_at=datetime.now(UTC))
            runs = sa.update(schema.runs).where(schema.runs.c.task_id == id_, schema.runs.c.ended_at.is_(None))
            connection.execute(runs.values(status="cancelled", ended_at=datetime.now(UTC)))

        row, is_new = await self._write(id_, write, "task.cancel", {}, cancel)
        # Before the answer but after the commit: a workflow that does not hear of it finds its task ended.
        await self.control.cancel(row.workflow_id)
        if is_new:
            TASKS_ENDED.labels("cancelled", "cancelled").inc()

    async def find_cancelled(self, ids: Collection[str]) -> set[str]:
        """Of these tasks, the ones that are cancelled."""
        table = schema.tasks
        query = sa.select(table.c.id).where(table.c.id.in_(ids), table.c.status == "cancelled")
        return set(await self._do(lambda c: c.scalars(query).all()))

    async def pause_task(self, id_: str, write: Write) -> None:
        """Stop before the next tool call or step. Raises `Conflict` when it has ended or is paused already."""

        def pause(connection: sa.Connection, row: sa.Row[Any]) -> None:
            _require_open(row, "paused")
            if row.is_paused:
                raise Conflict(f"Task {id_!r} is paused already.", hint=f"Run `dev-tools task resume {id_}`.")
            version = _update(connection, row, is_paused=True)
            append_event(connection, id_, f"pause:{version}", "pause_requested", None, {"by": write.actor})

        await self._write(id_, write, "task.pause", {}, pause)

    async def resume_task(self, id_: str, write: Write) -> None:
        """Go on where it was paused. Raises `Conflict` when it is not paused."""

        def resume(connection: sa.Connection, row: sa.Row[Any]) -> None:
            _require_open(row, "resumed")
            if not row.is_paused:
                raise Conflict(f"Task {id_!r} is {row.status} and not paused.", hint=_look(id_))
            status = "working" if row.status == "paused" else row.status
            version = _update(connection, row, is_paused=False, status=status)
            append_event(connection, id_, f"resume:{version}", "resumed", None, {"by": write.actor})
            self.control.send(connection, row.workflow_id, CONTROL_TOPIC, f"{row.workflow_id}:resume:{version}")

        await self._write(id_, write, "task.resume", {}, resume)

    async def steer_task(self, id_: str, text: str, write: Write) -> None:
        """Say something into a running task: the agent at work reads it after its present tool call."""

        def steer(connection: sa.Connection, row: sa.Row[Any]) -> None:
            _require_open(row, "steered")
            version = _update(connection, row)
            message = {"id": f"{id_}-m{version}", "task_id": id_, "text": redact_text(text), "author": write.actor}
            connection.execute(sa.insert(schema.messages).values(message))
            data = {"by": write.actor, "text": text}
            append_event(connection, id_, f"message:{version}", "message", None, data)

        await self._write(id_, write, "task.steer", {"text": text}, steer)

    async def retry_task(self, id_: str, step: int | None, write: Write) -> None:
        """Do an ended task again from `step` on; None from where its last agent began.

        Raises `Conflict` when it has not ended or its workspace is gone, `NotFound` for a step it does not have.
        """
        row = await self._do(lambda c: read_row(c, id_))
        data = {"step": step}
        if await self._is_done(write, "task.retry", f"task:{id_}", data):
            return
        _require_ended(row)
        if row.status == "cancelled":
            await asyncio.sleep(STOPPING_S - (datetime.now(UTC) - row.ended_at).total_seconds())
        steps = await self.control.list_steps(row.workflow_id)
        first = _first_step(id_, steps, step)
        attempt = row.attempt + 1
        workflow_id = f"{id_}.{attempt}"
        if not await self.workspaces.exists(id_):
            raise _workspace_gone(id_)
        start = {"workflow": row.workflow_id, "step": first, "snapshot": _snapshot_before(steps, first)}

        def retry(connection: sa.Connection, now: sa.Row[Any]) -> None:
            _require_ended(now)
            if now.attempt != row.attempt:
                raise TooLate(f"Task {id_!r} was retried a moment ago.", hint=_look(id_))
            fresh = {"status": "queued", "reason": None, "message": "", "result": None, "branch": None}
            moved = {"attempt": attempt, "workflow_id": workflow_id, "starts_from": start}
            _update(connection, now, **fresh, **moved, ended_at=None, is_paused=False)
            told = {"by": write.actor, "step": first, "attempt": attempt}
            append_event(connection, id_, f"retried:{attempt}", "retried", None, told)

        await self._write(id_, write, "task.retry", data, retry)
        # Only whoever has won the row touches the workspace.
        await self._launch(id_, workflow_id, start)

    async def fork_task(self, id_: str, step: int | None, write: Write) -> str:
        """A new task that has the history of this one up to `step`, which it does anew. Returns its id.

        Raises `Conflict` when the workspace is gone, `NotFound` for a step it does not have.
        """
        row = await self._do(lambda c: read_row(c, id_))
        steps = await self.control.list_steps(row.workflow_id)
        first = _first_step(id_, steps, step)
        new = _new_id()
        snapshot = _snapshot_before(steps, first)
        start = {"workflow": row.workflow_id, "step": first, "snapshot": snapshot}
        if not await self.workspaces.fork(id_, new, snapshot, f"task/{new}"):
            raise _workspace_gone(id_)

        def fork(connection: sa.Connection) -> str:
            data = {"source": id_, "step": step}
            deed = Deed(write.actor, "task.fork", f"task:{new}", data, write.key, makes_subject=True)
            if (subject := record(connection, deed)) is not None:
                return subject.removeprefix("task:")
            connection.execute(
                sa.insert(schema.tasks).values(
                    {**_new_row(new, to_request(row)), "forked_from": id_, "starts_from": start}
                )
            )
            copy_events(connection, id_, new, _last_told(steps, first))
            told = {"by": write.actor, "source": id_, "step": first}
            append_event(connection, new, "forked", "forked", None, told)
            return new

        made = await self._do(fork)
        if made == new:
            await self._launch(new, new, start)
            TASKS_CREATED.inc()
            self.control.hurry()
        else:
            await self.workspaces.remove(new)
        return made

    async def start_missing(self) -> None:
        """Start the retries and forks whose workflow a crash or a full disk kept from being made."""
        table = schema.tasks
        query = sa.select(table.c.id, table.c.workflow_id, table.c.starts_from).where(
            table.c.status == "queued", table.c.starts_from.is_not(None)
        )
        for row in await self._do(lambda c: c.execute(query).all()):
            try:
                await self._launch(row.id, row.workflow_id, row.starts_from)
            except DevToolsError as error:
                log.warning("task %s cannot start yet: %s", row.id, error)

    async def keep_starting(self) -> None:
        """Do so now and every while, until cancelled."""
        await keep_doing("starting what is missing", self.start_missing, START_AGAIN_S)

    # -- means ---------------------------------------------------------------------------------------------------

    async def _launch(self, task_id: str, workflow_id: str, start: Mapping[str, Any]) -> None:
        """Bring the workspace to where the history ends, then make the workflow. May be repeated."""
        async with self._launching:
            if not await self.control.find_missing([workflow_id]):
                return
            try:
                is_there = await self.workspaces.restore(task_id, start["snapshot"], f"task/{workflow_id}")
            except Conflict:  # the snapshot is gone, and waiting will not bring it back
                is_there = False
            if not is_there:
                await self._do(lambda c: _lose(c, task_id))
                return
            await self.control.fork(start["workflow"], workflow_id, start["step"])

    async def _write(
        self,
        id_: str,
        write: Write,
        action: str,
        data: Mapping[str, Any],
        change: Callable[[sa.Connection, sa.Row[Any]], None],
    ) -> tuple[sa.Row[Any], bool]:
        """Change a task in one transaction with its audit entry. Returns it and whether this was the first time."""

        def run(connection: sa.Connection) -> tuple[sa.Row[Any], bool]:
            read_row(connection, id_)  # an unknown task leaves no trace in the audit
            if record(connection, Deed(write.actor, action, f"task:{id_}", data, write.key)) is not None:
                return read_row(connection, id_), False
            row = read_row(connection, id_, lock=True)
            if write.version is not None and write.version != row.version:
                raise TooLate(
                    f"Task {id_!r} is at version {row.version}, not {write.version} as you have read.", hint=_look(id_)
                )
            change(connection, row)
            return row, True

        return await self._do(run)

    async def _is_done(self, write: Write, action: str, subject: str, data: Mapping[str, Any]) -> bool:
        """Whether this very request was carried out before. Raises `KeyReused`."""
        if write.key is None:
            return False
        deed = Deed(write.actor, action, subject, data, write.key)
        return await self._do(lambda c: is_recorded(c, deed))

    async def _do(self, work: Callable[[sa.Connection], T]) -> T:
        return await in_thread(self.database, work)


def _new_id() -> str:
    return "".join(secrets.choice(ALPHABET) for _ in range(8))


def _new_row(id_: str, request: TaskRequest) -> dict[str, Any]:
    return {
        "id": id_,
        "workflow_id": id_,
        "text": redact_text(request.text),
        "repo": request.repo,
        "agent": request.agent,
        "without_sandbox": request.without_sandbox,
        "ask_before": list(request.ask_before),
        "priority": request.priority,
        "start_at": request.start_at,
        "status": "queued",
        "trace_id": trace_id_for(id_),
    }


def _update(connection: sa.Connection, row: sa.Row[Any], **values: Any) -> int:
    """Change a task's row, which the caller holds; returns its new version."""
    table = schema.tasks
    changed = {**values, "version": row.version + 1, "updated_at": datetime.now(UTC)}
    connection.execute(sa.update(table).where(table.c.id == row.id).values(changed))
    return row.version + 1


def _lose(connection: sa.Connection, task_id: str) -> None:
    row = read_row(connection, task_id, lock=True)
    lost = {"status": "failed", "reason": "workspace_lost", "message": str(_workspace_gone(task_id))}
    _update(connection, row, **lost, ended_at=datetime.now(UTC))
    append_event(connection, task_id, f"lost:{row.attempt}", "failed", None, lost)


def _require_open(row: sa.Row[Any], done: str) -> None:
    if row.status in FINAL:
        raise Conflict(f"Task {row.id!r} is {row.status}; only a running task can be {done}.", hint=_look(row.id))


def _require_ended(row: sa.Row[Any]) -> None:
    if row.status not in FINAL:
        raise Conflict(
            f"Task {row.id!r} is {row.status}; only one that has ended can be retried.",
            hint=f"Cancel it first: `dev-tools task cancel {row.id}`, or fork it: `dev-tools task fork {row.id}`.",
        )


def _look(id_: str) -> str:
    return f"Run `dev-tools task show {id_}`."


def _workspace_gone(id_: str) -> Conflict:
    return Conflict(
        f"The workspace of task {id_!r} is gone, so nothing can start from its middle.",
        hint="Hand the task over again; see DEV_TOOLS_KEEP_WORKSPACES_DAYS for how long workspaces are kept.",
    )


def _first_step(id_: str, steps: list[StoredStep], asked: int | None) -> int:
    """The step to begin with: the one asked for, or the start of the last agent's run."""
    if asked is None:
        starts = [step.number for step in steps if step.child is not None and not step.name.startswith("DBOS.")]
        return starts[-1] if starts else 1
    if not any(step.number == asked for step in steps):
        last = steps[-1].number if steps else 0
        raise NotFound(f"Task {id_!r} has no step {asked}; it has {last}.", hint=f"Run `dev-tools task steps {id_}`.")
    return asked


def _snapshot_before(steps: list[StoredStep], first: int) -> str:
    taken = [str(step.output) for step in steps if step.name == SNAPSHOT_STEP and step.number < first]
    return taken[-1] if taken else BASE_SNAPSHOT


def _last_told(steps: list[StoredStep], first: int) -> int:
    told = [int(step.output) for step in steps if step.name == TELL_STEP and step.number < first]
    return max(told, default=1)


def _to_step(step: StoredStep) -> Step:
    return Step(
        number=step.number,
        name=step.name,
        run=step.child,
        error=None if step.error is None else str(step.error),
        started_at=step.started_at,
        ended_at=step.ended_at,
    )
