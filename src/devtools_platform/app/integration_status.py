"""What came in, what waits to go out, and what was not taken there: read from the stack's database."""

from dataclasses import asdict, dataclass
from typing import Any

import sqlalchemy as sa

from devtools_platform.app.home import Home
from devtools_platform.config import Settings
from devtools_platform.core.errors import NotRunning
from devtools_platform.kit import schema
from devtools_platform.kit.database import connect, transaction

MAX_FAILURES = 20


@dataclass(frozen=True)
class IntegrationStatus:
    inbox: dict[str, int]
    """State -> how many webhooks."""
    outbox: dict[str, int]
    """State -> how many messages."""
    failures: list[dict[str, Any]]
    """The newest messages and webhooks that were given up, and why."""

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


def read_status(settings: Settings) -> IntegrationStatus:
    """Raises `NotRunning` when no stack has said where its database is."""
    home = Home.of(settings)
    given = settings.database_url.get_secret_value() if settings.database_url else home.find_secret("database_url")
    if given is None:
        raise NotRunning(f"No stack was started on {str(home.path)!r} yet.", hint="Start one with `dev-tools up`.")
    engine = connect(given)
    try:
        with transaction(engine) as connection:
            return IntegrationStatus(
                _count(connection, schema.inbox), _count(connection, schema.outbox), _failures(connection)
            )
    finally:
        engine.dispose()


def _count(connection: sa.Connection, table: sa.Table) -> dict[str, int]:
    query = sa.select(table.c.state, sa.func.count().label("n")).group_by(table.c.state)
    return {row.state: int(row.n) for row in connection.execute(query)}


def _failures(connection: sa.Connection) -> list[dict[str, Any]]:
    out, came = schema.outbox, schema.inbox
    sent = sa.select(out.c.key.label("what"), out.c.service, out.c.error.label("why")).where(out.c.state == "failed")
    worked = sa.select(came.c.delivery.label("what"), came.c.service, came.c.note.label("why"))
    queries = (sent.order_by(out.c.id.desc()), worked.where(came.c.state == "failed").order_by(came.c.id.desc()))
    return [dict(row) for query in queries for row in connection.execute(query.limit(MAX_FAILURES)).mappings()]
