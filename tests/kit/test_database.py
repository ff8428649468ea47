"""The way to PostgreSQL: schema, transactions in threads, and what is said when it is away."""

import os
import subprocess
import sys
from collections.abc import Iterator

import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from sqlalchemy import Connection, Engine, event, func, insert, inspect, select, text
from sqlalchemy.exc import DataError

from devtools_platform.core.errors import BadInput, Conflict, Unavailable
from devtools_platform.kit.database import connect, in_thread, migrate
from devtools_platform.kit.process import free_port
from devtools_platform.kit.schema import SCHEMA, metadata, tasks

TASK = {"id": "t1", "text": "a", "repo": "/r", "status": "queued", "trace_id": "0"}


@pytest.fixture
def empty(empty_database_url: str) -> Iterator[Engine]:
    engine = connect(empty_database_url)
    yield engine
    with engine.begin() as connection:
        connection.execute(text(f"DROP SCHEMA IF EXISTS {SCHEMA} CASCADE"))
    engine.dispose()


@pytest.fixture
def clean(database: Engine) -> Engine:
    with database.begin() as connection:
        connection.execute(tasks.delete())
    return database


def test_a_migrated_database_is_what_the_code_believes(database: Engine):
    options = {
        "include_schemas": True,
        "include_name": lambda name, kind, _: kind != "schema" or name == SCHEMA,
        "version_table_schema": SCHEMA,
        "compare_type": True,
        "compare_server_default": True,
    }
    with database.connect() as connection:
        assert compare_metadata(MigrationContext.configure(connection, opts=options), metadata) == []


def test_migrating_again_changes_nothing(clean: Engine):
    with clean.begin() as connection:
        connection.execute(insert(tasks).values(TASK))
    migrate(clean)
    with clean.connect() as connection:
        assert connection.scalar(select(func.count()).select_from(tasks)) == 1


def test_two_processes_may_migrate_at_once(empty: Engine, empty_database_url: str):
    script = "import sys; from devtools_platform.kit.database import *; migrate(connect(sys.argv[1]))"
    env = {"PYTHONPATH": os.pathsep.join(sys.path)}
    argv = [sys.executable, "-c", script, empty_database_url]
    both = [subprocess.Popen(argv, env=env, stderr=subprocess.PIPE) for _ in range(2)]
    ended = [(process.communicate(timeout=30)[1].decode(), process.returncode) for process in both]
    assert ended == [("", 0), ("", 0)]
    assert "tasks" in inspect(empty).get_table_names(SCHEMA)


def test_a_migration_that_breaks_off_leaves_nothing(empty: Engine):
    def break_off(_conn, _cursor, statement, *_):
        if "CREATE TABLE devtools.spans" in statement:
            raise ConnectionResetError

    event.listen(empty, "before_cursor_execute", break_off)
    with pytest.raises(ConnectionResetError):
        migrate(empty)
    event.remove(empty, "before_cursor_execute", break_off)
    assert not inspect(empty).has_schema(SCHEMA)
    migrate(empty)
    assert "spans" in inspect(empty).get_table_names(SCHEMA)


def test_a_database_of_a_newer_release_is_refused(empty: Engine):
    migrate(empty)
    with empty.begin() as connection:
        connection.execute(text(f"UPDATE {SCHEMA}.alembic_version SET version_num = '9999'"))
    with pytest.raises(Conflict, match="'9999'; this release knows up to '0010'"):
        migrate(empty)


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


async def test_what_programs_print_can_be_stored(clean: Engine):
    odd = "NUL \0, half a pair \ud800, é, \\u0000"
    row = TASK | {"text": odd, "result": {odd: [odd, 1, None]}}
    await in_thread(clean, lambda c: c.execute(insert(tasks).values(row)) and None)
    stored = await in_thread(clean, lambda c: c.execute(select(tasks.c.text, tasks.c.result)).one())
    kept = "NUL \ufffd, half a pair ?, é, \\u0000"
    assert stored == (kept, {kept: [kept, 1, None]})


async def test_no_result_is_null_in_the_table(clean: Engine):
    row = TASK | {"result": None}
    await in_thread(clean, lambda c: c.execute(insert(tasks).values(row)) and None)
    assert await in_thread(clean, lambda c: c.scalar(select(tasks.c.id).where(tasks.c.result.is_(None)))) == "t1"


async def test_a_database_that_is_away_is_unavailable_and_its_password_stays_unsaid():
    engine = connect(f"postgresql://me:hunter2@127.0.0.1:{free_port('127.0.0.1')}/db")
    with pytest.raises(Unavailable, match="does not answer") as raised:
        await in_thread(engine, lambda c: c.scalar(text("SELECT 1")))
    assert "hunter2" not in str(raised.value)


async def test_a_connection_the_server_ended_is_replaced(clean: Engine):
    pid = await in_thread(clean, lambda c: c.scalar(text("SELECT pg_backend_pid()")))
    other = connect(clean.url.render_as_string(hide_password=False))
    await in_thread(other, lambda c: c.scalar(text("SELECT pg_terminate_backend(:pid, 5000)"), {"pid": pid}))
    other.dispose()
    assert await in_thread(clean, lambda c: c.scalar(text("SELECT pg_backend_pid()"))) != pid


def test_an_error_does_not_list_what_was_given_to_the_statement(database: Engine):
    with database.connect() as connection, pytest.raises(DataError, match="division by zero") as raised:
        connection.execute(text("SELECT 1 / 0, CAST(:it AS text)"), {"it": "secret plan"})
    assert "secret plan" not in str(raised.value)


@pytest.mark.parametrize("url", ["mysql://me:hunter2@host/db", "hunter2", "postgresql://me:hunter2@host:x/db"])
def test_only_postgresql_is_taken(url: str):
    with pytest.raises(BadInput) as raised:
        connect(url)
    assert "hunter2" not in str(raised.value)
