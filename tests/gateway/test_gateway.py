"""The gateway through its front door: the official MCP client on a real server, records on both stores."""

import asyncio
import socket
from collections.abc import AsyncIterator, Collection, Mapping, Sequence
from dataclasses import replace
from typing import Any

import httpx2
import pytest
import sqlalchemy as sa

from devtools_platform.agents.adapters.mcp_tools import GatewayClient
from devtools_platform.app.serving import Serving
from devtools_platform.core.approvals import ApprovalRule, ApprovalRules
from devtools_platform.core.errors import Away
from devtools_platform.core.tools import Caller, Tool, ToolResult
from devtools_platform.gateway.adapters.call_records import SqlCallRecords
from devtools_platform.gateway.api import build_api
from devtools_platform.gateway.service import Gateway
from devtools_platform.gateway.types import Policy
from devtools_platform.kit.schema import tool_calls
from devtools_platform.kit.tokens import issue_run_token

SECRET = "0123456789abcdef0123456789abcdef"
DEV, REVIEW = Caller("task1", "feature-dev"), Caller("task1", "code-review")
POLICY = Policy(
    toolsets={"write": ["shop_count", "shop_look", "shop_break", "shop_order"], "read": ["shop_look"]},
    agents={"feature-dev": ["write"], "code-review": ["read"]},
)
RULES = ApprovalRules(rules=(ApprovalRule(name="orders", kind="tool", tools=("shop_order",)),))
SCHEMA = {"type": "object", "properties": {"by": {"type": "integer"}}}


class Grants:
    """One approval: feature-dev may order five in task1."""

    async def find_grant(self, approval: str, caller: Caller, tool: str) -> Mapping[str, object] | None:
        is_known = (approval, caller, tool) == ("a1", DEV, "shop_order")
        return {"by": 5} if is_known else None


GRANTS = Grants()


class Shop:
    """A tool server with an effect that can be counted."""

    name = "shop"

    def __init__(self) -> None:
        self.count = 0

    def list_tools(self) -> Sequence[Tool]:
        return [
            Tool("count", "Count.", SCHEMA, is_read_only=False),
            Tool("look", "Look.", SCHEMA, is_read_only=True),
            Tool("break", "Break.", SCHEMA, is_read_only=False),
            Tool("order", "Order.", SCHEMA, is_read_only=False),
        ]

    async def call(self, name: str, arguments: Mapping[str, Any], caller: Caller) -> ToolResult:
        if name == "break":
            raise RuntimeError("a bug with a secret ghp_" + "a1B2" * 9)
        if name in {"count", "order"}:
            self.count += arguments.get("by", 1)
        return ToolResult(f"{self.count} for {caller.agent}", {"count": self.count})


class Slow(Shop):
    """`count` counts and then waits to be let go."""

    def __init__(self) -> None:
        super().__init__()
        self.released = asyncio.Event()

    async def call(self, name: str, arguments: Mapping[str, Any], caller: Caller) -> ToolResult:
        result = await super().call(name, arguments, caller)
        await self.released.wait()
        return result


@pytest.fixture
def shop() -> Shop:
    return Shop()


@pytest.fixture
async def url(shop: Shop, database: sa.Engine) -> AsyncIterator[str]:
    gateway = Gateway([shop], POLICY, SqlCallRecords(database), rules=RULES, grants=GRANTS, environment="test")
    serving = Serving()
    sock = socket.create_server(("127.0.0.1", 0))
    sock.setblocking(False)
    await serving.serve(build_api(gateway, token="rest", secret=SECRET), sock)
    yield f"http://127.0.0.1:{sock.getsockname()[1]}"
    await serving.stop()
    sock.close()


@pytest.fixture
def client(url: str) -> GatewayClient:
    return GatewayClient(f"{url}/mcp", SECRET, timeout_s=10)


def recorded(database: sa.Engine, key: str) -> sa.Row[Any]:
    with database.connect() as connection:
        return connection.execute(sa.select(tool_calls).where(tool_calls.c.key == key)).one()


async def test_a_caller_is_shown_what_its_policy_permits(client: GatewayClient) -> None:
    assert [tool.name for tool in await client.list_tools(DEV)] == [
        "shop_count",
        "shop_look",
        "shop_break",
        "shop_order",
    ]
    (look,) = await client.list_tools(REVIEW)
    assert (look.name, look.is_read_only, dict(look.input_schema)) == ("shop_look", True, SCHEMA)


async def test_a_call_is_made_as_the_token_says_and_recorded(client: GatewayClient, database: sa.Engine) -> None:
    result = await client.call(DEV, "shop_count", {"by": 2}, "key-made")

    assert (result.text, result.data, result.is_error) == ("2 for feature-dev", {"count": 2}, False)
    row = recorded(database, "key-made")
    assert (row.task_id, row.agent, row.server, row.tool) == ("task1", "feature-dev", "shop", "count")
    assert (row.state, row.decision, row.arguments, row.is_error) == ("finished", "allow", {"by": 2}, False)


async def test_the_same_key_has_one_effect(client: GatewayClient, shop: Shop) -> None:
    results = [await client.call(DEV, "shop_count", {}, "key-once") for _ in range(3)]

    assert shop.count == 1
    assert {result.text for result in results} == {"1 for feature-dev"}


async def test_an_interrupted_call_is_repeated_only_where_that_is_safe(
    client: GatewayClient, shop: Shop, database: sa.Engine
) -> None:
    records = SqlCallRecords(database)
    for key, tool in (("key-doubt", "shop_count"), ("key-read", "shop_look")):
        assert await records.begin(key, DEV, tool, {}, "allow") is None  # and then the process was killed

    doubtful = await client.call(DEV, "shop_count", {}, "key-doubt")
    read = await client.call(DEV, "shop_look", {}, "key-read")

    assert doubtful.is_error
    assert "may have had its effect" in doubtful.text
    assert (shop.count, read.is_error) == (0, False)


