"""The ledger of tasks on both stores: nothing twice, nothing lost, nothing out of order."""

import asyncio
from pathlib import Path
from typing import Any

import httpx2
import pytest
import sqlalchemy as sa

from devtools_platform.core.errors import Conflict, DiskFull, KeyReused, NotFound, TooLate
from devtools_platform.core.tasks import TaskRequest
from devtools_platform.kit.database import in_thread
from devtools_platform.observability.adapters.sql import SqlLedger
from devtools_platform.observability.interfaces import ModelCall
from devtools_platform.state.adapters.dbos.control import DbosControl
from devtools_platform.state.api import build_api
from devtools_platform.state.approvals import ApprovalDesk
from devtools_platform.state.audit import AuditLog
from devtools_platform.state.events import EventLog
from devtools_platform.state.journal import Journal
from devtools_platform.state.parts import StateParts
from devtools_platform.state.service import StateService, Write
from devtools_platform.state.tasks import TaskFilter

REQUEST = TaskRequest(text="Fix it", repo="/repo")
HEADERS = {"Authorization": "Bearer secret"}
ANN = Write("ann")
RESULT: dict[str, Any] = {"tokens": {}, "cost_usd": None}


class NoTraces:
    async def read_trace(self, task_id: str) -> list[dict[str, Any]]:
        return []


class Workspaces:
    """Every workspace is there; what `restore` answers, or raises, a test decides."""

    def __init__(self, outcome: bool | Exception = True) -> None:  # noqa: FBT001, FBT002 - an answer, not a switch
        self.outcome = outcome

    async def exists(self, task_id: str) -> bool:
        return True

    async def restore(self, task_id: str, snapshot: str, branch: str) -> bool:
        if isinstance(self.outcome, Exception):
            raise self.outcome
        return self.outcome

    async def fork(self, source: str, target: str, snapshot: str, branch: str) -> bool:
        return True

    async def remove(self, task_id: str) -> None: ...


class NoWorkspaces:
    """Every workspace is gone."""

    async def exists(self, task_id: str) -> bool:
        return False

    async def restore(self, task_id: str, snapshot: str, branch: str) -> bool:
        return False

    async def fork(self, source: str, target: str, snapshot: str, branch: str) -> bool:
        return False

    async def remove(self, task_id: str) -> None: ...


async def admit(request: TaskRequest) -> TaskRequest:
    return request


def parts_of(database: sa.Engine, control: DbosControl) -> StateParts:
    state = StateService(database, control, NoWorkspaces())
    return StateParts(state, EventLog(database, 0.02), ApprovalDesk(database, control), AuditLog(database))


@pytest.fixture
def parts(database: sa.Engine, control: DbosControl) -> StateParts:
    return parts_of(database, control)


@pytest.fixture
def state(parts: StateParts) -> StateService:
    return parts.service


@pytest.fixture
def events(parts: StateParts) -> EventLog:
    return parts.events


@pytest.fixture
def journal(database: sa.Engine) -> Journal:
    return Journal(database, "worker")


@pytest.fixture
def http(parts: StateParts) -> httpx2.AsyncClient:
    app = build_api(parts, admit=admit, traces=NoTraces(), token="secret")
    return httpx2.AsyncClient(transport=httpx2.ASGITransport(app), base_url="http://state", headers=HEADERS)


async def test_a_task_is_stored_queued_and_found(state: StateService, control: DbosControl) -> None:
    id_ = await state.create_task(REQUEST)
    task = await state.get_task(id_)

    assert (task.status, task.text, task.cost_usd, task.tests) == ("queued", "Fix it", None, ())
    assert await control.find_missing([id_, "other"]) == {"other"}
    assert (await state.list_tasks(limit=1)).items[0].id == id_
    with pytest.raises(NotFound, match="'zzz'"):
        await state.get_task("zzz")


async def test_a_task_whose_transaction_fails_leaves_neither_row_nor_workflow(
    state: StateService, database: sa.Engine, control: DbosControl
) -> None:
    def create_and_fail(connection: sa.Connection) -> None:
        made.append(state._create(connection, REQUEST, ANN)[0])
        raise ValueError("a crash before the commit")

    made: list[str] = []
    with pytest.raises(ValueError, match="a crash"):
        await in_thread(database, create_and_fail)
    with pytest.raises(NotFound):
        await state.get_task(made[0])
    assert await control.find_missing(made) == set(made)


async def test_the_same_idempotency_key_is_the_same_task(http: httpx2.AsyncClient) -> None:
    first, second, other = [
        (await http.post("/tasks", json=REQUEST.model_dump(), headers={"Idempotency-Key": key})).json()["id"]
        for key in ("a", "a", "b")
    ]
    assert first == second != other

    reused = await http.post("/tasks", json={"text": "Other", "repo": "/r"}, headers={"Idempotency-Key": "a"})
    assert (reused.status_code, reused.json()["code"]) == (409, "key_reused")


