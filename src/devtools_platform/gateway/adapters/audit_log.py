"""The audit log in the table `gateway_audit`."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import sqlalchemy as sa

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
        rows = [{**asdict(line), "arguments": json.dumps(line.arguments)} for line in lines]
        await in_thread(self.database, lambda c: c.execute(sa.insert(gateway_audit), rows))

    async def read(self, after: int, limit: int) -> Sequence[Line]:
        query = sa.select(gateway_audit).where(gateway_audit.c.seq > after).order_by(gateway_audit.c.seq).limit(limit)
        rows = await in_thread(self.database, lambda c: c.execute(query).mappings().all())
        return [_line(row) for row in rows]


def _line(row: Mapping[Any, Any]) -> Line:
    return Line(**{**row, "arguments": json.loads(row["arguments"])})