async def test_a_call_ends_with_its_task_and_not_with_its_caller(database: sa.Engine) -> None:
    slow = Slow()
    cancelled: set[str] = set()
    looked = asyncio.Event()

    async def find_cancelled(ids: Collection[str]) -> set[str]:
        looked.set()
        if not cancelled:
            raise Away("the database is being started again")
        return cancelled & set(ids)

    records = SqlCallRecords(database)
    rest: dict[str, Any] = {"rules": RULES, "grants": GRANTS, "environment": "test"}
    gateway = Gateway([slow], POLICY, records, **rest, find_cancelled=find_cancelled)
    calls = [
        asyncio.create_task(gateway.call(replace(DEV, task_id=id_), "shop_count", {}, f"slow-{id_}"))
        for id_ in ("ended", "open")
    ]
    async with asyncio.timeout(10):
        await looked.wait()
        calls[1].cancel()  # its caller hangs up
        cancelled.add("ended")
        stopped = await calls[0]
        assert stopped.is_error
        assert "was cancelled" in stopped.text
        assert recorded(database, "slow-ended").state == "finished"
        assert recorded(database, "slow-open").state == "started"
        slow.released.set()
        again = await gateway.call(replace(DEV, task_id="open"), "shop_count", {}, "slow-open")
    assert not again.is_error
    assert slow.count == 2, "each once"


async def test_a_forbidden_or_unknown_tool_is_refused_by_name_and_recorded(
    client: GatewayClient, shop: Shop, database: sa.Engine
) -> None:
    forbidden = await client.call(REVIEW, "shop_count", {}, "key-forbidden")
    unknown = await client.call(REVIEW, "shop_sell", {}, "key-unknown")

    assert forbidden.is_error
    assert "code-review may not call 'shop_count'" in forbidden.text
    assert "shop_look" in unknown.text, "what it may call is named"
    assert shop.count == 0
    assert recorded(database, "key-forbidden").decision == "deny"


async def test_a_bug_in_a_tool_is_an_answer_without_its_insides(client: GatewayClient) -> None:
    result = await client.call(DEV, "shop_break", {}, "key-bug")

    assert result.is_error
    assert "ghp_" not in result.text
    assert "RuntimeError" not in result.text


async def test_without_a_valid_token_nothing_is_said(url: str) -> None:
    forged = issue_run_token("another secret, just as long as it must be", DEV)
    call = {"jsonrpc": "2.0", "id": 1, "method": "tools/list", "params": {}}
    async with httpx2.AsyncClient(trust_env=False) as http:
        for headers in ({}, {"Authorization": "Bearer rest"}, {"Authorization": f"Bearer {forged}"}):
            response = await http.post(f"{url}/mcp", json=call, headers=headers)
            assert (response.status_code, response.json()["code"]) == (401, "unauthorized")
        assert (await http.get(f"{url}/tools")).status_code == 401
        listed = await http.get(f"{url}/tools", headers={"Authorization": "Bearer rest"})
        decisions = {tool["name"]: tool["decision"] for tool in listed.json()}
        assert decisions == {"shop_count": "ask", "shop_look": "allow", "shop_break": "ask", "shop_order": "ask"}


async def test_a_call_a_person_must_allow_runs_once_with_the_approved_arguments(
    client: GatewayClient, shop: Shop
) -> None:
    asked = await client.call(DEV, "shop_order", {"by": 5}, "key-ask")
    assert (asked.is_error, asked.data["code"], asked.data["rule"]) == (True, "approval_required", "orders")

    for arguments, approval in (({"by": 50}, "a1"), ({"by": 5}, "a2")):
        refused = await client.call(DEV, "shop_order", arguments, "key-refused", approval)
        assert refused.is_error
        assert refused.data["code"] == "forbidden"
    assert shop.count == 0

    for key in ("key-first", "key-again"):
        assert (await client.call(DEV, "shop_order", {"by": 5}, key, "a1")).data == {"count": 5}
    assert shop.count == 5


async def test_a_call_sent_again_while_it_runs_waits_for_the_first(client: GatewayClient, shop: Shop) -> None:
    results = await asyncio.gather(*(client.call(DEV, "shop_count", {}, "key-at-once") for _ in range(8)))

    assert shop.count == 1
    assert not any(result.is_error for result in results)


async def test_a_key_answers_only_the_caller_and_the_tool_it_was_first_used_for(
    client: GatewayClient, shop: Shop
) -> None:
    await client.call(DEV, "shop_count", {"by": 7}, "key-mine")
    stranger = Caller("task2", "feature-dev")

    for caller, tool in ((stranger, "shop_count"), (DEV, "shop_look")):
        refused = await client.call(caller, tool, {}, "key-mine")
        assert (refused.is_error, refused.data.get("code")) == (True, "forbidden"), refused
        assert "7" not in refused.text
    assert shop.count == 7


async def test_an_approval_nobody_asked_for_is_no_key(client: GatewayClient, shop: Shop) -> None:
    await client.call(DEV, "shop_order", {"by": 5}, "key-approved", "a1")
    before = shop.count
    for key in ("key-plain-1", "key-plain-2"):
        counted = await client.call(DEV, "shop_count", {}, key, "a1")
        assert not counted.is_error
    assert shop.count == before + 2, "each a call of its own, and none the approved one's answer"
