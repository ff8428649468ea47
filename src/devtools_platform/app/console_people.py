"""Personal tokens for the console, for commands: they reach the database of the stack that runs on the folder."""

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import Any

from devtools_platform.app.client import actor
from devtools_platform.app.home import Home
from devtools_platform.console.access import Person, read_person
from devtools_platform.console.adapters.personal_tokens import SqlPersonalTokens, TokenFacts
from devtools_platform.core.errors import NotRunning
from devtools_platform.kit import database
from devtools_platform.state.audit import Deed, record


async def create_token(home: Home, name: str, role: str, days: float) -> tuple[dict[str, Any], str]:
    """A new token: what is known of it, and its text. Raises `BadInput` for a name, role or time that is none."""
    person: Person = read_person(name, role)
    async with _open(home) as tokens:
        facts, text = await tokens.create(person, days)
        await _note(tokens, "console_token.create", facts)
    return _shown(facts), text


async def list_tokens(home: Home) -> list[dict[str, Any]]:
    async with _open(home) as tokens:
        return [_shown(facts) for facts in await tokens.list_tokens()]


async def revoke_token(home: Home, id_: str) -> dict[str, Any]:
    """Raises `NotFound`."""
    async with _open(home) as tokens:
        facts = await tokens.revoke(id_)
        await _note(tokens, "console_token.revoke", facts)
    return _shown(facts)


@asynccontextmanager
async def _open(home: Home) -> AsyncGenerator[SqlPersonalTokens]:
    home.read_announcement()
    url = home.find_secret("database_url")
    if url is None:
        raise NotRunning(f"No stack has ever run on {str(home.path)!r}.", hint="Start one with `dev-tools up`.")
    engine = database.connect(url)
    try:
        yield SqlPersonalTokens(engine)
    finally:
        engine.dispose()


async def _note(tokens: SqlPersonalTokens, action: str, facts: TokenFacts) -> None:
    data = {"name": facts.name, "role": facts.role, "expires_at": facts.expires_at.isoformat()}
    deed = Deed(actor(), action, f"console_token:{facts.id}", data)
    await database.in_thread(tokens.database, lambda c: record(c, deed))


def _shown(facts: TokenFacts) -> dict[str, Any]:
    return {**vars(facts), "is_valid": facts.is_valid}
