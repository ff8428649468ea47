"""Calls that a server answers later: whose a handle is, who gets the result itself. `make conformance` has the rest."""

import asyncio
import sys
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx2
import mcp_types
import msgspec
import pytest
from mcp import Client
from mcp.client.streamable_http import streamable_http_client

from devtools_platform.gateway.deferred import is_declared
from devtools_platform.gateway.mcp.exchange import Client as Caller
from devtools_platform.gateway.mcp.messages import raw
from devtools_platform.gateway.upstreams.types import ServerSpec, ToolRule
from gateway_rig import FAKES, ME, Rig, running

SECRET = "hunter2-hunter2-hunter2"
TASKS = "io.modelcontextprotocol/tasks"
DECLARES: dict[str, Any] = {
    "io.modelcontextprotocol/clientCapabilities": {"elicitation": {}, "extensions": {TASKS: {}}}
}
MISSING: dict[str, Any] = {"requiredCapabilities": {"extensions": {TASKS: {}}}}


@pytest.fixture
async def rig(tmp_path: Path) -> AsyncIterator[Rig]:
    command = (sys.executable, str(FAKES / "long_work.py"), "--stdio")
    short = (
        ToolRule(tools=("long_text",), max_result_bytes=20_000),
        ToolRule(tools=("endless_*",), max_result_bytes=9),
    )
    spec = ServerSpec(description="x", command=command, agents=(ME,), writes="allow", rules=short)
    async with running({"work": spec}, tmp_path, secrets={"TOKEN": SECRET}) as rig:
        yield rig


async def begin(rig: Rig, tool: str, **more: Any) -> dict[str, Any]:
    arguments = more.pop("arguments", {})
    answer = await rig.rpc("tools/call", {"name": tool, "arguments": arguments}, meta=DECLARES, **more)
    return answer.json()["result"]


async def ask(rig: Rig, method: str, id_: str, *, meta: Any = DECLARES, token: str | None = None, **more: Any) -> Any:
    answer = await rig.rpc(method, {"taskId": id_, **more}, headers={"Mcp-Name": id_}, meta=meta, token=token)
    return answer.json()


async def until(rig: Rig, id_: str, holds: Callable[[dict[str, Any]], bool]) -> dict[str, Any]:
    async with asyncio.timeout(20):
        while not holds(state := (await ask(rig, "tasks/get", id_))["result"]):  # noqa: ASYNC110 - a poll
            await asyncio.sleep(0.02)
    return state


def is_over(state: dict[str, Any]) -> bool:
    return state["status"] in {"completed", "failed", "cancelled"}


async def test_a_handle_is_good_for_its_caller_alone_and_while_it_may_call_the_tool(rig: Rig) -> None:
    _, mine = await rig.identity.create("editor", scopes=["tools:work_*"])
    _, other = await rig.identity.create("somebody else", scopes=["tools:*"])
    record, narrow = await rig.identity.create("narrow", scopes=["tools:work_greet"])
    made = await begin(rig, "work_confirm_delete", token=mine)
    id_ = made["taskId"]
    assert (made["resultType"], "work 1" in id_) == ("task", False)
    assert (await ask(rig, "tasks/get", id_, token=mine))["result"]["taskId"] == id_

    for method in ("tasks/get", "tasks/update", "tasks/cancel"):
        for wrong, token in ((id_, other), (id_[:-2] + "AA", mine), ("work 1", mine), ("", mine), ("x" * 9999, mine)):
            refused = (await ask(rig, method, wrong, token=token, inputResponses={}))["error"]
            assert (refused["code"], "none that this gateway gave" in refused["message"]) == (-32602, True)
    undeclared = (await ask(rig, "tasks/get", id_, token=mine, meta=None))["error"]
    assert (undeclared["code"], undeclared["data"]) == (-32021, MISSING)

    wide = rig.hub.handles.wrap(
        raw({"resultType": "task", "taskId": "work 1"}), f"token:{record.id}", "work_confirm_delete", 1
    )
    withdrawn = await ask(rig, "tasks/get", msgspec.json.decode(wide)["taskId"], token=narrow)
    assert "lacks the scope 'tools:work_confirm_delete'" in withdrawn["error"]["message"]


@pytest.mark.parametrize("slash", [b"/", b"\\/"])
def test_an_extension_counts_however_its_name_is_spelled(slash: bytes) -> None:
    said = b'{"extensions":{"io.modelcontextprotocol' + slash + b'tasks":{}}}'
    assert is_declared(Caller("me", msgspec.Raw(said)))
    assert not is_declared(Caller("me", msgspec.Raw(said.replace(b"tasks", b"ui"))))


