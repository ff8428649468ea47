"""One way to PostgreSQL for every part: connect, bring the schema up to date, run a transaction in a thread.

Synchronous on purpose. Workflows run on an event loop of their own beside the one of the HTTP services, and
an asynchronous pool is bound to the loop that made it; threads serve both. What a part stores is its own
story; the tables are in `kit.schema`.
"""

from collections.abc import Callable, Generator
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

import anyio.to_thread
from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import URL, Connection, Engine, create_engine, exc, make_url, text

from devtools_platform.core.errors import Away, BadInput, Conflict, DevToolsError, DiskFull
from devtools_platform.core.redact import redact_text
from devtools_platform.kit.schema import SCHEMA

T = TypeVar("T")

CONNECT_TIMEOUT_S = 5
MIGRATION_WAIT_S = 120
MIGRATION_LOCK = 0x6465762D746F6F6C  # "dev-tool": any number nobody else in the database takes
MIGRATIONS = Path(__file__).parent / "migrations"

_SQLSTATE_DISK_FULL = "53100"


def connect(url: str) -> Engine:
    """An engine for a `postgresql://` URL, with a pool of its own; nothing is opened yet.

    Raises `BadInput` for anything else, without repeating the password.
    """
    return create_engine(
        _psycopg_url(url),
        pool_pre_ping=True,  # the server may have been restarted since the connection was last used
        pool_size=5,
        max_overflow=10,  # at most 15 of the embedded server's 100 a process
        pool_timeout=15,
        connect_args={"connect_timeout": CONNECT_TIMEOUT_S, "application_name": "dev-tools"},
        hide_parameters=True,  # an error names the statement, not the task texts it was given
    )


def _psycopg_url(url: str) -> URL:
    hint = "Give postgresql://user:password@host:5432/name, or no DATABASE_URL for the embedded server."
    try:
        parsed = make_url(url)
    except (exc.ArgumentError, ValueError):
        raise BadInput("The database URL cannot be read.", hint=hint) from None
    if parsed.drivername not in {"postgresql", "postgres", "postgresql+psycopg"}:
        raise BadInput(f"The database is {parsed.drivername!r}; only PostgreSQL is supported.", hint=hint)
    return parsed.set(drivername="postgresql+psycopg")


def migrate(engine: Engine) -> None:
    """Bring the database to this release's schema. Processes that start together wait for each other.

    One transaction holds lock, check and every step: after a crash in the middle it is as if never begun.
    Raises `Conflict` when a newer release has been here, `Away` when the database is away.
    """
    config = Config()
    config.set_main_option("script_location", str(MIGRATIONS).replace("%", "%%"))
    with as_ours(), engine.begin() as connection:
        connection.execute(text(f"SET LOCAL lock_timeout = '{MIGRATION_WAIT_S}s'"))
        connection.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": MIGRATION_LOCK})
        connection.execute(text(f"CREATE SCHEMA IF NOT EXISTS {SCHEMA}"))
        _refuse_newer(connection, ScriptDirectory.from_config(config))
        config.attributes["connection"] = connection
        command.upgrade(config, "head")


def _refuse_newer(connection: Connection, script: ScriptDirectory) -> None:
    ours = {step.revision for step in script.walk_revisions()}
    stored = MigrationContext.configure(connection, opts={"version_table_schema": SCHEMA}).get_current_heads()
    if unknown := set(stored) - ours:
        raise Conflict(
            f"The database's schema is at step {', '.join(sorted(unknown))!r}; this release knows up to "
            f"{script.get_current_head()!r}.",
            hint="Start the release that made it, or restore a backup from before the upgrade.",
        )


async def in_thread(engine: Engine, fn: Callable[[Connection], T]) -> T:
    """Run `fn` in a worker thread, in a transaction: committed when it returns, rolled back when it raises.

    A cancelled caller waits for the end, so the outcome is never unknown. Raises `Away` when the
    database is away or too busy, `DiskFull` when it has no room.
    """

    def run() -> T:
        with as_ours(), engine.begin() as connection:
            return fn(connection)

    return await anyio.to_thread.run_sync(run)


@contextmanager
def as_ours() -> Generator[None]:
    """Turns the driver's words for "not now" into ours."""
    try:
        yield
    except (exc.OperationalError, exc.TimeoutError) as error:
        raise _translated(error) from error


def _translated(error: exc.OperationalError | exc.TimeoutError) -> DevToolsError:
    reason = str(error.orig if isinstance(error, exc.OperationalError) else error)
    first_line = redact_text(reason.strip().partition("\n")[0])
    if getattr(getattr(error, "orig", None), "sqlstate", None) == _SQLSTATE_DISK_FULL:
        return DiskFull(f"The database has no room left: {first_line}", hint="Free some disk space, then try again.")
    return Away(f"The database does not answer: {first_line}")
