"""The courier, the tokens and the payloads of Linear, against a Linear that checks us by its own schema."""

import asyncio
from typing import Any

import httpx2
import pytest
import sqlalchemy as sa

from devtools_platform.integrations.adapters.linear import (
    DOCUMENTS,
    ApiKey,
    Linear,
    LinearCourier,
    OAuthTokens,
    activity_id,
    choose_state,
)
from devtools_platform.integrations.adapters.sql import SqlOutbox, SqlTokens
from devtools_platform.integrations.interfaces import TryLater
from devtools_platform.integrations.outbox import Outbox
from devtools_platform.integrations.types import Message
from devtools_platform.kit import schema
from fakes import linear_server
from fakes.linear_server import CLIENT_ID, CLIENT_SECRET, STATES, FakeLinear, find_faults
from fakes.service import ABSENT, CONTRACTS, Fault

needs_contract = pytest.mark.skipif(not (CONTRACTS / "linear.schema.graphql").is_file(), reason=ABSENT)


def activity(key: str, kind: str = "thought", **content: str) -> Message:
    body = {"session": "s1", "content": {"type": kind, **(content or {"body": key})}, "ephemeral": False}
    return Message(key, "s", "linear", "activity", body)


def box(outbox: SqlOutbox, linear: FakeLinear, http: httpx2.AsyncClient, credential: Any = None) -> Outbox:
    client = Linear(linear.url, credential or ApiKey(linear.api_key), http)
    return Outbox(outbox, {"linear": LinearCourier(client, outbox)}, first_wait_s=0.01)


async def send_until(sender: Outbox, linear: FakeLinear, count: int) -> None:
    async with asyncio.timeout(15):
        while len(linear.activities) < count or await sender.send_due():
            await sender.send_due()


def tokens(linear: FakeLinear, http: httpx2.AsyncClient, database: sa.Engine, secret: str = "stack") -> OAuthTokens:
    return OAuthTokens(CLIENT_ID, CLIENT_SECRET, linear.url, http, SqlTokens(database), secret)


@needs_contract
@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda text: text.split("(")[0].split()[-1])
def test_every_document_is_one_that_linears_schema_takes(document: str):
    assert find_faults(document) == []


@needs_contract
@pytest.mark.parametrize("action", ["created", "prompted"])
def test_the_webhooks_we_are_tested_with_are_of_linears_shape(action: str):
    payload = linear_server.session_event("s1", action=action, prompt="yes", signal="stop")
    assert list(unlike("AgentSessionEventWebhookPayload", payload)) == []


def unlike(name: str, value: dict[str, Any]) -> Any:
    """Where `value` is not an object of the type `name`: missing, unknown or null fields, at any depth."""
    from graphql import GraphQLObjectType, is_non_null_type
    from graphql.type import get_named_type

    fields = linear_server.schema().type_map[name].fields
    yield from (f"{name}.{key} is unknown" for key in value if key not in fields)
    for key, field in fields.items():
        if value.get(key) is None:
            if is_non_null_type(field.type):
                yield f"{name}.{key} is missing"
            continue
        named = get_named_type(field.type)
        if isinstance(named, GraphQLObjectType) and isinstance(value[key], dict):
            yield from unlike(named.name, value[key])


@pytest.mark.parametrize("kind", ["lost", "status"])
async def test_an_activity_whose_answer_is_lost_is_there_once(
    outbox: SqlOutbox, linear: FakeLinear, http: httpx2.AsyncClient, kind: Any
):
    linear.inject(Fault(kind, "CreateActivity", status=502))
    await outbox.put([activity("a"), activity("b", "action", action="Tests", parameter="final")])
    await send_until(box(outbox, linear, http), linear, 2)
    assert [a["id"] for a in linear.activities] == [activity_id("a"), activity_id("b")]
    assert linear.breaches == []


async def test_linears_rate_limit_is_waited_for(outbox: SqlOutbox, linear: FakeLinear, http: httpx2.AsyncClient):
    limited = {"errors": [{"message": "slow down", "extensions": {"code": "RATELIMITED"}}]}
    linear.inject(Fault("status", "CreateActivity", status=400, headers={"retry-after": "1"}, body=limited))
    await outbox.put([activity("a")])
    await send_until(box(outbox, linear, http), linear, 1)
    tries = [request.at for request in linear.requests]
    assert tries[1] - tries[0] >= 0.9


async def test_of_many_callers_one_renews_the_tokens(linear: FakeLinear, http: httpx2.AsyncClient, clean: sa.Engine):
    mine = tokens(linear, http, clean)
    await mine.exchange("good-code", "https://hooks/oauth/linear")
    linear.expire_tokens()
    client = Linear(linear.url, mine, http)
    document, variables = DOCUMENTS[3], {"team": "t"}
    answers = await asyncio.gather(*(client.call(document, variables) for _ in range(20)))
    assert len(answers) == 20
    assert linear.refreshes == 1


async def test_tokens_are_renewed_before_they_end_and_survive_a_restart(http: httpx2.AsyncClient, clean: sa.Engine):
    with FakeLinear(lifetime_s=100) as linear:  # less than the margin: every use renews
        await tokens(linear, http, clean).exchange("good-code", "https://hooks/oauth/linear")
        for _ in range(3):
            header = await tokens(linear, http, clean).header()
            assert linear.access[header.removeprefix("Bearer ")]
        assert linear.refreshes == 3


async def test_tokens_are_stored_sealed_and_open_for_this_stack_only(
    linear: FakeLinear, http: httpx2.AsyncClient, clean: sa.Engine
):
    await tokens(linear, http, clean).exchange("good-code", "https://hooks/oauth/linear")
    with clean.connect() as connection:
        sealed = connection.execute(sa.select(schema.service_tokens.c.sealed)).scalar_one()
    assert "lin_" not in sealed
    with pytest.raises(TryLater, match="sealed by another stack"):
        await tokens(linear, http, clean, "another").header()


async def test_a_refresh_token_that_was_used_elsewhere_is_read_again(
    linear: FakeLinear, http: httpx2.AsyncClient, clean: sa.Engine
):
    ours, theirs = tokens(linear, http, clean), tokens(linear, http, clean)
    await ours.exchange("good-code", "https://hooks/oauth/linear")
    stale = await ours.header()
    await theirs.header()
    linear.expire_tokens()
    await theirs.renew(stale)
    assert await ours.renew(stale)
    assert linear.access[(await ours.header()).removeprefix("Bearer ")]


async def test_without_a_sign_in_messages_wait(linear: FakeLinear, http: httpx2.AsyncClient, outbox: SqlOutbox):
    sender = box(outbox, linear, http, tokens(linear, http, outbox.database))
    await outbox.put([activity("a")])
    await sender.send_due()
    assert linear.activities == []
    assert list(await outbox.take(5)) == []  # it waits, and is not due


def test_an_issue_goes_to_the_first_started_state_and_to_the_last_for_review():
    assert (choose_state(STATES, "started"), choose_state(STATES, "review")) == ("state-progress", "state-review")
    assert choose_state(STATES[:2], "review") is None  # nothing to tell apart
    assert choose_state([], "started") is None
