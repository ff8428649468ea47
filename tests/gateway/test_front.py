"""`/mcp` as a client meets it: who may come in, what is refused and with which status, and what a fuzzer finds."""

import asyncio
import json
import random
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx2
import pytest

from devtools_platform.core.errors import BadInput, NotFound
from devtools_platform.gateway.search import SearchMode
from gateway_rig import ENVELOPE, ME, MODERN, Rig, misbehaving, running


@pytest.fixture
async def rig(tmp_path: Path) -> AsyncIterator[Rig]:
    async with running({"one": misbehaving(), "two": misbehaving()}, tmp_path) as rig:
        yield rig


async def test_a_token_opens_what_its_scopes_say_and_no_more(rig: Rig) -> None:
    _, token = await rig.identity.create("editor", scopes=["tools:one_echo"])

    assert await rig.names(token=token) == ["one_echo"]
    assert await rig.text("one_echo", "mine", token=token) == "mine"
    refused = await rig.rpc("tools/call", {"name": "two_echo", "arguments": {}}, token=token)
    assert refused.status_code == 403
    assert "lacks the scope 'tools:two_echo'" in refused.json()["error"]["message"]
    assert token not in json.dumps([r.__dict__ for r in rig.identity.list_tokens()], default=str)


async def test_a_managed_agents_token_is_bound_by_its_agents_policy_too(rig: Rig) -> None:
    _, fits = await rig.identity.create("managed", scopes=["tools:*"], agent=ME)
    _, other = await rig.identity.create("managed", scopes=["tools:*"], agent="documentation")

    assert "one_echo" in await rig.names(token=fits)
    none = (await rig.rpc("tools/list", {}, token=other)).json()["error"]
    assert (none["data"]["code"], "documentation may call none" in none["message"]) == ("no_tools", True)


async def test_a_token_ends_at_once_when_revoked_or_rotated(rig: Rig) -> None:
    record, first = await rig.identity.create("editor", scopes=["tools:*"])
    assert (await rig.rpc("tools/list", {}, token=first)).status_code == 200
    renewed, second = await rig.identity.rotate(record.id)
    assert (await rig.rpc("tools/list", {}, token=first)).status_code == 401
    assert (await rig.rpc("tools/list", {}, token=second)).status_code == 200
    await rig.identity.revoke(renewed.id)
    assert (await rig.rpc("tools/list", {}, token=second)).status_code == 401
    _, short = await rig.identity.create("short", scopes=["tools:*"], days=1e-12)
    expired = await rig.rpc("tools/list", {}, token=short)
    assert (expired.status_code, "has expired" in expired.text) == (401, True)
    for wrong in ({"scopes": []}, {"scopes": ["everything"]}, {"scopes": ["tools:*"], "agent": "nobody"}):
        with pytest.raises(BadInput):
            await rig.identity.create("x", **wrong)
    with pytest.raises(NotFound):
        await rig.identity.revoke("nothing")


async def test_a_rotated_token_counts_through_its_overlap_and_no_longer_than_it_would_have(rig: Rig) -> None:
    record, first = await rig.identity.create("editor", scopes=["tools:*"])
    short, _ = await rig.identity.create("short", scopes=["tools:*"], days=1 / 86_400)

    renewed, second = await rig.identity.rotate(record.id, overlap_s=3600)
    await rig.identity.rotate(short.id, overlap_s=3600)

    for token in (first, second):
        assert (await rig.rpc("tools/list", {}, token=token)).status_code == 200
    ends = {one.id: one.expires_at for one in rig.identity.list_tokens()}
    assert ends[record.id] == pytest.approx(time.time() + 3600, abs=60)
    assert ends[renewed.id] == pytest.approx(record.expires_at, abs=60)
    assert ends[short.id] == short.expires_at
    again, _ = await rig.identity.rotate(renewed.id, overlap_s=1e-9)
    assert (await rig.rpc("tools/list", {}, token=second)).status_code == 401
    assert again.id != renewed.id


async def test_a_rate_limit_of_a_token_holds(rig: Rig) -> None:
    _, token = await rig.identity.create("slow", scopes=["tools:*"], per_minute=2)
    answers = [await rig.call("one_echo", "x", token=token) for _ in range(3)]
    assert ["result" in answer for answer in answers] == [True, True, False]


@pytest.mark.parametrize(
    ("headers", "status", "code"),
    [
        ({"Mcp-Method": "tools/list"}, 400, -32020),
        ({"Mcp-Name": "two_echo"}, 400, -32020),
        ({"MCP-Protocol-Version": "2099-01-01"}, 400, -32020),
        ({"Origin": "https://evil.example"}, 403, None),
        ({"Host": "evil.example"}, 403, None),
        ({"Authorization": "Bearer nonsense"}, 401, None),
        ({"Authorization": ""}, 401, None),
    ],
)
async def test_headers_that_disagree_or_come_from_elsewhere_are_refused(
    rig: Rig, headers: dict[str, str], status: int, code: int | None
) -> None:
    answer = await rig.rpc("tools/call", {"name": "one_echo", "arguments": {}}, headers=headers)
    assert answer.status_code == status
    assert answer.json().get("error", {}).get("code") == code


