"""Tokens in the table `gateway_tokens`. The token itself is in no column."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa

from devtools_platform.gateway.identity import TokenRecord
from devtools_platform.kit.database import in_thread, read_in_thread
from devtools_platform.kit.schema import gateway_tokens


@dataclass(frozen=True)
class SqlTokens:
    database: sa.Engine

    async def load(self) -> Sequence[TokenRecord]:
        rows = await read_in_thread(self.database, lambda c: c.execute(sa.select(gateway_tokens)).mappings().all())
        return [_record(dict(row)) for row in rows]

    async def save(self, record: TokenRecord) -> None:
        row = {**vars(record), "scopes": " ".join(record.scopes)}
        await in_thread(self.database, lambda c: _replace(c, row))


def _record(row: dict[str, Any]) -> TokenRecord:
    fields: dict[str, Any] = {**row, "scopes": tuple(str(row["scopes"]).split())}
    return TokenRecord(**fields)


def _replace(connection: sa.Connection, row: dict[str, Any]) -> None:
    connection.execute(sa.delete(gateway_tokens).where(gateway_tokens.c.id == row["id"]))
    connection.execute(sa.insert(gateway_tokens).values(row))
