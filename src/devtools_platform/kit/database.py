"""One way to the database for every part: connect, bring the schema up to date, run a transaction in a thread.

PostgreSQL, or where a URL says so an SQLite file (`kit.sqlite`); the statements are the same.

Synchronous on purpose. Workflows run on an event loop of their own beside the one of the HTTP services, and
an asynchronous pool is bound to the loop that made it; threads serve both. What a part stores is its own
story; the tables are in `kit.schema`.
"""

import asyncio
import functools
import time
from collections.abc import Callable, Generator, Mapping, Sequence
from concurrent.futures import Future
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import anyio
import anyio.to_thread
from sqlalchemy import (
    URL,
    Column,
    Connection,
    Engine,
    MetaData,
    String,
    Table,
    create_engine,
    exc,
    inspect,
    make_url,
    select,
    text,
)
from sqlalchemy.dialects import postgresql

from devtools_platform import __version__
from devtools_platform.core.errors import Away, BadInput, Conflict, DevToolsError, DiskFull
from devtools_platform.core.redact import redact_text
from devtools_platform.kit.schema import READS, SCHEMA

T = TypeVar("T")

CONNECT_TIMEOUT_S = 5
MIGRATION_WAIT_S = 120
MIGRATION_LOCK = 0x6465762D746F6F6C  # "dev-tool": any number nobody else in the database takes
MIGRATIONS = Path(__file__).parent / "migrations"
UNASKED_S = 1.0
"""So long after its last use a connection is taken to live. A step of an agent uses some forty, one after the other."""

IDLE_IN_TRANSACTION_S = 15
"""After so long between two statements of a transaction the server ends it. A process that is frozen, or cut off, in
the middle of one would keep its locks for good, and whoever takes over its work would wait for them."""

_VERSION = Table("alembic_version", MetaData(), Column("version_num", String), schema=SCHEMA)
_SQLSTATE_DISK_FULL = "53100"
_SQLSTATE_IDLE_IN_TRANSACTION = "25P03"


def _limit_idle_transactions(connection: Any, _: Any) -> None:
    connection.execute(f"SET idle_in_transaction_session_timeout = '{IDLE_IN_TRANSACTION_S}s'")
    connection.commit()


def _ask_if_alive(connection: Any, record: Any, _: Any) -> None:
    """The server may have been restarted since the connection was last used: then the pool makes a new one."""
    if time.monotonic() - record.info.get("devtools_used", -UNASKED_S) < UNASKED_S:
        return
    import psycopg  # loaded already where such a pool is: the driver is imported by the engine

    try:
        connection.execute("SELECT 1")
        connection.rollback()
    except psycopg.Error as error:
        raise exc.DisconnectionError(str(error)) from error


def _note_use(_: Any, record: Any) -> None:
    record.info["devtools_used"] = time.monotonic()


POOL_EVENTS = ((_limit_idle_transactions, "connect"), (_ask_if_alive, "checkout"), (_note_use, "checkin"))
"""For a pool of psycopg's connections; the last two instead of `pool_pre_ping`, which asks before each transaction."""


def connect(url: str) -> Engine:
    """An engine for a `postgresql://` or `sqlite:////` URL, with a pool of its own; nothing is opened yet.

    Raises `BadInput` for anything else, without repeating the password.
    """
    parsed = _parse(url)
    if parsed.get_backend_name() == "sqlite":
        from devtools_platform.kit import sqlite  # and the engine with it: only where a URL names a file

        return sqlite.create(parsed, SCHEMA)
    return create_engine(
        parsed,
        pool_events=POOL_EVENTS,
        pool_size=5,
        max_overflow=10,  # at most 15 of the embedded server's 100 a process
        pool_timeout=15,
        connect_args={"connect_timeout": CONNECT_TIMEOUT_S, "application_name": "dev-tools"},
        hide_parameters=True,  # an error names the statement, not the task texts it was given
    )


