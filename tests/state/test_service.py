"""The ledger of tasks on both stores: nothing twice, nothing lost, nothing out of order."""

import asyncio
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import httpx2
import pytest
import sqlalchemy as sa

from devtools_platform.core.errors import Conflict, NotFound
from devtools_platform.core.tasks import TaskRequest
from devtools_platform.state.api import build_api
from devtools_platform.state.service import StateService

REQUEST = TaskRequest(text="Fix it", repo="/repo")
HEADERS = {"Authorization": "Bearer secret"}


class CountingEngine:
    """Notes what it is told to start and cancel; a workflow never runs."""

    def __init__(self) -> None:
        self.started: list[str] = []
        self.cancelled: list[str] = []

    async def start(self, workflow: str, id_: str, argument: Mapping[str, Any]) -> None:
        self.started.append(id_)

    async def cancel(self, id_: str) -> None:
        self.cancelled.append(id_)


class NoTraces:
    async def read_trace(self, task_id: str) -> list[dict[str, Any]]:
        return []


async def admit(request: TaskRequest) -> TaskRequest:
    return request


@pytest.fixture
def state(database: sa.Engine) -> StateService:
    return StateService(database, CountingEngine(), poll_s=0.02)


@pytest.fixture
def http(state: StateService) -> httpx2.AsyncClient:
    app = build_api(state, admit=admit, traces=NoTraces(), token="secret")
    return httpx2.AsyncClient(transport=httpx2.ASGITransport(app), base_url="http://state", headers=HEADERS)


async def test_a_task_is_stored_started_and_found(state: StateService) -> None:
    id_ = await state.create_task(REQUEST)
    task = await state.get_task(id_)

    assert (task.status, task.text, task.cost_usd, task.tests) == ("queued", "Fix it", None, ())
    assert state.engine.started == [id_]
    assert (await state.list_tasks(limit=1))[0].id == id_
    with pytest.raises(NotFound, match="'zzz'"):
        await state.get_task("zzz")


async def test_the_same_idempotency_key_is_the_same_task(state: StateService, http: httpx2.AsyncClient) -> None:
    first, second, other = [
        (await http.post("/tasks", json=REQUEST.model_dump(), headers={"Idempotency-Key": key})).json()["id"]
        for key in ("a", "a", "b")
    ]

    assert first == second != other


async def test_an_event_is_stored_once_and_numbers_have_no_gaps(state: StateService) -> None:
    id_ = await state.create_task(REQUEST)
    await asyncio.gather(*(state.append_event(id_, f"key:{n % 5}", "note", None, {"n": n}) for n in range(20)))

    events = await state.list_events(id_)
    assert [event.seq for event in events] == [1, 2, 3, 4, 5, 6]
    assert events[0].kind == "queued"


async def test_a_follower_gets_each_event_once_until_the_task_ends(state: StateService) -> None:
    id_ = await state.create_task(REQUEST)

    async def work() -> None:
        for number in range(5):
            await state.append_event(id_, f"k{number}", "note", None, {})
        await state.finish(id_, "completed", None, "done", {})

    async with asyncio.timeout(10):
        worker = asyncio.create_task(work())
        seen = [event.seq async for event in state.follow_events(id_, after=1)]
        await worker
    assert seen == [2, 3, 4, 5, 6]


async def test_an_ended_task_stays_as_it_ended(state: StateService) -> None:
    id_ = await state.create_task(REQUEST)
    await state.cancel_task(id_)
    await state.finish(id_, "completed", None, "too late", {})

    assert (await state.get_task(id_)).status == "cancelled"
    assert state.engine.cancelled == [id_]
    with pytest.raises(Conflict, match="is cancelled"):
        await state.cancel_task(id_)


async def test_secrets_in_a_task_and_its_events_are_not_kept(state: StateService) -> None:
    token = "ghp_" + "a1B2" * 9
    id_ = await state.create_task(TaskRequest(text=f"use {token}", repo="/repo"))
    await state.append_event(id_, "k", "note", None, {"deep": [{"token": token, "nul": "a\x00b"}]})

    assert token not in (await state.get_task(id_)).text
    assert token not in str(await state.list_events(id_))


async def test_sse_resumes_after_the_last_event_seen(state: StateService, http: httpx2.AsyncClient) -> None:
    id_ = await state.create_task(REQUEST)
    await state.append_event(id_, "k", "note", None, {})
    await state.finish(id_, "completed", None, "done", {})
    headers = {"Accept": "text/event-stream", "Last-Event-ID": "1"}

    text = (await http.get(f"/tasks/{id_}/events", headers=headers)).text

    assert [line for line in text.splitlines() if line.startswith("id:")] == ["id: 2"]
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
    away = StateService(sa.create_engine("postgresql+psycopg://x:y@127.0.0.1:9/z"), CountingEngine())
    app = build_api(away, admit=admit, traces=NoTraces(), token="secret")
    async with httpx2.AsyncClient(
        transport=httpx2.ASGITransport(app), base_url="http://state", headers=HEADERS
    ) as http:
        listed, health = await http.get("/tasks"), await http.get("/health")

    assert (listed.status_code, listed.json()["code"]) == (503, "unavailable")
    assert listed.headers["Retry-After"]
    assert (health.status_code, health.json()["ok"]) == (503, False)
