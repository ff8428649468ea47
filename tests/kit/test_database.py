"""The way to the database, on both stores: schema, transactions in threads, and what is said when it is away."""

import asyncio
import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import pytest
from alembic.autogenerate import compare_metadata
from alembic.config import Config
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from anyio import to_thread
from sqlalchemy import Connection, Engine, MetaData, event, func, insert, inspect, select, text
from sqlalchemy.exc import DatabaseError, DataError, IntegrityError, StatementError
from sqlalchemy.sql.schema import BLANK_SCHEMA

from devtools_platform.core.errors import BadInput, Conflict, Unavailable
from devtools_platform.kit import database as database_module
from devtools_platform.kit.database import (
    MIGRATIONS,
    Step,
    connect,
    in_thread,
    insert_each_once,
    insert_once,
    migrate,
    read_in_thread,
    read_step,
    schema_in,
    transaction,
)
from devtools_platform.kit.process import free_port
from devtools_platform.kit.schema import SCHEMA, CurrentTime, events, metadata, tasks

TASK = {"id": "t1", "text": "a", "repo": "/r", "status": "queued", "trace_id": "0"}


@pytest.fixture
def empty(empty_database_url: str) -> Iterator[Engine]:
    engine = connect(empty_database_url)
    yield engine
    engine.dispose()
    if engine.dialect.name == "sqlite":
        Path(str(engine.url.database)).unlink(missing_ok=True)
        return
    with engine.begin() as connection:
        connection.execute(text(f"DROP SCHEMA IF EXISTS {SCHEMA} CASCADE"))
    engine.dispose()


@pytest.fixture
def clean(database: Engine) -> Engine:
    with database.begin() as connection:
        connection.execute(tasks.delete())
    return database


def test_a_migrated_database_is_what_the_code_believes(database: Engine):
    with database.connect() as connection:
        schema = schema_in(connection)
        options = {
            "include_schemas": schema is not None,
            "include_name": lambda name, kind, _: kind != "schema" or name == schema,
            "version_table_schema": schema,
            "compare_type": True,
            "compare_server_default": is_default_other,
        }
        believed = metadata if schema else without_schema(metadata)
        assert compare_metadata(MigrationContext.configure(connection, opts=options), believed) == []


def is_default_other(*given: Any) -> bool | None:
    """None leaves the answer to Alembic, which reads SQLite's empty text as two quotes in brackets."""
    stored, believed = given[3], given[5]
    return False if (stored, believed) == ("('')", "") else None


def without_schema(tables: MetaData) -> MetaData:
    copy = MetaData(naming_convention=tables.naming_convention)
    for table in tables.tables.values():
        table.to_metadata(copy, schema=None, referred_schema_fn=lambda *_: BLANK_SCHEMA)
    return copy


def table_names(engine: Engine) -> list[str]:
    with engine.connect() as connection:
        return inspect(connection).get_table_names(schema_in(connection))


def test_migrating_again_changes_nothing(clean: Engine):
    with clean.begin() as connection:
        connection.execute(insert(tasks).values(TASK))
    migrate(clean)
    with clean.connect() as connection:
        assert connection.scalar(select(func.count()).select_from(tasks)) == 1


def test_the_step_is_known_without_the_migrations_library(empty: Engine):
    with empty.connect() as connection:
        assert read_step(connection) is None
    migrate(empty)
    config = Config()
    config.set_main_option("script_location", str(MIGRATIONS))
    script = ScriptDirectory.from_config(config)
    with empty.connect() as connection:
        assert read_step(connection) == Step(str(script.get_current_head()), str(script.get_current_head()), True)
    steps = list(script.walk_revisions())
    assert all(Path(step.path).name.startswith(f"{step.revision}_") for step in steps)
    assert sorted((step.revision for step in steps), reverse=True) == [step.revision for step in steps]


def test_two_processes_may_migrate_at_once(empty: Engine, empty_database_url: str):
    script = "import sys; from devtools_platform.kit.database import *; migrate(connect(sys.argv[1]))"
    env = {"PYTHONPATH": os.pathsep.join(sys.path)}
    argv = [sys.executable, "-c", script, empty_database_url]
    both = [subprocess.Popen(argv, env=env, stderr=subprocess.PIPE) for _ in range(2)]
    ended = [(process.communicate(timeout=30)[1].decode(), process.returncode) for process in both]
    assert ended == [("", 0), ("", 0)]
    assert "tasks" in table_names(empty)


def test_a_migration_that_breaks_off_leaves_nothing(empty: Engine):
    def break_off(_conn, _cursor, statement, *_):
        if "CREATE TABLE" in statement and "spans" in statement:
            raise ConnectionResetError

    event.listen(empty, "before_cursor_execute", break_off)
    with pytest.raises(ConnectionResetError):
        migrate(empty)
    event.remove(empty, "before_cursor_execute", break_off)
    assert table_names(empty) == []
    migrate(empty)
    assert "spans" in table_names(empty)


