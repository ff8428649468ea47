"""A thousand tasks wait for people: small in memory, idle, all answerable, and taken up again after a kill."""

import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
import pytest
import sqlalchemy as sa

from devtools_platform.core.approvals import Verdict
from devtools_platform.core.tasks import TaskRequest
from devtools_platform.kit import schema
from devtools_platform.state.adapters.dbos.control import DbosControl
from devtools_platform.state.approvals import ApprovalDesk
from devtools_platform.state.service import StateService
from stacks import clean_env

pytestmark = [pytest.mark.timeout(400), pytest.mark.alone]

TASKS = 1000
MOST_A_SECOND = 30
WORKER = Path(__file__).with_name("waiting_worker.py")


@contextmanager
def working(url: str, name: str) -> Iterator[subprocess.Popen[str]]:
    """A worker process that works, until it is killed at the end."""
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    with subprocess.Popen([sys.executable, str(WORKER), url, name], **pipes, text=True, env=clean_env()) as worker:
        try:
            assert worker.stdout is not None
            assert worker.stdout.readline() == "ready\n"
            yield worker
        finally:
            worker.kill()


def count(database: sa.Engine, status: str) -> int:
    with database.connect() as connection:
        query = sa.select(sa.func.count()).where(schema.tasks.c.status == status)
        return int(connection.execute(query).scalar_one())


def waiting(database: sa.Engine) -> int:
    """How many workflows have come to their wait: its time limit is the last thing they store before it."""
    query = sa.text("SELECT count(*) FROM dbos.operation_outputs WHERE function_name = 'DBOS.sleep'")
    with database.connect() as connection:
        return int(connection.execute(query).scalar_one())


def transactions(database: sa.Engine) -> int:
    """How many this database has ended so far."""
    query = sa.text("SELECT xact_commit + xact_rollback FROM pg_stat_database WHERE datname = current_database()")
    with database.connect() as connection:
        return int(connection.execute(query).scalar_one())


def settled(database: sa.Engine, within_s: float) -> None:
    """Returns when five seconds went by with few transactions.

    Raises:
        AssertionError: They did not within `within_s` seconds.
    """
    began, over_s = time.monotonic(), 5.0
    while True:
        before = transactions(database)
        psutil.Process().cpu_percent(over_s)
        if (rate := (transactions(database) - before) / over_s) < MOST_A_SECOND:
            return
        assert time.monotonic() - began < within_s, f"{rate:.1f} transactions a second, and no fewer"


def held(database: sa.Engine, worker: str) -> int:
    query = sa.text("SELECT count(*) FROM dbos.workflow_status WHERE status = 'PENDING' AND executor_id = :worker")
    with database.connect() as connection:
        return int(connection.execute(query, {"worker": worker}).scalar_one())


def until(condition: object, wanted: int, *arguments: object, within_s: float) -> float:
    """Seconds until `condition(*arguments)` is `wanted`."""
    assert callable(condition)
    began = time.monotonic()
    while (found := condition(*arguments)) != wanted:
        assert time.monotonic() - began < within_s, (found, wanted)
        psutil.Process().cpu_percent(0.2)  # waits without keeping a core busy
    return time.monotonic() - began


async def test_a_thousand_tasks_wait_cheaply_and_outlive_their_worker(
    postgres_database_url: str, postgres_database: sa.Engine
) -> None:
    url, database = postgres_database_url, postgres_database
    control = DbosControl(database)
    state, desk = StateService(database, control, None), ApprovalDesk(database, control)  # pyright: ignore[reportArgumentType]
    with working(url, "first") as first:
        ids = [await state.create_task(TaskRequest(text="Wait", repo="/r")) for _ in range(TASKS)]
        until(count, TASKS, database, "input_required", within_s=120)
        until(waiting, TASKS, database, within_s=120)
        # PostgreSQL counts an idle connection's transactions up to ten seconds late: those of the way here come first.
        settled(database, within_s=60)
        before = transactions(database)
        megabytes, share = consumption(psutil.Process(first.pid), over_s=15)
        each_second = (transactions(database) - before) / 15
        found = f"{TASKS} waiting: {megabytes:.0f} MB, {each_second:.1f} transactions a second, {share:.1%} of a core"
        print(f"\n{found}")  # noqa: T201 - the figures themselves
        assert megabytes < 125  # measured 105-120
        # Not the CPU: the same work was 4 % of a core on one machine and 20 % on another that did nothing else.
        # 14 to 22 were measured; one look of each task in every 30 s would be 33 more.
        assert each_second < MOST_A_SECOND, found

    began = time.monotonic()
    with working(url, "second"):
        until(held, TASKS, database, "second", within_s=60)
        took = time.monotonic() - began
        print(f"taken up again after {took:.1f} s")  # noqa: T201 - the figure itself
        assert took < 30

        for id_ in ids:
            await desk.decide(f"{id_}-1", Verdict(decision="approve"), by="ann")
        until(count, TASKS, database, "completed", within_s=120)


def consumption(process: psutil.Process, over_s: float) -> tuple[float, float]:
    """Memory in MB, and CPU time as a share of a core."""
    before, began = process.cpu_times(), time.monotonic()
    psutil.Process().cpu_percent(over_s)
    used, took = process.cpu_times(), time.monotonic() - began
    share = (used.user + used.system - before.user - before.system) / took
    return process.memory_info().rss / 2**20, share
