"""SQLite as the store: writers wait for each other, readers for nobody; what is said when it cannot be used."""

import os
import signal
import sqlite3
import stat
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
from sqlalchemy import Connection, Engine, func, insert, select, text
from sqlalchemy.exc import OperationalError

from devtools_platform.core.errors import BadInput, DiskFull, Unavailable
from devtools_platform.kit import sqlite
from devtools_platform.kit.database import connect, in_thread, migrate, read_in_thread, transaction
from devtools_platform.kit.schema import events, tasks

TASK = {"id": "t1", "text": "a", "repo": "/r", "status": "queued", "trace_id": "0"}


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "store.db"


@pytest.fixture
def store(file: Path) -> Iterator[Engine]:
    engine = connect(f"sqlite:///{file}")
    migrate(engine)
    yield engine
    engine.dispose()


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sqlite, "BUSY_WAIT_S", 0.1)


def pragma(connection: Connection, name: str) -> object:
    return connection.execute(text(f"PRAGMA {name}")).scalar()


def test_a_commit_is_on_the_disk_and_the_file_is_its_owner_s(store: Engine, file: Path):
    with store.connect() as connection:
        names = ("journal_mode", "synchronous", "foreign_keys", "busy_timeout")
        assert [pragma(connection, name) for name in names] == ["wal", 2, 1, 30_000]
        modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in file.parent.iterdir()}
    assert modes == {"store.db": 0o600, "store.db-wal": 0o600, "store.db-shm": 0o600}


WRITER = """
import sys
from sqlalchemy import func, insert, select
from devtools_platform.kit.database import connect, insert_once, migrate, transaction
from devtools_platform.kit.schema import events, tasks
_, url, name = sys.argv
engine = connect(url)
migrate(engine)
with transaction(engine) as connection:
    insert_once(connection, tasks, {task!r}, on=["id"])
print("ready", flush=True)
sys.stdin.readline()
for number in range({count}):
    with transaction(engine) as connection:  # reads, then writes what it read: any gap in between would show
        seq = connection.scalar(select(func.coalesce(func.max(events.c.seq), 0))) + 1
        row = dict(task_id="t1", seq=seq, key=name + str(number), kind="note", data=dict())
        connection.execute(insert(events).values(row))
"""
COUNT = 150


