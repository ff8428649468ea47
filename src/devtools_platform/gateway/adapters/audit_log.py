"""The audit log in the table `gateway_audit`."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import msgspec
import sqlalchemy as sa
from sqlalchemy.exc import IntegrityError

from devtools_platform.core.errors import TooLate
from devtools_platform.gateway.audit import GENESIS, Line
from devtools_platform.kit.database import in_thread
from devtools_platform.kit.schema import gateway_audit


@dataclass(frozen=True)
class SqlAudit:
    database: sa.Engine

    async def last(self) -> tuple[int, str]:
        table = gateway_audit
        query = sa.select(table.c.seq, table.c.hash).order_by(table.c.seq.desc()).limit(1)
        row = await in_thread(self.database, lambda c: c.execute(query).first())
        return (int(row.seq), str(row.hash)) if row is not None else (0, GENESIS)

    async def append(self, lines: Sequence[Line]) -> None:
        try:
            await in_thread(self.database, lambda c: _insert(c, lines))
        except IntegrityError:  # the number of a line is its key
            raise TooLate("Another gateway has written to the audit log in the meantime.") from None

    async def read(self, after: int, limit: int) -> Sequence[Line]:
        query = sa.select(gateway_audit).where(gateway_audit.c.seq > after).order_by(gateway_audit.c.seq).limit(limit)
        rows = await in_thread(self.database, lambda c: c.execute(query).mappings().all())
        return [_line({**row}) for row in rows]

    async def read_newest(self, limit: int) -> Sequence[Line]:
        query = sa.select(gateway_audit).order_by(gateway_audit.c.seq.desc()).limit(limit)
        rows = await in_thread(self.database, lambda c: c.execute(query).mappings().all())
        return [_line({**row}) for row in rows]


def _insert(connection: sa.Connection, lines: Sequence[Line]) -> None:
    """PostgreSQL takes the batch as one value: a statement with thousands of them costs ten times the CPU here."""
    if connection.dialect.name == "postgresql":
        name = f"{gateway_audit.schema}.{gateway_audit.name}"
        text = f"INSERT INTO {name} SELECT * FROM json_populate_recordset(NULL::{name}, CAST(:rows AS json))"  # noqa: S608 - our own table
        connection.execute(sa.text(text), {"rows": msgspec.json.encode(lines).decode()})
    else:
        connection.execute(sa.insert(gateway_audit), [msgspec.structs.asdict(line) for line in lines])


def _line(row: Mapping[str, Any]) -> Line:
    return Line(**row)
