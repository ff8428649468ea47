"""DBOS in our database: no name twice, and a row of ours and a message of its own in one transaction."""

import asyncio
import threading
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from dbos import DBOS

from devtools_platform.kit.database import connect, in_thread, migrate
from devtools_platform.kit.schema import tasks
from devtools_platform.state.adapters.dbos.control import DbosControl
from devtools_platform.state.adapters.dbos.engine import AgentLimits, DbosEngine
from stacks import wait_until

TASK = {"id": "t1", "text": "a", "repo": "/r", "status": "queued", "trace_id": "0"}


@pytest.fixture
def url(store: str, request: pytest.FixtureRequest, tmp_path: Path) -> str:
    return f"sqlite:///{tmp_path}/store.db" if store == "sqlite" else request.getfixturevalue("postgres_database_url")


@pytest.fixture
def ours(url: str) -> Iterator[sa.Engine]:
    engine = connect(url)
    migrate(engine)
    yield engine
    engine.dispose()


@pytest.fixture
async def durable(url: str, ours: sa.Engine) -> AsyncIterator[DbosEngine]:
    engine = DbosEngine(url, DbosControl(ours), worker_id="test", limits=AgentLimits(1))

    async def wait(_id: str, _argument: dict[str, Any]) -> dict[str, Any]:
        return {"heard": await engine.receive("approval", 20)}

    engine.register("wait", wait)
    await engine.launch()
    yield engine
    await engine.close()


async def test_a_row_and_a_wake_up_are_stored_together_or_not_at_all(ours: sa.Engine, durable: DbosEngine) -> None:
    control = DbosControl(ours)
    await in_thread(ours, lambda c: control.start(c, "wait", "w1", {}, priority=1))

    def decide(connection: sa.Connection, key: str) -> None:
        connection.execute(sa.insert(tasks).values(TASK))
        control.send(connection, "w1", "approval", key)
        # Its statements have left ours as they were.
        assert connection.scalar(sa.select(sa.func.count()).select_from(tasks)) == 1

    def decide_and_break(connection: sa.Connection) -> None:
        decide(connection, "never said")
        raise ConnectionResetError

    with pytest.raises(ConnectionResetError):
        await in_thread(ours, decide_and_break)
    await in_thread(ours, lambda c: decide(c, "approved"))
    handle = await DBOS.retrieve_workflow_async("w1")

    assert await handle.get_result(polling_interval_sec=0.05) == {"heard": True}


def unpolled(url: str, control: DbosControl, monkeypatch: pytest.MonkeyPatch) -> DbosEngine:
    """An engine that would poll in a minute; its `task` has one `run`, of which one may run at a time."""
    monkeypatch.setattr("devtools_platform.state.adapters.dbos.engine.TASKS_POLL_S", 60.0)
    monkeypatch.setattr("devtools_platform.state.adapters.dbos.engine.AGENTS_POLL_S", 60.0)
    engine = DbosEngine(url, control, worker_id="test", limits=AgentLimits(1))

    async def task(id_: str, _argument: dict[str, Any]) -> dict[str, Any]:
        return await engine.child("run", f"{id_}/run", {}, partition="cicd", priority=1)

    engine.register("task", task)
    return engine


async def test_what_this_process_queues_waits_for_no_poll(
    url: str, ours: sa.Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    control = DbosControl(ours)
    engine = unpolled(url, control, monkeypatch)

    async def run(id_: str, _argument: dict[str, Any]) -> dict[str, Any]:
        return {"ran": id_}

    engine.register("run", run)
    await engine.launch()
    try:
        await in_thread(ours, lambda c: control.start(c, "task", "t1", {}, priority=1))
        control.hurry()
        async with asyncio.timeout(20):
            handle = await DBOS.retrieve_workflow_async("t1")
            assert await handle.get_result(polling_interval_sec=0.05) == {"ran": "t1/run"}
    finally:
        await engine.close()
    control.hurry()  # nobody is there any more, which is nothing to complain of


def states(ours: sa.Engine) -> set[str]:
    table = "workflow_status" if ours.dialect.name == "sqlite" else "dbos.workflow_status"
    with ours.connect() as connection:
        found = connection.execute(sa.text(f"SELECT status FROM {table} WHERE workflow_uuid LIKE 'r%/run'"))
        return {str(status) for status in found.scalars()}


async def test_a_run_that_waits_for_the_room_of_another_waits_for_no_poll(
    url: str, ours: sa.Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    control = DbosControl(ours)
    engine = unpolled(url, control, monkeypatch)
    may_end = threading.Event()

    async def run(id_: str, _argument: dict[str, Any]) -> dict[str, Any]:
        await asyncio.to_thread(may_end.wait, 40)
        return {"ran": id_}

    engine.register("run", run)
    await engine.launch()
    try:
        for id_ in ("r1", "r2"):
            await in_thread(ours, lambda c, id_=id_: control.start(c, "task", id_, {}, priority=1))
        control.hurry()
        async with asyncio.timeout(40):
            await asyncio.to_thread(wait_until, lambda: states(ours) == {"PENDING", "ENQUEUED"}, "a run that waits")
            may_end.set()
            for id_ in ("r1", "r2"):
                handle = await DBOS.retrieve_workflow_async(id_)
                assert await handle.get_result(polling_interval_sec=0.05) == {"ran": f"{id_}/run"}
    finally:
        may_end.set()
        await engine.close()


async def test_no_table_of_ours_has_the_name_of_one_of_dbos(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/alone.db"
    engine = DbosEngine(url, DbosControl(connect(url)), worker_id="test", limits=AgentLimits(1))
    await engine.launch()
    await engine.close()
    alone = connect(url)
    with alone.connect() as connection:
        theirs = set(sa.inspect(connection).get_table_names())
    alone.dispose()

    assert "workflow_status" in theirs
    assert not theirs & {table.name for table in tasks.metadata.tables.values()}