def _parse(url: str) -> URL:
    hint = (
        "Give postgresql://user:password@host:5432/name or sqlite:////absolute/path/file.db, "
        "or no DATABASE_URL for the embedded server."
    )
    try:
        parsed = make_url(url)
    except (exc.ArgumentError, ValueError):
        raise BadInput("The database URL cannot be read.", hint=hint) from None
    if parsed.drivername in {"postgresql", "postgres", "postgresql+psycopg"}:
        return parsed.set(drivername="postgresql+psycopg")
    if parsed.drivername in {"sqlite", "sqlite+pysqlite"}:
        return parsed
    raise BadInput(f"The database is {parsed.drivername!r}; we take PostgreSQL and SQLite.", hint=hint)


@dataclass(frozen=True)
class Step:
    """How far a database's schema is, and how far this release knows it."""

    stored: str
    head: str
    is_known: bool
    """Whether this release knows the stored step; one it does not know was made by a newer release."""

    @property
    def is_current(self) -> bool:
        return self.stored == self.head

    def refusal(self) -> Conflict:
        """What to say where the two do not go together."""
        about = f"The database's schema is at step {self.stored!r}; Dev-Tools {__version__} knows up to {self.head!r}."
        if self.is_known:
            return Conflict(
                about, hint="Start the stack of this release once, `dev-tools up`: it brings it up to date."
            )
        return Conflict(
            about,
            hint="A newer release has used it. Install that one: `pip install --upgrade devtools-platform`; or restore "
            "a backup from before the upgrade in another place: `dev-tools restore FILE --key KEY --data-dir DIR`.",
        )


def migrate(engine: Engine) -> None:
    """Bring the database to this release's schema. Processes that start together wait for each other.

    One transaction holds lock, check and every step: after a crash in the middle it is as if never begun.
    Raises `Conflict` when a newer release has been here, `Away` when the database is away.
    """
    with transaction(engine) as connection:  # on SQLite the transaction is the lock
        if connection.dialect.name == "postgresql":
            connection.execute(text(f"SET LOCAL lock_timeout = '{MIGRATION_WAIT_S}s'"))
            connection.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": MIGRATION_LOCK})
            connection.execute(text(f"CREATE SCHEMA IF NOT EXISTS {SCHEMA}"))
        step = read_step(connection)
        if step is not None and not step.is_known:
            raise step.refusal()
        if step is None or not step.is_current:
            _upgrade(connection)


def _upgrade(connection: Connection) -> None:
    from alembic import command  # 20 MB that a process which finds its database up to date is spared
    from alembic.config import Config

    config = Config()
    config.set_main_option("script_location", str(MIGRATIONS).replace("%", "%%"))
    config.attributes["connection"] = connection
    config.attributes["version_table_schema"] = schema_in(connection)
    command.upgrade(config, "head")


def read_step(connection: Connection) -> Step | None:
    """None for a database that no stack has used. Read without Alembic, by its table and the steps' file names."""
    schema = schema_in(connection)
    if not inspect(connection).has_table(_VERSION.name, schema=schema):
        return None
    stored = set(connection.scalars(select(_VERSION.c.version_num)))
    if not stored:
        return None
    known = sorted(file.name.partition("_")[0] for file in (MIGRATIONS / "versions").glob("[0-9]*_*.py"))
    return Step(", ".join(sorted(stored)), known[-1], stored <= set(known))


def require_current(connection: Connection) -> None:
    """For those who use a database and do not migrate it. Raises `Conflict` where its schema is not this release's."""
    step = read_step(connection)
    if step is None:
        raise Conflict("The database is empty.", hint="Start the stack once: `dev-tools up`.")
    if not step.is_current:
        raise step.refusal()


def schema_in(connection: Connection) -> str | None:
    """What the schema `devtools` is called in this database; None where there are no schemas."""
    translated: Mapping[str, str | None] = connection.get_execution_options().get("schema_translate_map", {})
    return translated.get(SCHEMA, SCHEMA)


async def in_thread(engine: Engine, fn: Callable[[Connection], T]) -> T:
    """Run `fn` in a worker thread, in a transaction: committed when it returns, rolled back when it raises.

    A cancelled caller waits for the end, so the outcome is never unknown. Raises `Away` when the
    database is away or too busy, `DiskFull` when it has no room.
    """

    def run() -> T:
        with transaction(engine) as connection:
            return fn(connection)

    return await _run_to_its_end(run)


