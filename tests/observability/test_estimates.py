"""What a run of an agent has cost, on both stores: only what is wholly known counts."""

from dataclasses import replace
from decimal import Decimal

import sqlalchemy as sa

from devtools_platform.kit.schema import runs, tasks
from devtools_platform.observability.adapters.sql import SqlLedger
from devtools_platform.observability.adapters.sql.estimates import cost_of_run
from devtools_platform.observability.interfaces import ModelCall

CALL = ModelCall("t", "cicd", "p", "m", 10, 2, Decimal("0.1"), 0.5)


def add_runs(database: sa.Engine, task_id: str, *statuses: str) -> None:
    with database.begin() as connection:
        if connection.scalar(sa.select(tasks.c.id).where(tasks.c.id == task_id)) is None:
            row = {"id": task_id, "text": "x", "repo": "/r", "status": "working", "trace_id": "0"}
            connection.execute(sa.insert(tasks).values(row))
        for n, status in enumerate(statuses, 1):
            id_ = f"{task_id}/cicd/{n}"
            row = {"id": id_, "task_id": task_id, "agent": "cicd", "n": n, "status": status}
            connection.execute(sa.insert(runs).values(row))


async def test_the_cost_of_a_run_is_known_only_from_tasks_that_are(database: sa.Engine) -> None:
    ledger = SqlLedger(database)
    assert await cost_of_run(database, "cicd", "p", "m") == (None, 0)

    await ledger.record(replace(CALL, task_id="one"))
    await ledger.record(replace(CALL, task_id="one", cost_usd=Decimal("0.2")))
    await ledger.record(replace(CALL, task_id="one", cost_usd=None, error="refused", input_tokens=None))
    add_runs(database, "one", "suspended", "completed", "failed")
    assert await cost_of_run(database, "cicd", "p", "m") == (Decimal("0.15"), 2)

    await ledger.record(replace(CALL, task_id="two", cost_usd=Decimal("0.6")))
    add_runs(database, "two", "completed")
    assert await cost_of_run(database, "cicd", "p", "m") == (Decimal("0.3"), 3)

    await ledger.record(replace(CALL, task_id="unpriced", cost_usd=None))
    add_runs(database, "unpriced", "completed")
    await ledger.record(replace(CALL, task_id="mixed"))
    await ledger.record(replace(CALL, task_id="mixed", model="other"))
    add_runs(database, "mixed", "completed")
    await ledger.record(replace(CALL, task_id="open"))
    add_runs(database, "open", "completed", "working")
    await ledger.record(replace(CALL, task_id="chat:1"))
    assert await cost_of_run(database, "cicd", "p", "m") == (Decimal("0.3"), 3)
    assert await cost_of_run(database, "documentation", "p", "m") == (None, 0)