async def test_pages_follow_each_other_and_filters_hold(state: StateService) -> None:
    ids = [await state.create_task(TaskRequest(text=f"Paint 50% of it {n}", repo="/paint")) for n in range(5)]
    await state.cancel_task(ids[2], ANN)
    wanted = TaskFilter(repo="/paint")

    seen: list[str] = []
    cursor: str | None = None
    while True:
        page = await state.list_tasks(wanted, limit=2, cursor=cursor)
        seen += [task.id for task in page.items]
        cursor = page.next
        if cursor is None:
            break
    assert seen == ids[::-1]

    cancelled = await state.list_tasks(TaskFilter(repo="/paint", status=("cancelled",)))
    assert [task.id for task in cancelled.items] == [ids[2]]
    assert len((await state.list_tasks(TaskFilter(repo="/paint", text="50% OF"))).items) == 5
    assert not (await state.list_tasks(TaskFilter(repo="/paint", text="50_"))).items


async def test_pausing_and_resuming_are_done_once(state: StateService, events: EventLog) -> None:
    id_ = await state.create_task(REQUEST)
    await state.pause_task(id_, Write("ann", key=f"{id_}-p"))
    await state.pause_task(id_, Write("ann", key=f"{id_}-p"))
    with pytest.raises(Conflict, match="paused already"):
        await state.pause_task(id_, ANN)
    await state.resume_task(id_, ANN)
    with pytest.raises(Conflict, match="not paused"):
        await state.resume_task(id_, ANN)

    kinds = [event.kind for event in await events.list_events(id_)]
    assert kinds == ["queued", "pause_requested", "resumed"]


async def test_a_key_for_one_task_is_refused_for_another(state: StateService) -> None:
    first, second = await state.create_task(REQUEST), await state.create_task(REQUEST)
    await state.pause_task(first, Write("ann", key=f"{first}-x"))
    with pytest.raises(KeyReused):
        await state.pause_task(second, Write("ann", key=f"{first}-x"))


async def test_who_has_read_an_older_version_changes_nothing(state: StateService, http: httpx2.AsyncClient) -> None:
    id_ = await state.create_task(REQUEST)
    tag = (await http.get(f"/tasks/{id_}")).headers["ETag"]
    await state.steer_task(id_, "Mind the tests.", ANN)

    late = await http.post(f"/tasks/{id_}/pause", headers={"If-Match": tag})
    assert (late.status_code, late.json()["code"]) == (409, "too_late")
    with pytest.raises(TooLate, match="version 2, not 1"):
        await state.pause_task(id_, Write("ann", version=1))
    await state.pause_task(id_, Write("ann", version=2))


async def test_what_people_say_is_taken_once_and_given_again_to_the_same_taker(
    state: StateService, journal: Journal
) -> None:
    id_ = await state.create_task(REQUEST)
    await state.steer_task(id_, "First.", ANN)
    await state.steer_task(id_, "Second.", ANN)

    assert await journal.take_messages(id_, "step 1") == ["First.", "Second."]
    assert await journal.take_messages(id_, "step 2") == []
    assert await journal.take_messages(id_, "step 1") == ["First.", "Second."]


async def test_a_tool_call_is_told_and_what_people_said_is_heard_once_however_often_its_step_runs(
    state: StateService, journal: Journal
) -> None:
    id_ = await state.create_task(REQUEST)
    await state.steer_task(id_, "First.", ANN)
    told = (id_, "tool:a", "tool_call", "feature-dev", {"tool": "t"})

    assert [await journal.append_and_take(*told, "tool:a") for _ in range(2)] == [["First."], ["First."]]
    other = (id_, "tool:b", "tool_call", "feature-dev", {"tool": "t"})
    assert await journal.append_and_take(*other, "tool:b") == []
    seq = await journal.append_event(id_, "later", "told", None, {})
    assert await journal.append_event(*told) == seq - 2, "a key keeps its number"


async def test_a_model_call_is_in_the_ledger_and_in_the_timeline_or_in_neither(
    state: StateService, journal: Journal
) -> None:
    id_ = await state.create_task(REQUEST)
    call = ModelCall(id_, "feature-dev", "p", "m", 1, 1, None, 0.1, None, call_id="call-both")
    ledger = SqlLedger(journal.database)

    def fail(connection: sa.Connection) -> None:
        journal.append_in(connection, id_, "model:call-both", "model_call", "feature-dev", {})
        raise RuntimeError("the process dies")

    with pytest.raises(RuntimeError, match="dies"):
        await ledger.record(call, also=fail)
    assert (await ledger.usage(id_)).model_calls == 0
    last = await journal.append_event(id_, "after", "told", None, {})

    def tell(connection: sa.Connection) -> None:
        journal.append_in(connection, id_, "model:call-both", "model_call", "feature-dev", {})

    for _ in range(2):
        await ledger.record(call, also=tell)
    assert (await ledger.usage(id_)).model_calls == 1
    assert await journal.append_event(id_, "end", "told", None, {}) == last + 2


