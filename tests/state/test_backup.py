"""Backup and restore with PostgreSQL's own programs, on a real server: all of it comes back, or nothing changes."""

import asyncio
import secrets
from collections.abc import Callable
from pathlib import Path
from threading import Event, Thread
from typing import Any

import pytest
import sqlalchemy as sa

from devtools_platform.core.errors import BadInput, Conflict, ProgramFailed
from devtools_platform.core.tasks import TaskRequest
from devtools_platform.kit import schema
from devtools_platform.kit.database import connect, migrate
from devtools_platform.state.adapters.embedded_postgres import find_programs
from devtools_platform.state.audit import AuditLog, Deed, record
from devtools_platform.state.backup import Target, back_up, count_tasks, restore
from devtools_platform.state.service import _new_row

PROGRAMS = find_programs()
NewDatabase = Callable[..., str]


@pytest.fixture
def new_database(postgres_url: str, migrated_template: str) -> NewDatabase:
    def make(*texts: str, is_migrated: bool = True) -> str:
        name = f"test_{secrets.token_hex(4)}"
        template = migrated_template if is_migrated else "template1"
        run(postgres_url, f"CREATE DATABASE {name} TEMPLATE {template}")
        url = sa.make_url(postgres_url).set(database=name).render_as_string(hide_password=False)
        add_tasks(url, *texts)
        return url

    return make


def run(url: str, statement: str) -> None:
    engine = connect(url)
    with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        connection.execute(sa.text(statement))
    engine.dispose()


def add_tasks(url: str, *texts: str) -> None:
    engine = connect(url)
    for text in texts:
        with engine.begin() as connection:
            id_ = secrets.token_hex(4)
            record(connection, Deed("me", "task.create", f"task:{id_}", {"text": text}, makes_subject=True))
            connection.execute(sa.insert(schema.tasks).values(_new_row(id_, TaskRequest(text=text, repo="/repo"))))
    engine.dispose()


def list_texts(url: str) -> list[str]:
    engine = connect(url)
    with engine.connect() as connection:
        found = connection.execute(sa.select(schema.tasks.c.text).order_by(schema.tasks.c.text)).scalars().all()
    engine.dispose()
    return list(found)


def verify_audit(url: str) -> tuple[int, int | None]:
    engine = connect(url)
    report = asyncio.run(AuditLog(engine).verify())
    engine.dispose()
    return report.entries, report.broken_at


def test_a_backup_comes_back_in_an_empty_database(new_database: NewDatabase, tmp_path: Path) -> None:
    source, target = new_database("one", "two"), new_database(is_migrated=False)
    run(source, "CREATE SCHEMA dbos")
    run(source, "CREATE TABLE dbos.workflow_status AS SELECT 7 AS id")
    file = tmp_path / "stack.backup"

    assert back_up(source, file, PROGRAMS) == file.stat().st_size
    assert file.stat().st_mode & 0o777 == 0o600
    restored = restore(target, file, PROGRAMS)

    assert restored == 2
    assert list_texts(target) == ["one", "two"]
    assert verify_audit(target) == (2, None)
    run(target, "INSERT INTO dbos.workflow_status VALUES (8)")
    engine = connect(target)
    migrate(engine)
    engine.dispose()
    assert [path.name for path in tmp_path.iterdir()] == ["stack.backup"]


def test_a_database_that_holds_tasks_is_not_overwritten(new_database: NewDatabase, tmp_path: Path) -> None:
    source, target = new_database("new"), new_database("old", "older")
    file = tmp_path / "stack.backup"
    back_up(source, file, PROGRAMS)

    with pytest.raises(Conflict, match="holds 2 tasks") as caught:
        restore(target, file, PROGRAMS)

    assert "DATABASE_URL" in caught.value.hint
    assert list_texts(target) == ["old", "older"]


def test_what_a_newer_release_added_does_not_stop_an_older_backup(new_database: NewDatabase, tmp_path: Path) -> None:
    source, target = new_database("old"), new_database()
    run(target, "CREATE TABLE devtools.from_the_future (task text REFERENCES devtools.tasks (id))")
    file = tmp_path / "stack.backup"
    back_up(source, file, PROGRAMS)

    restore(target, file, PROGRAMS)

    assert list_texts(target) == ["old"]


@pytest.mark.parametrize("kept", [0.0, 0.3, 0.9, 0.999])
def test_a_truncated_file_changes_nothing(new_database: NewDatabase, tmp_path: Path, kept: float) -> None:
    source, target = new_database(*(secrets.token_hex(2000) for _ in range(20))), new_database()
    file = tmp_path / "stack.backup"
    back_up(source, file, PROGRAMS)
    file.write_bytes(file.read_bytes()[: int(file.stat().st_size * kept)])

    with pytest.raises(BadInput, match="no whole backup"):
        restore(target, file, PROGRAMS)

    assert list_texts(target) == []
    assert [path.name for path in tmp_path.iterdir()] == ["stack.backup"]


