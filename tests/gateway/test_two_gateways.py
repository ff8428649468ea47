"""Gateway processes beside each other on one database: one effect a key, whoever is asked; one audit chain."""

import asyncio
import os
import subprocess
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
import sqlalchemy as sa

from devtools_platform.core.approvals import ApprovalRules
from devtools_platform.core.errors import Unauthorized
from devtools_platform.core.tools import Caller, Tool, ToolResult
from devtools_platform.gateway.adapters.access_tokens import SqlTokens
from devtools_platform.gateway.adapters.audit_log import SqlAudit
from devtools_platform.gateway.adapters.call_records import Presence, SqlCallRecords
from devtools_platform.gateway.audit import Audit, Note
from devtools_platform.gateway.identity import Identity
from devtools_platform.gateway.service import Gateway
from devtools_platform.gateway.types import Policy
from devtools_platform.kit.life import DEAD_AFTER_S, Life
from devtools_platform.kit.schema import gateway_audit, gateways, tool_calls

DEV = Caller("two", "feature-dev")
POLICY = Policy(toolsets={"all": ["shop_buy", "shop_look"]}, agents={"feature-dev": ["all"]})


class NoGrants:
    async def find_grant(self, approval: str, caller: Caller, tool: str) -> None:
        return None


class Shop:
    """Its calls last until the test lets them end."""

    name = "shop"

    def __init__(self) -> None:
        self.bought = 0
        self.begun = asyncio.Event()
        self.may_end = asyncio.Event()

    def list_tools(self) -> Sequence[Tool]:
        return [Tool("buy", "Buy.", {}, is_read_only=False), Tool("look", "Look.", {}, is_read_only=True)]

    async def call(self, name: str, arguments: Mapping[str, Any], caller: Caller) -> ToolResult:
        self.begun.set()
        await self.may_end.wait()
        self.bought += name == "buy"
        return ToolResult(f"bought {self.bought}")


@pytest.fixture(autouse=True)
def _clean(database: sa.Engine) -> None:
    with database.begin() as connection:
        for table in (gateways, tool_calls, gateway_audit):
            connection.execute(sa.delete(table))


@pytest.fixture
def shop() -> Shop:
    return Shop()


@pytest.fixture
async def pair(database: sa.Engine, shop: Shop) -> AsyncIterator[tuple[Gateway, Gateway]]:
    presences = [Presence(database), Presence(database)]
    for presence in presences:
        await presence.start()
    first, second = (
        Gateway(
            [shop],
            POLICY,
            SqlCallRecords(database, presence.id),
            rules=ApprovalRules(rules=()),
            grants=NoGrants(),
            environment="test",
        )
        for presence in presences
    )
    yield first, second
    for presence in presences:
        await presence.stop()


async def test_a_call_that_runs_at_another_gateway_is_waited_for(pair, shop, database):
    first, second = pair
    asked_first = asyncio.create_task(first.call(DEV, "shop_buy", {}, "k"))
    await asyncio.wait_for(shop.begun.wait(), 5)
    asked_second = asyncio.create_task(second.call(DEV, "shop_buy", {}, "k"))
    done, _ = await asyncio.wait({asked_second}, timeout=0.5)
    assert not done
    assert _state(database, "k") == "started"
    shop.may_end.set()
    answers = await asyncio.wait_for(asyncio.gather(asked_first, asked_second), 5)
    assert [answer.text for answer in answers] == ["bought 1", "bought 1"]
    assert shop.bought == 1


@pytest.mark.parametrize("how", ["its process is gone", "it is silent on another host", "it said good-bye"])
async def test_a_call_of_a_gateway_that_is_gone_is_in_doubt(pair, shop, database, how):
    _leave_behind(database, "k", "shop_buy", how)
    shop.may_end.set()
    answer = await asyncio.wait_for(pair[0].call(DEV, "shop_buy", {}, "k"), 5)
    assert answer.data == {"in_doubt": True}
    assert (shop.bought, _state(database, "k")) == (0, "in_doubt")