async def test_an_old_attempt_cannot_end_the_task(state: StateService, journal: Journal) -> None:
    id_ = await state.create_task(REQUEST)
    await journal.finish(id_, f"{id_}.7", "completed", None, "of another attempt", RESULT)
    assert (await state.get_task(id_)).status == "queued"
    assert not await journal.mark_working(id_, f"{id_}.7")

    await journal.finish(id_, id_, "completed", None, "mine", RESULT)
    assert (await state.get_task(id_)).message == "mine"


async def test_a_task_without_its_workspace_is_not_retried(state: StateService) -> None:
    id_ = await state.create_task(REQUEST)
    with pytest.raises(Conflict, match="only one that has ended"):
        await state.retry_task(id_, None, ANN)
    await state.cancel_task(id_, ANN)
    with pytest.raises(Conflict, match="workspace"):
        await state.retry_task(id_, None, ANN)
    with pytest.raises(NotFound, match="no step 7"):
        await state.retry_task(id_, 7, ANN)


async def ended_task(state: StateService, journal: Journal) -> str:
    id_ = await state.create_task(REQUEST)
    await journal.finish(id_, id_, "failed", "not_solved", "no", RESULT)
    return id_


async def test_a_retried_task_is_queued_and_then_at_work_though_its_first_steps_are_replayed(
    database: sa.Engine, control: DbosControl, journal: Journal
) -> None:
    state = StateService(database, control, Workspaces())
    id_ = await ended_task(state, journal)
    await state.retry_task(id_, None, ANN)
    assert (await state.get_task(id_)).status == "queued"
    assert await control.find_missing([f"{id_}.2"]) == set()

    await journal.begin_run(f"{id_}.2/feature-dev/1", id_, "feature-dev", 1)
    assert (await state.get_task(id_)).status == "working"


async def test_a_retry_that_could_not_start_is_started_later_and_a_hopeless_one_ends(
    database: sa.Engine, control: DbosControl, journal: Journal
) -> None:
    full, gone = DiskFull("no room"), Conflict("no such snapshot")
    workspaces = Workspaces(full)
    state = StateService(database, control, workspaces)
    waiting = await ended_task(state, journal)
    with pytest.raises(DiskFull):
        await state.retry_task(waiting, None, Write("ann", key=f"{waiting}-retry"))
    await state.start_missing()  # one that cannot start keeps nobody else from starting
    assert await control.find_missing([f"{waiting}.2"]) == {f"{waiting}.2"}

    workspaces.outcome = True
    await state.start_missing()
    assert await control.find_missing([f"{waiting}.2"]) == set()

    workspaces.outcome = gone
    hopeless = await ended_task(state, journal)
    await state.retry_task(hopeless, None, ANN)
    task = await state.get_task(hopeless)
    assert (task.status, task.reason) == ("failed", "workspace_lost")


async def test_an_artifact_is_kept_once_and_comes_back_as_it_was(state: StateService, journal: Journal) -> None:
    id_ = await state.create_task(REQUEST)
    first = await journal.store_artifact(id_, "k", "diff", "a.diff", "+ä\n")
    assert await journal.store_artifact(id_, "k", "diff", "a.diff", "+ä\n") == first

    listed = await state.list_artifacts(id_)
    artifact, content = await state.read_artifact(first)
    assert [item.id for item in listed] == [first]
    assert (content, artifact.size, artifact.media_type) == ("+ä\n".encode(), 4, "text/x-diff")


async def test_an_event_is_stored_once_and_numbers_have_no_gaps(
    state: StateService, events: EventLog, journal: Journal
) -> None:
    id_ = await state.create_task(REQUEST)
    await asyncio.gather(*(journal.append_event(id_, f"key:{n % 5}", "note", None, {"n": n}) for n in range(20)))

    stored = await events.list_events(id_)
    assert [event.seq for event in stored] == [1, 2, 3, 4, 5, 6]
    assert stored[0].kind == "queued"