def test_a_database_of_a_newer_release_is_refused(empty: Engine):
    migrate(empty)
    with empty.begin() as connection:
        schema = schema_in(connection)
        version = f"{schema}.alembic_version" if schema else "alembic_version"
        connection.execute(text(f"UPDATE {version} SET version_num = '9999'"))
    with pytest.raises(Conflict, match=r"'9999'; Dev-Tools .* knows up to '") as caught:
        migrate(empty)
    assert "dev-tools restore" in caught.value.hint


async def test_what_a_function_did_is_kept_only_if_it_returns(clean: Engine):
    def add(connection: Connection) -> str:
        connection.execute(insert(tasks).values(TASK))
        return "added"

    def add_and_break(connection: Connection) -> None:
        connection.execute(insert(tasks).values(TASK | {"id": "t2"}))
        raise RuntimeError

    assert await in_thread(clean, add) == "added"
    with pytest.raises(RuntimeError):
        await in_thread(clean, add_and_break)
    assert await in_thread(clean, lambda c: list(c.scalars(select(tasks.c.id)))) == ["t1"]


async def test_a_cancelled_caller_waits_for_the_end_of_what_it_began(clean: Engine):
    begun, go_on = threading.Event(), threading.Event()

    def write(connection: Connection) -> None:
        connection.execute(insert(tasks).values(TASK))
        begun.set()
        assert go_on.wait(10)

    writing = asyncio.create_task(in_thread(clean, write))
    assert await asyncio.to_thread(begun.wait, 10)
    for _ in range(2):  # by `Task.cancel`, which anyio's shield does not stop, and by one who is impatient
        writing.cancel()
        await asyncio.wait([writing], timeout=0.05)
    assert not writing.done()
    go_on.set()
    with pytest.raises(asyncio.CancelledError):
        await writing
    assert clean.pool.checkedout() == 0  # pyright: ignore[reportAttributeAccessIssue] - both stores' pools count
    assert await read_in_thread(clean, lambda c: c.scalar(select(func.count()).select_from(tasks))) == 1


