"""Histories that released code has stored are replayed by today's, step by step, without doing anything again.

A red test here means that a task in flight would break at the next deploy: put the change of the workflow behind
`DbosEngine.patched`, and record a further history; do not record an old one anew.
"""

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from dbos import DBOS

from devtools_platform.agents.crew import AGENT_RUN, Crew
from devtools_platform.agents.orchestration import TaskWorkflow
from devtools_platform.agents.questions import People
from devtools_platform.agents.tool_calls import DurableTools
from devtools_platform.core.approvals import ApprovalRules
from devtools_platform.kit.database import connect
from devtools_platform.state.adapters.dbos.control import DbosControl
from devtools_platform.state.adapters.dbos.engine import AgentLimits, DbosEngine

HISTORIES = sorted((Path(__file__).parent / "histories").glob("*.json"))


LEFT = {"status": "PENDING", "executor_id": "gone", "output": None, "completed_at": None}


class Untouched:
    """Stands for everything outside: a replay that reaches for it does something a second time."""

    def __getattr__(self, name: str) -> Any:
        def touch(*_: object, **__: object) -> None:
            raise AssertionError(f"the replay called {name!r}")

        return touch


async def no_agent(id_: str, _argument: dict[str, Any]) -> dict[str, Any]:
    raise AssertionError(f"{id_} was run again")


def crew_of(engine: DbosEngine) -> Crew:
    out: Any = Untouched()
    people = People(out, out, out, ApprovalRules(), "test")
    return Crew(engine, out, out, out, Tools(engine), out, out, people, asyncio.Semaphore(1), None, 1)  # pyright: ignore[reportArgumentType]


class Tools:
    """The orchestration's tool calls, as steps that are all in the history."""

    def __init__(self, engine: DbosEngine) -> None:
        out: Any = Untouched()
        self.call = DurableTools(out, engine, out).call


def store(database: sa.Engine, history: dict[str, Any]) -> None:
    """As a worker left it that died after the last step."""
    metadata = sa.MetaData(schema="dbos")
    with database.begin() as connection:
        for name, rows in history["tables"].items():
            table = sa.Table(name, metadata, autoload_with=connection)
            for row in rows:
                is_task = name == "workflow_status" and row["workflow_uuid"] == history["task"]
                connection.execute(sa.insert(table).values({**row, **(LEFT if is_task else {})}))


@pytest.mark.parametrize("file", HISTORIES, ids=[file.stem for file in HISTORIES])
async def test_a_stored_history_is_replayed_to_its_end(file: Path, fresh_postgres_url: str) -> None:
    url = fresh_postgres_url
    database = connect(url)
    history = json.loads(file.read_text())  # noqa: ASYNC240 - a small local file
    engine = DbosEngine(url, DbosControl(database), worker_id="today", limits=AgentLimits(1))
    engine.register("task", TaskWorkflow(crew_of(engine)))
    engine.register(AGENT_RUN, no_agent)
    await engine.launch()
    try:
        store(database, history)
        assert await engine.recover(["gone"]) == 1
        handle = await DBOS.retrieve_workflow_async(history["task"])
        async with asyncio.timeout(30):
            result = await handle.get_result(polling_interval_sec=0.05)
        steps = await DbosControl(database).list_steps(history["task"])
    finally:
        await engine.close()
        database.dispose()
    assert result["status"] in {"completed", "failed"}
    assert len(steps) == len(history["tables"]["operation_outputs"]), "nothing was done beyond the history"


def test_there_are_histories() -> None:
    assert len(HISTORIES) >= 2
