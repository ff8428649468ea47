"""Personal tokens in the table `console_tokens`: shown once when made, kept as SHA-256."""

import hashlib
import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

import sqlalchemy as sa

from devtools_platform.console.access import Person, read_person
from devtools_platform.core.errors import BadInput, NotFound
from devtools_platform.kit.database import in_thread, read_in_thread
from devtools_platform.kit.schema import console_tokens

PREFIX = "dtc_"
MAX_DAYS = 366


@dataclass(frozen=True)
class TokenFacts:
    """A personal token without the token."""

    id: str
    name: str
    role: str
    created_at: datetime
    expires_at: datetime
    revoked_at: datetime | None

    @property
    def is_valid(self) -> bool:
        return self.revoked_at is None and self.expires_at > datetime.now(UTC)


@dataclass(frozen=True)
class SqlPersonalTokens:
    database: sa.Engine

    async def create(self, person: Person, days: float) -> tuple[TokenFacts, str]:
        """A new token and its text, which nobody can read again. Raises `BadInput`."""
        if not 0 < days <= MAX_DAYS:
            raise BadInput(f"A token lasts more than 0 and at most {MAX_DAYS} days, not {days}.", hint="--days 30")
        token = PREFIX + secrets.token_urlsafe(32)
        now = datetime.now(UTC)
        facts = TokenFacts(secrets.token_hex(4), person.name, person.role, now, now + timedelta(days=days), None)
        row = {**vars(facts), "hash": _hash(token)}
        await in_thread(self.database, lambda c: c.execute(sa.insert(console_tokens).values(row)))
        return facts, token

    async def list_tokens(self) -> Sequence[TokenFacts]:
        """All that were ever made, newest first."""
        query = sa.select(console_tokens).order_by(console_tokens.c.created_at.desc())
        return [_facts(row) for row in await read_in_thread(self.database, lambda c: c.execute(query).all())]

    async def revoke(self, id_: str) -> TokenFacts:
        """End a token, and with it every session that began with it. Raises `NotFound`."""
        table = console_tokens
        change = sa.update(table).where(table.c.id == id_, table.c.revoked_at.is_(None))
        await in_thread(self.database, lambda c: c.execute(change.values(revoked_at=datetime.now(UTC))))
        found = await self._find(table.c.id == id_)
        if found is None:
            raise NotFound(f"There is no token {id_!r}.", hint="`dev-tools console tokens` lists them.")
        return found

    async def find(self, token: str) -> Person | None:
        """Whose token this is; None when it is unknown, revoked or expired."""
        if not token.startswith(PREFIX):
            return None
        found = await self._find(console_tokens.c.hash == _hash(token))
        if found is None or not found.is_valid:
            return None
        known = read_person(found.name, found.role)
        return Person(known.name, known.role, found.id)

    async def is_valid(self, token_id: str) -> bool:
        found = await self._find(console_tokens.c.id == token_id)
        return found is not None and found.is_valid

    async def _find(self, condition: sa.ColumnElement[bool]) -> TokenFacts | None:
        query = sa.select(console_tokens).where(condition)
        row = await read_in_thread(self.database, lambda c: c.execute(query).one_or_none())
        return None if row is None else _facts(row)


def _facts(row: sa.Row[Any]) -> TokenFacts:
    return TokenFacts(row.id, row.name, row.role, row.created_at, row.expires_at, row.revoked_at)


def _hash(token: str) -> str:
    return hashlib.sha256(token.encode()).hexdigest()
