"""SQLite as the store: one file in WAL mode, for one machine, only where DATABASE_URL names it.

Opened, written and explained here. Above `kit.database` nobody knows which store it is; what the two hold
differently is in the types of `kit.schema`.
"""

import os
import sqlite3
import tempfile
from contextlib import closing, suppress
from pathlib import Path
from typing import Any

from sqlalchemy import URL, Connection, Engine, create_engine, event, exc

from devtools_platform.core.errors import BadInput, DevToolsError, DiskFull, Unavailable
from devtools_platform.kit.schema import READS

BUSY_WAIT_S = 30
"""How long a writer waits for another to end; DBOS, which writes to the same file, waits as long."""
OLDEST = (3, 35)
"""The first SQLite that answers an INSERT with RETURNING."""

_HINT = "Give sqlite:////absolute/path/file.db in a folder that exists and that you can write."
_EXTENDED_CODE_BITS = 8
_BUSY = {sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED, sqlite3.SQLITE_PROTOCOL}
_CLOSED = {sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_READONLY, sqlite3.SQLITE_PERM, sqlite3.SQLITE_AUTH}
_BROKEN = {sqlite3.SQLITE_IOERR, sqlite3.SQLITE_CORRUPT}


def create(url: URL, translate_schema: str) -> Engine:
    """An engine for the file of `url`, in which the schema `translate_schema` is the file itself.

    Nothing is opened yet. Raises `BadInput` for a URL that names no usable place for a file.
    """
    path = _path_of(url)
    engine = create_engine(
        URL.create("sqlite+pysqlite", database=str(path)),
        pool_size=5,
        max_overflow=10,
        pool_timeout=15,
        connect_args={"timeout": BUSY_WAIT_S},
        execution_options={"schema_translate_map": {translate_schema: None}},
        hide_parameters=True,
    )

    def make_file(*_: Any) -> None:
        _make_file(path)

    event.listen(engine, "do_connect", make_file)
    event.listen(engine, "connect", _prepare)
    event.listen(engine, "begin", _begin)
    return engine


def _path_of(url: URL) -> Path:
    if sqlite3.sqlite_version_info < OLDEST:
        oldest = ".".join(str(part) for part in OLDEST)
        raise BadInput(
            f"This Python came with SQLite {sqlite3.sqlite_version}; we need {oldest}.",
            hint="Use PostgreSQL: a postgresql:// URL, or no DATABASE_URL for the embedded server.",
        )
    if not url.database or ":memory:" in url.database:
        raise BadInput("An SQLite database in memory cannot be shared by the parts of a stack.", hint=_HINT)
    path = Path(url.database)
    if not path.is_absolute() or url.host or url.username or url.query:
        raise BadInput("An SQLite URL names an absolute path and nothing else.", hint=_HINT)
    if path.is_dir() or not path.parent.is_dir():
        raise BadInput(f"There can be no database file {str(path)!r}.", hint=_HINT)
    return path


def _make_file(path: Path) -> None:
    """An empty database, readable by its owner only and in WAL mode, appears at once or was there before.

    Switching a file that others already use to WAL fails with "locked" whatever the timeout, so nobody sees it
    before it is switched. A file that exists is never opened here: closing it would drop SQLite's locks on it.
    """
    if path.exists():
        return
    try:
        descriptor, name = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    except OSError as error:
        raise Unavailable(f"The database {str(path)!r} cannot be made: {error.strerror}.", hint=_HINT) from error
    os.close(descriptor)
    try:
        with closing(sqlite3.connect(name)) as file:
            file.execute("PRAGMA journal_mode=WAL")
        with suppress(FileExistsError):
            os.link(name, path)
    finally:
        Path(name).unlink()


def _prepare(connection: sqlite3.Connection, _record: Any) -> None:
    # The driver would begin only at the first INSERT, UPDATE or DELETE: a check made by a SELECT before it would
    # be stale, and CREATE TABLE would commit by itself. So its own handling is off, and `_begin` says it.
    connection.isolation_level = None
    connection.execute("PRAGMA journal_mode=WAL")
    # FULL, not NORMAL: in WAL mode NORMAL may lose the last commits in a power cut, and a stored approval or
    # a tool call noted as begun must not be forgotten after the deed was done.
    connection.execute("PRAGMA synchronous=FULL")
    connection.execute("PRAGMA foreign_keys=ON")


def _begin(connection: Connection) -> None:
    """The write lock first: two writers wait in line here, where neither has done anything to lose.

    A transaction that began by reading and writes later is refused at once when another wrote in between.
    """
    reads = connection.get_execution_options().get(READS, False)
    connection.exec_driver_sql("BEGIN" if reads else "BEGIN IMMEDIATE")


def translate(error: exc.DatabaseError) -> DevToolsError | None:
    """Our error for one of the file's state; None for a mistake of ours, such as a table that is not there."""
    code: int = getattr(error.orig, "sqlite_errorcode", 0) & ((1 << _EXTENDED_CODE_BITS) - 1)
    reason = str(error.orig)
    if code in _BUSY:
        return Unavailable(f"The database was busy for {BUSY_WAIT_S} s: {reason}", hint="Try again.")
    if code == sqlite3.SQLITE_FULL:
        return DiskFull(f"The database has no room left: {reason}", hint="Free some disk space, then try again.")
    if code == sqlite3.SQLITE_NOTADB:
        return BadInput(f"DATABASE_URL names something else than an SQLite database: {reason}", hint=_HINT)
    if code in _CLOSED:
        return Unavailable(f"The database file cannot be used: {reason}", hint=_HINT)
    if code in _BROKEN:
        return Unavailable(f"The database file cannot be read: {reason}", hint="Check the disk; restore a backup.")
    return None
