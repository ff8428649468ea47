"""The database of a stack into one file and back, with PostgreSQL's own programs or SQLite's own backup.

A backup is one consistent snapshot, taken while tasks run. A restore fills a database that holds no task, in one
transaction: a broken file, a full disk or a crash in the middle leaves it as it was. The file is first turned into SQL
as a whole, so that a truncated one is found before the database is touched; and the schemas are dropped whole, where
`pg_restore --clean` would stop at a table that a newer release has added. Repositories, workspaces and the code index
are not in it: `app.backup` puts them beside it.
"""

import contextlib
import os
import shutil
import sqlite3
import subprocess
import tempfile
from collections.abc import Generator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import sqlalchemy as sa

from devtools_platform.core.errors import BadInput, Conflict, DiskFull, ProgramFailed
from devtools_platform.core.redact import redact_text
from devtools_platform.kit import schema
from devtools_platform.kit.database import as_ours, connect, schema_in

SCHEMAS = (schema.SCHEMA, "dbos")
ENV: Mapping[str, str] = {"PATH": "/usr/bin:/bin", "LC_ALL": "C", "TZ": "UTC", "PGCONNECT_TIMEOUT": "10"}
"""All the environment that the programs get, beside the password."""


class BackupPrograms(Protocol):
    """Where PostgreSQL's client programs are."""

    @property
    def pg_dump(self) -> Path: ...

    @property
    def pg_restore(self) -> Path: ...

    @property
    def psql(self) -> Path: ...


@dataclass(frozen=True)
class Target:
    """A database, as the programs are told of it: the address in their arguments, the password in their environment."""

    address: str
    env: Mapping[str, str]

    @classmethod
    def of(cls, url: str) -> "Target":
        """Raises `BadInput` for what is no PostgreSQL URL."""
        engine = connect(url)
        parsed, store = engine.url, engine.dialect.name
        engine.dispose()
        if store != "postgresql":
            raise BadInput(f"The store is {store}, and PostgreSQL's own tools serve PostgreSQL only.")
        password = parsed.password or parsed.query.get("password")
        env = {**ENV, "PGPASSWORD": str(password)} if password else dict(ENV)
        bare = parsed.set(drivername="postgresql").difference_update_query(["password"])
        # `set` leaves alone what it is given as None.
        return cls(bare._replace(password=None).render_as_string(hide_password=False), env)


def back_up(url: str, file: Path, programs: BackupPrograms) -> int:
    """Write the database to `file`, whole or not at all, readable by its owner only. Returns its size in bytes.

    Raises `BadInput` where the file cannot be written, `Conflict` for a server newer than our `pg_dump`.
    """
    partial = file.with_name(f"{file.name}.partial")
    with _written(partial):
        if (store := sqlite_file(url)) is not None:
            _copy_sqlite(store, partial)
        else:
            target = Target.of(url)
            schemas = [f"--schema={name}" for name in SCHEMAS]
            argv = [programs.pg_dump, "--format=custom", "--no-password", *schemas, f"--file={partial}"]
            _run([*argv, f"--dbname={target.address}"], target.env)
        _flush(partial)
        partial.rename(file)
    return file.stat().st_size


def restore(url: str, file: Path, programs: BackupPrograms) -> int:
    """Put what `file` holds into a database without tasks; returns how many tasks came. No stack may use it.

    Raises `BadInput` for a file that is no whole backup, `Conflict` for a database that holds tasks.
    """
    refuse_full(url)
    if (store := sqlite_file(url)) is not None:
        _require_sqlite(file)
        _replace_sqlite(store, file)
        return count_tasks(url)
    target = Target.of(url)
    _require_backup(file, programs)
    with tempfile.TemporaryDirectory(prefix=".restore-", dir=file.parent) as folder:
        script = Path(folder) / "backup.sql"
        _write_script(file, script, programs)
        drop = f"DROP SCHEMA IF EXISTS {', '.join(SCHEMAS)} CASCADE"
        argv = [programs.psql, "--no-psqlrc", "--quiet", "--no-password", "--set=ON_ERROR_STOP=1"]
        argv += ["--single-transaction", f"--command={drop}", f"--file={script}", f"--dbname={target.address}"]
        _run(argv, target.env)
    return count_tasks(url)


def refuse_full(url: str) -> None:
    """Raises `Conflict` for a database that holds tasks."""
    if count := count_tasks(url):
        raise Conflict(
            f"The database holds {count} tasks already, and a restore overwrites nothing.",
            hint="Give another data directory (--data-dir), or another database (DATABASE_URL).",
        )


def count_tasks(url: str) -> int:
    """How many tasks the database holds; 0 when no stack was ever there."""
    if (store := sqlite_file(url)) is not None and not store.exists():
        return 0
    engine = connect(url)
    try:
        with as_ours(), engine.connect() as connection:
            if not sa.inspect(connection).has_table("tasks", schema=schema_in(connection)):
                return 0
            return int(connection.execute(sa.select(sa.func.count()).select_from(schema.tasks)).scalar_one())
    finally:
        engine.dispose()


