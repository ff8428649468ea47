"""Where DBOS keeps its tables, for each store that DATABASE_URL can name."""

from dbos import DBOSConfig

from devtools_platform.kit.database import POOL_EVENTS

SQLITE_POLL_S = 0.1
"""SQLite cannot notify. An approval is seen this much later; PostgreSQL says it at once."""

UNUSED_PUSH_S = 0.25
"""How often the library looks whether there are events and streams to tell of. We use neither; its hundred looks
a second are work all the same."""


def system_database_config(url: str) -> DBOSConfig:
    """The part of DBOS's configuration that depends on the store. `kit.database.migrate` has been there before.

    On PostgreSQL its tables are in schema `dbos`. On SQLite they are in our file, not in one beside it: only so
    can a row of ours and a message to a workflow be one transaction (`send_in_transaction`), and a copy of the
    file is a whole backup. The price is that all take turns at one write lock, for which both wait 30 s. WAL mode,
    which DBOS does not set, is a property of the file and set when we make it.
    """
    if url.startswith("sqlite"):
        return {
            "system_database_url": url,
            "notification_listener_polling_interval_sec": SQLITE_POLL_S,
        }
    return {
        "system_database_url": url.replace("postgresql+psycopg://", "postgresql://", 1),
        "db_engine_kwargs": {"pool_pre_ping": False, "pool_events": POOL_EVENTS},
        "notification_coalesce_sec": UNUSED_PUSH_S,
    }