def test_processes_that_write_at_once_lose_nothing_and_none_is_told_locked(file: Path):
    names = ["a", "b", "c"]
    script = WRITER.format(task=TASK, count=COUNT)
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    writers = [
        subprocess.Popen(
            [sys.executable, "-c", script, f"sqlite:///{file}", name],
            env=env,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for name in names
    ]
    for writer in writers:
        assert writer.stdin is not None
        assert writer.stdout is not None
        assert writer.stdout.readline() == "ready\n"
        writer.stdin.write("go\n")
        writer.stdin.flush()
    ended = [(writer.communicate(timeout=60)[1], writer.returncode) for writer in writers]
    assert ended == [("", 0)] * len(names)

    engine = connect(f"sqlite:///{file}")
    with engine.connect() as connection:
        assert list(connection.scalars(select(events.c.seq).order_by(events.c.seq))) == list(
            range(1, COUNT * len(names) + 1)
        )
        assert pragma(connection, "integrity_check") == "ok"
    engine.dispose()


def test_what_was_committed_before_a_kill_is_there_and_the_rest_is_not(store: Engine, file: Path):
    script = """
import sys, os
from devtools_platform.kit.database import connect, transaction
from devtools_platform.kit.schema import tasks
engine = connect(sys.argv[1])
with transaction(engine) as connection:
    connection.execute(tasks.insert().values({task!r}))
with transaction(engine) as connection:
    connection.execute(tasks.insert().values({task!r} | dict(id="t2")))
    print("written", flush=True)
    sys.stdin.readline()
"""
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    with subprocess.Popen(
        [sys.executable, "-c", script.format(task=TASK), f"sqlite:///{file}"],
        env=env,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as writer:
        assert writer.stdout is not None
        assert writer.stdout.readline() == "written\n"
        writer.send_signal(signal.SIGKILL)
    with transaction(store) as connection:
        assert list(connection.scalars(select(tasks.c.id))) == ["t1"]


async def test_a_reader_waits_for_no_writer_and_sees_what_was_committed(store: Engine):
    with transaction(store) as connection:
        connection.execute(insert(tasks).values(TASK))
        count = await read_in_thread(store, lambda c: c.scalar(select(func.count()).select_from(tasks)))
        assert count == 0
    assert await read_in_thread(store, lambda c: c.scalar(select(func.count()).select_from(tasks))) == 1


async def test_a_writer_waits_for_no_reader(store: Engine):
    entered, leave = threading.Event(), threading.Event()

    def read_slowly(connection: Connection) -> int:
        connection.execute(select(tasks)).all()
        entered.set()
        assert leave.wait(5)
        return len(connection.execute(select(tasks)).all())

    seen: list[int] = []
    with store.connect() as connection:
        connection.execution_options(**{sqlite.READS: True})
        reader = threading.Thread(target=lambda: seen.append(read_slowly(connection)))
        reader.start()
        assert entered.wait(5)
        await in_thread(store, lambda c: c.execute(insert(tasks).values(TASK)) and None)
        leave.set()
        reader.join(5)
    assert seen == [0]


@pytest.mark.usefixtures("impatient")
async def test_a_writer_that_waited_in_vain_is_told_busy(file: Path):
    engine = connect(f"sqlite:///{file}")
    migrate(engine)
    with closing(sqlite3.connect(file, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        with pytest.raises(Unavailable, match="database is locked"):
            await in_thread(engine, lambda c: c.execute(insert(tasks).values(TASK)) and None)
        other.execute("ROLLBACK")
    await in_thread(engine, lambda c: c.execute(insert(tasks).values(TASK)) and None)
    engine.dispose()


async def test_a_full_disk_is_said_as_such(store: Engine):
    def fill(connection: Connection) -> None:
        connection.execute(insert(tasks).values(TASK | {"text": "x" * 1_000_000}))

    with store.connect() as connection:
        pages = pragma(connection, "page_count")
    with transaction(store) as connection:
        connection.exec_driver_sql(f"PRAGMA max_page_count={pages}")
    with pytest.raises(DiskFull, match="no room left"):
        await in_thread(store, fill)


@pytest.mark.parametrize(
    "url",
    [
        "sqlite://",
        "sqlite:///:memory:",
        "sqlite:///file::memory:?cache=shared&uri=true",
        "sqlite:////tmp/a.db?mode=memory",
        "sqlite:///relative.db",
        "sqlite:////no/such/folder/a.db",
        "sqlite:////tmp",
    ],
)
def test_a_url_that_names_no_file_is_refused_with_an_example(url: str):
    with pytest.raises(BadInput) as raised:
        connect(url)
    assert "sqlite:////absolute/path" in raised.value.hint


def test_a_file_that_is_no_database_is_refused_and_left_alone(file: Path):
    file.write_text("notes, " * 1000)
    engine = connect(f"sqlite:///{file}")
    with pytest.raises(BadInput, match="something else than an SQLite database"):
        migrate(engine)
    engine.dispose()
    assert file.read_text() == "notes, " * 1000


def test_a_folder_that_went_away_is_unavailable(file: Path):
    file.parent.joinpath("sub").mkdir()
    engine = connect(f"sqlite:///{file.parent}/sub/store.db")
    file.parent.joinpath("sub").rmdir()
    with pytest.raises(Unavailable, match="cannot be made") as raised:
        migrate(engine)
    assert "folder that exists" in raised.value.hint


def test_an_error_does_not_list_what_was_given_to_the_statement(store: Engine):
    with store.connect() as connection, pytest.raises(OperationalError) as raised:
        connection.execute(text("SELECT no_such_function(:it)"), {"it": "secret plan"})
    assert "secret plan" not in str(raised.value)
