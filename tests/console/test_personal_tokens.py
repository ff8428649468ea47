"""Personal tokens in a real database, on both stores."""

import pytest
import sqlalchemy as sa

from devtools_platform.console.access import Person
from devtools_platform.console.adapters.personal_tokens import SqlPersonalTokens
from devtools_platform.core.errors import BadInput, NotFound
from devtools_platform.kit.schema import console_tokens

ANN = Person("ann", "operator")


async def test_a_token_opens_until_it_is_revoked(database):
    tokens = SqlPersonalTokens(database)
    facts, text = await tokens.create(ANN, 30)
    assert await tokens.find(text) == Person("ann", "operator", facts.id)
    assert await tokens.is_valid(facts.id)
    assert not (await tokens.revoke(facts.id)).is_valid
    assert await tokens.find(text) is None
    assert not await tokens.is_valid(facts.id)


async def test_an_expired_token_opens_nothing(database):
    tokens = SqlPersonalTokens(database)
    facts, text = await tokens.create(ANN, 1e-9)
    assert await tokens.find(text) is None
    assert not await tokens.is_valid(facts.id)


async def test_the_token_itself_is_stored_nowhere(database):
    _, text = await SqlPersonalTokens(database).create(ANN, 30)
    with database.connect() as connection:
        rows = connection.execute(sa.select(console_tokens)).all()
    assert rows
    assert text.removeprefix("dtc_") not in str(rows)


@pytest.mark.parametrize("text", ["", "dtc_unknown", "unknown"])
async def test_a_text_that_is_no_token_is_nobodys(database, text):
    assert await SqlPersonalTokens(database).find(text) is None


@pytest.mark.parametrize("days", [0, -1, 367])
async def test_a_token_lasts_a_year_at_most(database, days):
    with pytest.raises(BadInput):
        await SqlPersonalTokens(database).create(ANN, days)


async def test_a_token_that_is_not_there_cannot_be_revoked(database):
    with pytest.raises(NotFound):
        await SqlPersonalTokens(database).revoke("none")