async def test_a_follower_gets_each_event_once_until_the_task_ends(
    state: StateService, events: EventLog, journal: Journal
) -> None:
    id_ = await state.create_task(REQUEST)

    async def work() -> None:
        for number in range(5):
            await journal.append_event(id_, f"k{number}", "note", None, {})
        await journal.finish(id_, id_, "completed", None, "done", RESULT)

    async with asyncio.timeout(10):
        worker = asyncio.create_task(work())
        seen = [event.seq async for event in events.follow_events(id_, after=1)]
        await worker
    assert seen == [2, 3, 4, 5, 6, 7]


async def test_an_ended_task_stays_as_it_ended(state: StateService, journal: Journal) -> None:
    id_ = await state.create_task(REQUEST)
    await state.cancel_task(id_, ANN)
    await journal.finish(id_, id_, "completed", None, "too late", RESULT)

    assert (await state.get_task(id_)).status == "cancelled"
    with pytest.raises(Conflict, match="is cancelled"):
        await state.cancel_task(id_, ANN)


async def test_secrets_in_a_task_and_its_events_are_not_kept(
    state: StateService, events: EventLog, journal: Journal
) -> None:
    token = "ghp_" + "a1B2" * 9
    id_ = await state.create_task(TaskRequest(text=f"use {token}", repo="/repo"))
    await journal.append_event(id_, "k", "note", None, {"deep": [{"token": token, "nul": "a\x00b"}]})

    assert token not in (await state.get_task(id_)).text
    assert token not in str(await events.list_events(id_))


async def test_sse_resumes_after_the_last_event_seen(
    state: StateService, journal: Journal, http: httpx2.AsyncClient
) -> None:
    id_ = await state.create_task(REQUEST)
    await journal.append_event(id_, "k", "note", None, {})
    await journal.finish(id_, id_, "completed", None, "done", RESULT)
    headers = {"Accept": "text/event-stream", "Last-Event-ID": "1"}

    text = (await http.get(f"/tasks/{id_}/events", headers=headers)).text

    assert [line for line in text.splitlines() if line.startswith("id:")] == ["id: 2", "id: 3"]
    assert (await http.get(f"/tasks/{id_}/events", headers={**headers, "Last-Event-ID": "x"})).status_code == 422


@pytest.mark.parametrize(
    ("method", "path", "body", "status"),
    [
        ("GET", "/tasks/none", None, 404),
        ("POST", "/tasks/none/cancel", None, 404),
        ("POST", "/tasks", {"text": "x"}, 422),
        ("POST", "/tasks", {"text": "", "repo": "/r"}, 422),
        ("POST", "/tasks", {"text": "x", "repo": "/r", "colour": 1}, 422),
        ("GET", "/tasks?limit=0", None, 422),
        ("GET", "/tasks?status=odd", None, 422),
        ("GET", "/tasks?cursor=odd", None, 422),
        ("GET", "/tasks?created_after=2026-01-01T00:00:00", None, 422),
        ("POST", "/tasks/none/retry", {"step": 0}, 422),
        ("POST", "/tasks/none/retry", {}, 404),
        ("POST", "/tasks/none/fork", None, 404),
        ("POST", "/tasks/none/messages", {"text": ""}, 422),
        ("POST", "/tasks/none/messages", {"text": "x"}, 404),
        ("GET", "/tasks/none/steps", None, 404),
        ("GET", "/tasks/none/runs", None, 404),
        ("GET", "/tasks/none/artifacts", None, 404),
        ("GET", "/artifacts/none", None, 404),
        ("GET", "/approvals/none", None, 404),
        ("POST", "/approvals/none/decision", {"decision": "approve"}, 404),
        ("POST", "/approvals/none/decision", {"decision": "perhaps"}, 422),
        ("GET", "/audit?before=0", None, 422),
        ("GET", "/nowhere", None, 404),
        ("DELETE", "/tasks", None, 405),
    ],
)
async def test_wrong_requests_are_answered_in_one_shape(
    http: httpx2.AsyncClient, method: str, path: str, body: Any, status: int
) -> None:
    response = await http.request(method, path, json=body)

    assert response.status_code == status
    assert set(response.json()) == {"code", "message", "hint"}


async def test_a_database_that_is_away_is_said_and_not_a_crash(tmp_path: Path) -> None:
    away = sa.create_engine("postgresql+psycopg://x:y@127.0.0.1:9/z")
    app = build_api(parts_of(away, DbosControl(away)), admit=admit, traces=NoTraces(), token="secret")
    async with httpx2.AsyncClient(
        transport=httpx2.ASGITransport(app), base_url="http://state", headers=HEADERS
    ) as http:
        listed, health = await http.get("/tasks"), await http.get("/health")

    assert (listed.status_code, listed.json()["code"]) == (503, "unavailable")
    assert listed.headers["Retry-After"]
    assert (health.status_code, health.json()["ok"]) == (503, False)