def sqlite_file(url: str) -> Path | None:
    """The file of an SQLite store; None for PostgreSQL."""
    engine = connect(url)
    try:
        return Path(str(engine.url.database)) if engine.dialect.name == "sqlite" else None
    finally:
        engine.dispose()


def _copy_sqlite(store: Path, file: Path) -> None:
    """One moment of it, by SQLite's own online backup: writers go on."""
    if not store.is_file():
        raise BadInput(f"There is no database {str(store)!r} yet.", hint="Start a stack with `dev-tools up`.")
    try:
        with closing(sqlite3.connect(store, timeout=30)) as source, closing(sqlite3.connect(file)) as copy:
            source.backup(copy)
    except sqlite3.OperationalError as error:
        if error.sqlite_errorcode == sqlite3.SQLITE_FULL:
            raise DiskFull(
                "No room for a copy of the database.", hint="Free some disk space, then try again."
            ) from None
        raise ProgramFailed(f"The database {str(store)!r} cannot be copied: {error}.") from error


def _require_sqlite(file: Path) -> None:
    try:
        with closing(sqlite3.connect(f"file:{file}?mode=ro&immutable=1", uri=True)) as db:
            (state,) = db.execute("PRAGMA integrity_check").fetchone()
            has_tasks = db.execute("SELECT 1 FROM sqlite_master WHERE name = 'tasks'").fetchone()
    except sqlite3.Error as error:
        raise _no_backup(file, str(error)) from None
    if state != "ok" or has_tasks is None:
        raise _no_backup(file, "It holds no table of tasks." if state == "ok" else str(state))


def _replace_sqlite(store: Path, file: Path) -> None:
    partial = store.with_name(f".{store.name}.restoring")
    with _written(partial):
        shutil.copyfile(file, partial)
        _flush(partial)
        for rest in ("-wal", "-shm"):  # of the file that goes: SQLite would play them into the new one
            store.with_name(store.name + rest).unlink(missing_ok=True)
        partial.rename(store)


def _require_backup(file: Path, programs: BackupPrograms) -> None:
    if not file.is_file():
        raise BadInput(f"There is no file {str(file)!r}.", hint="Make one with `dev-tools backup create FILE`.")
    if not os.access(file.parent, os.W_OK):
        raise BadInput(
            f"The folder {str(file.parent)!r} cannot be written, and a restore needs room beside the file.",
            hint="Copy the file to a folder of yours.",
        )
    done = _start([programs.pg_restore, "--list", str(file)], ENV)
    if done.returncode != 0:
        raise _no_backup(file, done.stderr)
    if f" TABLE {schema.SCHEMA} tasks " not in done.stdout:
        raise _no_backup(file, "It holds no table of tasks.")


def _write_script(file: Path, script: Path, programs: BackupPrograms) -> None:
    script.touch(mode=0o600)
    done = _start([programs.pg_restore, "--no-owner", "--exit-on-error", f"--file={script}", str(file)], ENV)
    if done.returncode != 0:
        if "No space left" in done.stderr:
            raise DiskFull(f"No room to unpack {file.name!r} beside it.", hint="Free some disk space, then try again.")
        raise _no_backup(file, done.stderr)


def _no_backup(file: Path, words: str) -> BadInput:
    return BadInput(
        f"{str(file)!r} is no whole backup of ours, and nothing was changed: {_last_line(words)}",
        hint="Give a file that `dev-tools backup create` has written to its end.",
    )


@contextlib.contextmanager
def _written(partial: Path) -> Generator[None]:
    """An empty file that only its owner can read, for a program to fill; gone again when that fails."""
    try:
        partial.unlink(missing_ok=True)
        os.close(os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600))
    except OSError as error:
        raise BadInput(
            f"{str(partial)!r} cannot be written: {error.strerror}.", hint="Give a file in a folder you can write."
        ) from None
    try:
        yield
    finally:
        partial.unlink(missing_ok=True)


def _flush(file: Path) -> None:
    descriptor = os.open(file, os.O_RDONLY)
    os.fsync(descriptor)
    os.close(descriptor)


def _run(argv: Sequence[str | Path], env: Mapping[str, str]) -> None:
    done = _start(argv, env)
    if done.returncode == 0:
        return
    program, words = Path(argv[0]).name, redact_text(done.stderr.strip())
    if "server version mismatch" in words:
        raise Conflict(
            f"The server is newer than our {program}: {_last_line(words)}",
            hint="Back the database up with the server's own: "
            "`pg_dump --format=custom --schema=devtools --schema=dbos --file=FILE URL`.",
        )
    if "No space left" in words:
        raise DiskFull(f"{program} found no room: {_last_line(words)}", hint="Free some disk space, then try again.")
    raise ProgramFailed(f"{program} failed, and nothing was changed:\n{words[-2000:]}")


def _start(argv: Sequence[str | Path], env: Mapping[str, str]) -> subprocess.CompletedProcess[str]:
    try:
        return subprocess.run(
            [str(word) for word in argv],
            env=dict(env),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            check=False,
        )
    except OSError as error:
        raise ProgramFailed(f"{str(argv[0])!r} cannot be started: {error}.") from error


def _last_line(text: str) -> str:
    lines = text.strip().splitlines()
    return redact_text(lines[-1]) if lines else "it gave no reason."
