"""The same stack on an SQLite file: a task from request to branch, and one that is killed on the way."""

import sqlite3
import stat
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import psutil
import pytest

from devtools_platform.kit.database import connect
from processes import names_of
from stacks import StackProcess, clean_env, git, running_stack

TASK = "Fix the failing test: an order of exactly 100 must get the discount."


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("store") / "store.db"


@pytest.fixture(scope="module")
def on_sqlite(
    file: Path, tmp_path_factory: pytest.TempPathFactory, endpoint_env: dict[str, str]
) -> Iterator[StackProcess]:
    env = clean_env(**endpoint_env, DATABASE_URL=f"sqlite:///{file}")
    with running_stack(tmp_path_factory.mktemp("on-sqlite") / "data", env) as stack:
        yield stack


def test_a_task_becomes_a_tested_and_reviewed_branch(on_sqlite: StackProcess, shop: Path, file: Path) -> None:
    task = on_sqlite.run_task(TASK, shop)

    assert task["status"] == "completed", task
    assert git(shop, "rev-list", "--count", f"main..{task['branch']}") == "1"
    assert "total >= DISCOUNT_FROM" in git(shop, "show", f"{task['branch']}:shop/prices.py")
    assert task["tokens"]["model_calls"] == 6
    assert on_sqlite.get("/health")["store"] == "sqlite"
    events = on_sqlite.get(f"/tasks/{task['id']}/events")
    assert [event["seq"] for event in events] == list(range(1, len(events) + 1))
    assert [event["at"] for event in events] == sorted(event["at"] for event in events)
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert on_sqlite.process is not None
    family = psutil.Process(on_sqlite.process.pid).children(recursive=True)
    assert "postgres" not in names_of(family), "no server was started beside it"


def test_a_task_killed_on_the_way_is_finished_by_the_next_up(on_sqlite: StackProcess, shop: Path, file: Path) -> None:
    created = on_sqlite.create_task(TASK, shop)
    for event in on_sqlite.follow(created["id"]):
        if event["kind"] == "tool_call" and event["agent"] == "feature-dev":
            break
    on_sqlite.kill_everything()

    on_sqlite.start()
    task = on_sqlite.wait_for_end(created["id"])

    assert task["status"] == "completed", task
    assert git(shop, "branch", "--list", "task/*").split() == [task["branch"]]
    assert git(shop, "rev-list", "--count", f"main..{task['branch']}") == "1"
    kinds = [event["kind"] for event in on_sqlite.get(f"/tasks/{created['id']}/events")]
    assert (kinds.count("commit"), kinds.count("finished")) == (1, 1)
    with closing(sqlite3.connect(file)) as connection:
        assert connection.execute("PRAGMA integrity_check").fetchone() == ("ok",)


def test_everything_the_stack_stores_is_in_the_one_file(on_sqlite: StackProcess, file: Path) -> None:
    engine = connect(f"sqlite:///{file}")
    with engine.connect() as connection:
        names = set(connection.exec_driver_sql("SELECT name FROM sqlite_master WHERE type = 'table'").scalars())
    engine.dispose()

    assert {"tasks", "events", "spans", "workflow_status", "notifications"} <= names
    assert {path.name for path in file.parent.iterdir()} == {"store.db", "store.db-wal", "store.db-shm"}