async def test_a_large_catalogue_becomes_two_tools_that_find_and_call(tmp_path: Path) -> None:
    async with running({"one": misbehaving()}, tmp_path, search=SearchMode(threshold_bytes=100)) as rig:
        assert await rig.names() == ["search_tools", "call_tool"]
        found = await rig.rpc("tools/call", {"name": "search_tools", "arguments": {"query": "echo something"}})
        assert found.json()["result"]["structuredContent"]["tools"][0]["name"] == "one_echo"
        inner = {"name": "call_tool", "arguments": {"name": "one_echo", "arguments": {"text": "through"}}}
        answer = (await rig.rpc("tools/call", inner)).json()
        assert answer["result"]["content"][0]["text"] == "through"


async def test_rest_lists_searches_calls_and_tells_the_state(rig: Rig) -> None:
    _, token = await rig.identity.create("script", scopes=["tools:one_*"])
    async with httpx2.AsyncClient(base_url=rig.url, trust_env=False, timeout=10) as http:
        mine = {"Authorization": f"Bearer {token}"}
        operator = {"Authorization": "Bearer rest"}
        assert (await http.get("/tools")).status_code == 401
        assert {t["server"] for t in (await http.get("/tools", headers=mine)).json()} == {"one"}
        found = (await http.get("/tools/search", params={"q": "echo"}, headers=operator)).json()
        assert found[0]["name"] in {"one_echo", "two_echo"}
        called = await http.post("/tools/one/echo", json={"arguments": {"text": "by rest"}}, headers=mine)
        assert (called.status_code, called.json()["text"]) == (200, "by rest")
        refused = await http.post("/tools/two/echo", json={}, headers=mine)
        assert (refused.status_code, "tools:two_echo" in refused.text) == (403, True)
        assert (await http.post("/tools/one/nothing", json={}, headers=operator)).status_code == 404
        failed = await http.post("/tools/one/fail", json={"arguments": {"text": "out of paper"}}, headers=mine)
        assert (failed.status_code, failed.json()["code"]) == (422, "tool_failed")
        assert "out of paper" in failed.json()["message"]
        assert (await http.get("/tokens", headers=mine)).status_code == 403
        assert (await http.get("/health")).json()["upstreams"]["one"]["state"] == "ready"
        assert "devtools_mcp_server_up" in (await http.get("/metrics")).text
        assert "/tools/{server}/{tool}" in (await http.get("/openapi.json", headers=operator)).json()["paths"]


def _mutations(random_: random.Random, count: int) -> list[bytes]:
    good = json.dumps(
        {"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": {"name": "one_echo", "_meta": ENVELOPE}}
    ).encode()
    odd = [
        b"",
        b"null",
        b"[]",
        b"1",
        b'""',
        b"[" * 100_000,
        b'{"a":' * 5_000,
        b"\xff\xfe",
        good + good,
        b"[" + good + b"]",
    ]
    values: list[Any] = [
        None,
        True,
        [],
        {},
        "",
        "x" * 5000,
        -1,
        1e308,
        10**400,
        {"a": {"b": []}},
        "\ud800",
        "\0",
        "../..",
    ]
    found = list(odd)
    for _ in range(count - len(odd)):
        kind = random_.randrange(3)
        if kind == 0:
            at = random_.randrange(len(good))
            found.append(
                good[:at] + bytes(random_.randrange(256) for _ in range(random_.randrange(6))) + good[at + 1 :]
            )
        elif kind == 1:
            message = json.loads(good)
            place = random_.choice([message, message["params"], message["params"]["_meta"]])
            key = random_.choice([*place, "arguments", "inputResponses", "requestState", "extra", "progressToken"])
            place[key] = random_.choice(values)
            found.append(json.dumps(message).encode())
        else:
            methods = [
                "initialize",
                "ping",
                "resources/read",
                "subscriptions/list",
                "x",
                "",
                "tools/list",
                "server/discover",
            ]
            message = {"jsonrpc": "2.0", "id": random_.choice(values), "method": random_.choice(methods)}
            message["params"] = random_.choice([*values, {"_meta": ENVELOPE}])
            found.append(json.dumps(message).encode())
    return found


async def test_random_and_mutated_messages_break_nothing(rig: Rig) -> None:
    random_ = random.Random(20261125)
    headers = {"Authorization": f"Bearer {rig.token()}", "Content-Type": "application/json"}
    modern = {"MCP-Protocol-Version": MODERN, "Mcp-Method": "tools/call", "Mcp-Name": "one_echo"}

    async def send(body: bytes, path: str) -> None:
        more = modern if random_.random() < 0.6 else {}
        answer = await rig.http.post(rig.url + path, content=body, headers={**headers, **more})
        assert answer.status_code < 500, (body[:200], answer.text)
        assert "Traceback" not in answer.text
        assert answer.status_code in {202, 204} or isinstance(answer.json(), dict)

    bodies = _mutations(random_, 600)
    for start in range(0, len(bodies), 50):
        batch = bodies[start : start + 50]
        await asyncio.gather(*(send(b, random_.choice(["/mcp", "/mcp/one", "/mcp/none"])) for b in batch))
    assert await rig.text("one_echo", "unharmed") == "unharmed"