async def test_a_call_that_may_be_repeated_is_taken_over_by_one_gateway(pair, shop, database):
    _leave_behind(database, "k", "shop_look", "its process is gone")
    asked = [asyncio.create_task(gateway.call(DEV, "shop_look", {}, "k")) for gateway in pair]
    await asyncio.wait_for(shop.begun.wait(), 5)
    shop.may_end.set()
    assert [answer.text for answer in await asyncio.wait_for(asyncio.gather(*asked), 5)] == ["bought 0", "bought 0"]
    with database.connect() as connection:
        holder = connection.execute(sa.select(tool_calls.c.gateway).where(tool_calls.c.key == "k")).scalar_one()
    assert holder in {gateway.records.gateway for gateway in pair}


async def test_a_gateway_on_another_host_that_is_heard_of_is_waited_for(pair, shop, database):
    _leave_behind(database, "k", "shop_buy", "it is heard of on another host")
    asked = asyncio.create_task(pair[0].call(DEV, "shop_buy", {}, "k"))
    done, _ = await asyncio.wait({asked}, timeout=0.5)
    assert not done
    with database.begin() as connection:  # its answer comes
        change = {"state": "finished", "result": {"text": "bought there", "data": {}}, "is_error": False}
        connection.execute(sa.update(tool_calls).where(tool_calls.c.key == "k").values(**change))
    assert (await asyncio.wait_for(asked, 5)).text == "bought there"


async def test_two_gateways_write_one_chain(database):
    audits = [Audit(SqlAudit(database)), Audit(SqlAudit(database))]
    for turn in range(6):
        audit = audits[turn % 2]
        for number in range(3):
            audit.note(_note(f"call {turn}.{number}"))
        await audit.flush()
    for audit in audits:
        audit.note(_note("at once"))
    await asyncio.gather(*(audit.flush() for audit in audits))
    chain = await audits[0].verify()
    assert (chain.entries, chain.broken_at) == (20, None)


def _state(database: sa.Engine, key: str) -> str:
    with database.connect() as connection:
        return connection.execute(sa.select(tool_calls.c.state).where(tool_calls.c.key == key)).scalar_one()


def _leave_behind(database: sa.Engine, key: str, tool: str, how: str) -> None:
    """A call that a gateway began and never ended, and what became of that gateway."""
    process = subprocess.Popen(["true"])
    process.wait(timeout=5)
    gone = Life(Life.own().process_space, process.pid, 1.0)
    elsewhere = Life("another boot", os.getpid(), 1.0)
    now = datetime.now(UTC)
    seen = {
        "its process is gone": (gone, now),
        "it is silent on another host": (elsewhere, now - timedelta(seconds=DEAD_AFTER_S + 1)),
        "it is heard of on another host": (elsewhere, now + timedelta(seconds=60)),
    }
    server, _, name = tool.partition("_")
    row = {"key": key, "task_id": "two", "agent": "feature-dev", "server": server, "tool": name}
    with database.begin() as connection:
        if how in seen:
            life, heartbeat = seen[how]
            connection.execute(sa.insert(gateways).values(id="left", heartbeat_at=heartbeat, **life.facts()))
        more = {"arguments": {}, "decision": "allow", "state": "started", "gateway": "left"}
        connection.execute(sa.insert(tool_calls).values(**row, **more))


def _note(what: str) -> Note:
    return Note(1.0, "task", "feature-dev", "two", "shop", what, "allow", "ok", 0.1, None, b"{}", None)


async def test_a_token_made_or_revoked_at_one_process_counts_at_the_others(database: sa.Engine) -> None:
    here, there = Identity("s", SqlTokens(database)), Identity("s", SqlTokens(database))
    following = asyncio.create_task(there.follow(0.01))
    try:
        record, token = await here.create("editor", scopes=["context:*"])
        assert await _comes_true(lambda: _opens(there, token))
        await here.revoke(record.id)
        assert await _comes_true(lambda: not _opens(there, token))
    finally:
        following.cancel()


def _opens(identity: Identity, token: str) -> bool:
    try:
        return identity.verify(f"Bearer {token}".encode()).name == "editor"
    except Unauthorized:
        return False


async def _comes_true(holds: Callable[[], bool]) -> bool:
    async with asyncio.timeout(5):
        while not holds():  # noqa: ASYNC110 - nothing tells of it
            await asyncio.sleep(0.01)
    return True