async def read_in_thread(engine: Engine, fn: Callable[[Connection], T]) -> T:
    """`in_thread` for a `fn` that only reads: it neither waits for a writer nor makes one wait."""

    def run() -> T:
        with as_ours(), engine.connect() as connection:
            connection.execution_options(postgresql_readonly=True, **{READS: True})
            with connection.begin():
                return fn(connection)

    return await _run_to_its_end(run)


async def _run_to_its_end(run: Callable[[], T]) -> T:
    """`run` in a worker thread. anyio shields that from its own cancellations, not from `Task.cancel` and `timeout`."""
    work: Future[T] = Future()

    def perform() -> None:
        if work.set_running_or_notify_cancel():
            try:
                work.set_result(run())
            except BaseException as error:  # noqa: BLE001 - the caller raises it
                work.set_exception(error)

    try:
        await anyio.to_thread.run_sync(perform)
    except asyncio.CancelledError:
        if not work.cancel():  # it has begun
            await _until_done(work)
        raise
    return work.result()


async def _until_done(work: Future[Any]) -> None:
    done, loop = asyncio.Event(), asyncio.get_running_loop()
    work.add_done_callback(lambda _: loop.call_soon_threadsafe(done.set))
    with anyio.CancelScope(shield=True):
        while not done.is_set():
            with suppress(asyncio.CancelledError):  # whoever cancels once more waits as well
                await done.wait()


@contextmanager
def transaction(engine: Engine) -> Generator[Connection]:
    """`in_thread` for one who is on a thread already."""
    with as_ours(), engine.begin() as connection:
        yield connection


def insert_once(connection: Connection, table: Table, values: Mapping[str, Any], on: Sequence[str]) -> bool:
    """Insert a row, or leave the one that has the same `on`. Returns whether it was inserted."""
    statement = _insert_or_leave(connection.dialect.name, table, tuple(on), is_told=True)
    return connection.execute(statement, dict(values)).first() is not None


def insert_each_once(
    connection: Connection, table: Table, rows: Sequence[Mapping[str, Any]], on: Sequence[str]
) -> None:
    """Insert those of `rows` whose `on` no row has."""
    if rows:
        statement = _insert_or_leave(connection.dialect.name, table, tuple(on), is_told=False)
        connection.execute(statement, [dict(row) for row in rows])


@functools.cache  # built anew it costs more than the database's work; there is one for each place that calls
def _insert_or_leave(dialect: str, table: Table, on: tuple[str, ...], *, is_told: bool) -> Any:
    # The same words in both dialects, but not in SQLAlchemy's common ones.
    insert: Any = postgresql.insert
    if dialect == "sqlite":
        from sqlalchemy.dialects.sqlite import insert
    statement = insert(table).on_conflict_do_nothing(index_elements=list(on))
    return statement.returning(*(table.c[name] for name in on)) if is_told else statement


@contextmanager
def as_ours() -> Generator[None]:
    """Turns the driver's words for "not now" into ours."""
    try:
        yield
    except (exc.DatabaseError, exc.TimeoutError) as error:
        translated = _translated(error)
        if translated is None:
            raise
        raise translated from error


def _translated(error: exc.DatabaseError | exc.TimeoutError) -> DevToolsError | None:
    if isinstance(error, exc.DatabaseError) and type(error.orig).__module__ == "sqlite3":
        from devtools_platform.kit import sqlite

        return sqlite.translate(error)
    sqlstate = getattr(getattr(error, "orig", None), "sqlstate", None)
    is_ended = sqlstate == _SQLSTATE_IDLE_IN_TRANSACTION  # an internal error to the driver
    if isinstance(error, exc.DatabaseError) and not isinstance(error, exc.OperationalError) and not is_ended:
        return None
    reason = str(error.orig if isinstance(error, exc.DatabaseError) else error)
    first_line = redact_text(reason.strip().partition("\n")[0])
    if sqlstate == _SQLSTATE_DISK_FULL:
        return DiskFull(f"The database has no room left: {first_line}", hint="Free some disk space, then try again.")
    return Away(f"The database does not answer: {first_line}")