async def test_one_that_is_cancelled_before_its_turn_does_nothing(clean: Engine, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(to_thread.current_default_thread_limiter(), "total_tokens", 1)
    go_on, done = threading.Event(), []
    first = asyncio.create_task(in_thread(clean, lambda _: go_on.wait(10)))
    second = asyncio.create_task(in_thread(clean, lambda _: done.append(1)))
    await asyncio.wait([second], timeout=0.05)
    second.cancel()
    with pytest.raises(asyncio.CancelledError):
        await second
    go_on.set()
    assert await first
    assert not done


async def test_what_programs_print_can_be_stored(clean: Engine):
    odd = "NUL \0, half a pair \ud800, é, \\u0000"
    row = TASK | {"text": odd, "result": {odd: [odd, 1, None]}}
    await in_thread(clean, lambda c: c.execute(insert(tasks).values(row)) and None)
    stored = await in_thread(clean, lambda c: c.execute(select(tasks.c.text, tasks.c.result)).one())
    kept = "NUL \ufffd, half a pair ?, é, \\u0000"
    assert stored == (kept, {kept: [kept, 1, None]})


async def test_a_moment_comes_back_in_utc_and_one_without_a_zone_is_refused(clean: Engine):
    moment = datetime(2026, 3, 29, 1, 30, 0, 123456, tzinfo=timezone(timedelta(hours=-5)))
    before = datetime.now(UTC) - timedelta(seconds=1)
    await in_thread(clean, lambda c: c.execute(insert(tasks).values(TASK | {"ended_at": moment})) and None)
    ended, created = await in_thread(clean, lambda c: c.execute(select(tasks.c.ended_at, tasks.c.created_at)).one())
    assert (ended, ended.utcoffset()) == (moment, timedelta(0))
    assert before < created < datetime.now(UTC) + timedelta(seconds=1)
    naive = TASK | {"id": "t2", "ended_at": moment.replace(tzinfo=None)}
    with pytest.raises(StatementError, match="has no time zone"):
        await in_thread(clean, lambda c: c.execute(insert(tasks).values(naive)) and None)


async def test_the_order_of_the_database_s_own_times_is_finer_than_a_second(clean: Engine):
    stamps = [await in_thread(clean, lambda c: c.scalar(select(CurrentTime()))) for _ in range(2)]
    assert any(stamp.microsecond for stamp in stamps)


async def test_a_row_is_inserted_once(clean: Engine):
    def add(text_: str) -> Callable[[Connection], bool]:
        return lambda c: insert_once(c, tasks, TASK | {"text": text_}, on=["id"])

    assert [await in_thread(clean, add("first")), await in_thread(clean, add("second"))] == [True, False]
    assert await read_in_thread(clean, lambda c: list(c.scalars(select(tasks.c.text)))) == ["first"]


async def test_rows_are_inserted_once_each(clean: Engine):
    def add(*ids: str) -> Callable[[Connection], None]:
        return lambda c: insert_each_once(c, tasks, [TASK | {"id": id_} for id_ in ids], on=["id"])

    await in_thread(clean, add("t1", "t2"))
    await in_thread(clean, add("t2", "t3"))
    await in_thread(clean, add())
    assert await read_in_thread(clean, lambda c: sorted(c.scalars(select(tasks.c.id)))) == ["t1", "t2", "t3"]


async def test_an_event_without_its_task_is_refused(clean: Engine):
    event_ = {"task_id": "none", "seq": 1, "key": "k", "kind": "note", "data": {}}
    with pytest.raises(IntegrityError):
        await in_thread(clean, lambda c: c.execute(insert(events).values(event_)) and None)


async def test_a_mistake_in_a_statement_stays_a_crash(clean: Engine):
    with pytest.raises(DatabaseError, match="no_such_table"):
        await in_thread(clean, lambda c: c.execute(text("SELECT 1 FROM no_such_table")) and None)


async def test_no_result_is_null_in_the_table(clean: Engine):
    row = TASK | {"result": None}
    await in_thread(clean, lambda c: c.execute(insert(tasks).values(row)) and None)
    assert await in_thread(clean, lambda c: c.scalar(select(tasks.c.id).where(tasks.c.result.is_(None)))) == "t1"


async def test_a_database_that_is_away_is_unavailable_and_its_password_stays_unsaid():
    engine = connect(f"postgresql://me:hunter2@127.0.0.1:{free_port('127.0.0.1')}/db")
    with pytest.raises(Unavailable, match="does not answer") as raised:
        await in_thread(engine, lambda c: c.scalar(text("SELECT 1")))
    assert "hunter2" not in str(raised.value)


async def test_a_connection_the_server_ended_is_replaced(postgres_database: Engine, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(database_module, "UNASKED_S", 0)
    clean = postgres_database
    pid = await in_thread(clean, lambda c: c.scalar(text("SELECT pg_backend_pid()")))
    other = connect(clean.url.render_as_string(hide_password=False))
    await in_thread(other, lambda c: c.scalar(text("SELECT pg_terminate_backend(:pid, 5000)"), {"pid": pid}))
    other.dispose()
    assert await in_thread(clean, lambda c: c.scalar(text("SELECT pg_backend_pid()"))) != pid


async def test_one_that_was_used_a_moment_ago_is_not_asked_and_its_end_is_an_error_once(postgres_database: Engine):
    asked: list[str] = []
    event.listen(postgres_database.pool, "invalidate", lambda *_: asked.append("invalidated"))
    pid = await in_thread(postgres_database, lambda c: c.scalar(text("SELECT pg_backend_pid()")))
    other = connect(postgres_database.url.render_as_string(hide_password=False))
    await in_thread(other, lambda c: c.scalar(text("SELECT pg_terminate_backend(:pid, 5000)"), {"pid": pid}))
    other.dispose()
    with pytest.raises(Unavailable, match="does not answer"):
        await in_thread(postgres_database, lambda c: c.scalar(text("SELECT pg_backend_pid()")))
    assert asked
    assert await in_thread(postgres_database, lambda c: c.scalar(text("SELECT pg_backend_pid()"))) != pid


def test_a_transaction_that_goes_silent_is_ended_and_lets_others_through(
    postgres_database: Engine, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(database_module, "IDLE_IN_TRANSACTION_S", 1)
    url = postgres_database.url.render_as_string(hide_password=False)
    frozen, other = connect(url), connect(url)
    lock = text("SELECT pg_advisory_xact_lock(7)")

    def go_silent() -> None:
        with transaction(frozen) as held:
            held.execute(lock)
            with transaction(other) as waiting:
                waiting.execute(text("SET LOCAL lock_timeout = '20s'"))
                waiting.execute(lock)
            held.execute(text("SELECT 1"))

    with pytest.raises(Unavailable, match="idle-in-transaction"):
        go_silent()
    with transaction(frozen) as again:
        again.execute(lock)
    frozen.dispose()
    other.dispose()


def test_an_error_does_not_list_what_was_given_to_the_statement(postgres_database: Engine):
    with postgres_database.connect() as connection, pytest.raises(DataError, match="division by zero") as raised:
        connection.execute(text("SELECT 1 / 0, CAST(:it AS text)"), {"it": "secret plan"})
    assert "secret plan" not in str(raised.value)


@pytest.mark.parametrize(
    "url",
    [
        "mysql://me:hunter2@host/db",
        "hunter2",
        "postgresql://me:hunter2@host:x/db",
        "sqlite+aiosqlite:////hunter2.db",
        "sqlite://me:hunter2@host//hunter2.db",
    ],
)
def test_only_postgresql_and_sqlite_are_taken(url: str):
    with pytest.raises(BadInput) as raised:
        connect(url)
    assert "hunter2" not in str(raised.value)