async def test_what_the_server_asks_is_answered_and_noted_and_secrets_stay_here(rig: Rig) -> None:
    id_ = (await begin(rig, "work_confirm_delete"))["taskId"]
    asked = await until(rig, id_, lambda state: state["status"] == "input_required")
    (key,) = asked["inputRequests"]

    leak = {key: {"action": "accept", "content": {"name": SECRET}}}
    refused = (await ask(rig, "tasks/update", id_, inputResponses=leak))["error"]["data"]
    assert refused["code"] == "secret_in_arguments"
    said = {key: {"action": "accept", "content": {"name": "yes"}}}
    assert (await ask(rig, "tasks/update", id_, inputResponses=said))["result"]["resultType"] == "complete"
    done = await until(rig, id_, is_over)
    assert done["result"]["content"][0]["text"] == "accept yes"
    await rig.hub.audit.flush()
    assert {line.tool for line in rig.audit.lines} == {"confirm_delete"}
    assert [line.outcome for line in rig.audit.lines] == ["ok", "denied", "ok", "ok"], "the last look at it too"
    assert SECRET not in str(rig.audit.lines)


async def test_a_result_that_came_later_is_cut_like_any_other(rig: Rig) -> None:
    id_ = (await begin(rig, "work_long_text", arguments={"length": 90_000}))["taskId"]
    text = (await until(rig, id_, is_over))["result"]["content"][0]["text"]
    assert "characters left out" in text
    assert len(text) < 21_000

    endless = await begin(rig, "work_endless_job")
    assert endless["resultType"] == "task", "a handle is no result"
    await ask(rig, "tasks/cancel", endless["taskId"])
    assert (await until(rig, endless["taskId"], is_over))["status"] == "cancelled"


async def test_who_cannot_be_answered_later_is_told_or_gets_the_result(rig: Rig) -> None:
    told = (await rig.call("work_failing_job"))["error"]
    assert (told["code"], told["data"]) == (-32021, MISSING)
    listens = {"notifications": {"taskIds": ["x"]}}
    assert (await rig.rpc("subscriptions/listen", listens)).json()["error"]["code"] == -32021

    rest = {"Authorization": "Bearer rest"}
    got = (await rig.http.post(f"{rig.url}/tools/work/long_text", json={}, headers=rest)).json()
    assert (got["text"], got["is_error"]) == ("x", False)
    failed = (await rig.http.post(f"{rig.url}/tools/work/failing_job", json={}, headers=rest)).json()
    assert (failed["text"], failed["is_error"]) == ("The job failed.", True)
    broke = await rig.http.post(f"{rig.url}/tools/work/protocol_error_job", json={}, headers=rest)
    assert (broke.status_code, "The job broke off." in broke.text) == (422, True)
    kept = await rig.text("work_long_text", meta={**DECLARES, "dev-tools/idempotency-key": "one"})
    assert kept == "x"
    nobody = await rig.http.post(f"{rig.url}/tools/work/confirm_delete", json={}, headers=rest)
    assert (nobody.status_code, "Nobody is there to answer" in nobody.text) == (422, True)
    assert (await rig.text("work_list_states")).endswith("completed cancelled"), "what nobody answers is cancelled"


async def test_a_client_with_a_handshake_is_asked_and_gets_the_result(rig: Rig) -> None:
    names = iter(("Ada", "Lovelace"))

    async def answer(_: Any, __: Any) -> mcp_types.ElicitResult:
        return mcp_types.ElicitResult(action="accept", content={"name": next(names)})

    async with legacy(rig, answer) as client:
        result = await client.call_tool("work_multi_input", {})
        assert [p.text for p in result.content if isinstance(p, mcp_types.TextContent)] == ["Ada Lovelace"]
        waits = asyncio.create_task(client.call_tool("work_endless_job", {}))
        await states(rig, "completed working")
        waits.cancel()
        await states(rig, "completed cancelled")


@asynccontextmanager
async def legacy(rig: Rig, answer: Any) -> AsyncGenerator[Client]:
    headers = {"Authorization": f"Bearer {rig.token()}"}
    async with (
        httpx2.AsyncClient(headers=headers, trust_env=False, timeout=20) as http,
        Client(
            streamable_http_client(f"{rig.url}/mcp", http_client=http), mode="legacy", elicitation_callback=answer
        ) as client,
    ):
        yield client


async def states(rig: Rig, wanted: str) -> None:
    async with asyncio.timeout(20):
        while await rig.text("work_list_states") != wanted:  # noqa: ASYNC110 - another process's state
            await asyncio.sleep(0.02)