def test_a_restore_that_fails_half_way_changes_nothing(new_database: NewDatabase, tmp_path: Path) -> None:
    source, target = new_database("new"), new_database()
    file = tmp_path / "stack.backup"
    back_up(source, file, PROGRAMS)
    forbid = """
        CREATE FUNCTION public.refuse() RETURNS event_trigger LANGUAGE plpgsql AS $$
        BEGIN RAISE EXCEPTION 'no index today'; END $$;
        CREATE EVENT TRIGGER refuse ON ddl_command_end WHEN TAG IN ('CREATE INDEX') EXECUTE FUNCTION public.refuse()
    """
    run(target, forbid)

    with pytest.raises(ProgramFailed, match="no index today"):
        restore(target, file, PROGRAMS)

    assert list_texts(target) == []
    assert verify_audit(target) == (0, None)


def test_a_backup_of_something_else_is_refused(new_database: NewDatabase, tmp_path: Path) -> None:
    stranger, target = new_database(is_migrated=False), new_database()
    run(stranger, "CREATE SCHEMA devtools")
    file = tmp_path / "stack.backup"
    back_up(stranger, file, PROGRAMS)

    with pytest.raises(BadInput, match="no table of tasks"):
        restore(target, file, PROGRAMS)
    with pytest.raises(BadInput, match="There is no file"):
        restore(target, tmp_path / "none", PROGRAMS)
    assert list_texts(target) == []


def test_a_backup_under_load_is_one_moment(new_database: NewDatabase, tmp_path: Path) -> None:
    source, target = new_database("first"), new_database(is_migrated=False)
    end, begun = Event(), Event()

    def work() -> None:
        while not end.is_set():
            add_tasks(source, "more")
            begun.set()

    writer = Thread(target=work)
    writer.start()
    try:
        assert begun.wait(5)
        back_up(source, tmp_path / "stack.backup", PROGRAMS)
    finally:
        end.set()
        writer.join()
    restored = restore(target, tmp_path / "stack.backup", PROGRAMS)

    assert 2 <= restored <= count_tasks(source)
    assert verify_audit(target) == (restored, None)


def test_a_failed_backup_leaves_the_older_file(new_database: NewDatabase, tmp_path: Path) -> None:
    url = new_database("one")
    file = tmp_path / "stack.backup"
    file.write_text("older")

    with pytest.raises(ProgramFailed, match="does not exist"):
        back_up(sa.make_url(url).set(database="none").render_as_string(hide_password=False), file, PROGRAMS)
    with pytest.raises(BadInput, match="cannot be written"):
        back_up(url, tmp_path / "none" / "file", PROGRAMS)

    assert file.read_text() == "older"
    assert [path.name for path in tmp_path.iterdir()] == ["stack.backup"]


@pytest.mark.parametrize(
    "url", ["postgresql://me:s3cret@host:5/db?sslmode=disable", "postgresql://me@host:5/db?password=s3cret"]
)
def test_the_password_is_no_argument_of_a_program(url: str) -> None:
    target = Target.of(url)

    assert "s3cret" not in target.address
    assert target.address.startswith("postgresql://me@host:5/db")
    assert target.env["PGPASSWORD"] == "s3cret"


def test_an_sqlite_file_comes_back_as_it_was_at_one_moment(tmp_path: Path) -> None:
    source, target, file = f"sqlite:///{tmp_path}/a.db", f"sqlite:///{tmp_path}/b.db", tmp_path / "stack.backup"
    engine = connect(source)
    migrate(engine)
    add_tasks(source, "one", "two")
    with engine.begin() as writer:  # a writer in the middle of its work: it neither waits nor is copied
        writer.execute(sa.delete(schema.tasks))
        assert back_up(source, file, PROGRAMS) == file.stat().st_size
    engine.dispose()

    assert restore(target, file, PROGRAMS) == 2
    assert list_texts(target) == ["one", "two"]
    assert verify_audit(target) == (2, None)
    with pytest.raises(Conflict, match="holds 2 tasks"):
        restore(target, file, PROGRAMS)


@pytest.mark.parametrize("content", [b"", b"SQLite format 3\0 and then nonsense", None])
def test_what_is_no_sqlite_store_of_ours_is_not_restored(tmp_path: Path, content: bytes | None) -> None:
    source, target, file = tmp_path / "a.db", tmp_path / "b.db", tmp_path / "file"
    engine = connect(f"sqlite:///{source}")
    migrate(engine)
    engine.dispose()
    back_up(f"sqlite:///{source}", file, PROGRAMS)
    file.write_bytes(file.read_bytes()[:-5000] if content is None else content)

    with pytest.raises(BadInput, match="no whole backup"):
        restore(f"sqlite:///{target}", file, PROGRAMS)

    assert not target.exists()


class NewerServer:
    """A client that meets a server it is too old for: it says and does what `pg_dump` does then."""

    def __init__(self, folder: Path) -> None:
        script = folder / "pg_dump"
        script.write_text(
            "#!/bin/sh\necho 'pg_dump: error: aborting because of server version mismatch' >&2\n"
            "echo 'pg_dump: detail: server version: 18.1; pg_dump version: 16.14' >&2\nexit 1\n"
        )
        script.chmod(0o755)
        self.pg_dump = self.pg_restore = self.psql = script


def test_a_server_newer_than_our_programs_is_named(postgres_database_url: str, tmp_path: Path) -> None:
    programs: Any = NewerServer(tmp_path)

    with pytest.raises(Conflict, match=r"server version: 18\.1") as caught:
        back_up(postgres_database_url, tmp_path / "file", programs)

    assert "--format=custom" in caught.value.hint
