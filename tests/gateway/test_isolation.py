"""One server's bad day is no other's: real processes that die, hang, flood, lie and send nonsense."""

import asyncio
import json
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from devtools_platform.gateway.upstreams.pipes import CROWDED
from devtools_platform.gateway.upstreams.types import ServerSpec
from gateway_rig import ME, Rig, everything, misbehaving, running, trust_all
from processes import is_alive

FAULTS = ["die", "garbage", "flood", "noise", "hang"]


@pytest.fixture
async def rig(tmp_path: Path) -> AsyncIterator[Rig]:
    servers = {
        "good": misbehaving(),
        "bad": misbehaving(timeout_s=1.0, max_result_bytes=100_000),
        "slow": misbehaving(timeout_s=30.0, max_result_bytes=100_000),
    }
    async with running(servers, tmp_path) as rig:
        yield rig


async def recovered(rig: Rig, name: str) -> None:
    """Until a server that broke answers again, without anybody's doing."""
    async with asyncio.timeout(10):
        while "result" not in await rig.call(f"{name}_echo", "back"):
            await rig.hub.offer.upstreams[name].ready(5)


@pytest.mark.parametrize("fault", FAULTS)
async def test_a_fault_is_a_clear_error_and_the_others_do_not_notice(rig: Rig, fault: str) -> None:
    broken = asyncio.create_task(rig.call(f"bad_{fault}"))
    slowest = 0.0
    for n in range(40):
        began = time.perf_counter()
        assert await rig.text("good_echo", str(n)) == str(n)
        slowest = max(slowest, time.perf_counter() - began)
    assert slowest < 1.0

    error = (await broken)["error"]
    assert error["message"].startswith("bad: It")
    assert error["data"]["code"] == "unavailable"
    assert error["data"]["may_have_run"] is True
    await recovered(rig, "bad")


async def test_a_result_that_is_too_large_fails_its_own_call_only(rig: Rig) -> None:
    before = psutil.Process().memory_info().rss
    sleeping = asyncio.create_task(rig.text("slow_sleep", "1.5"))
    await _until(lambda: len(rig.hub.offer.upstreams["slow"].link._pending) >= 2)
    for size in ("200000", "100000000"):
        huge = await rig.call("slow_huge", size)
        assert "larger than 100000 bytes" in huge["error"]["message"]
    assert await sleeping == "slept", "no other call failed, and the child was not ended for it"
    assert await rig.text("slow_huge", "10") == "x" * 10
    assert psutil.Process().memory_info().rss - before < 80_000_000, "a hundred megabytes are not held"


async def test_answers_nobody_asked_for_reach_nobody(rig: Rig) -> None:
    assert await rig.text("bad_lie", "mine") == "mine"
    assert await rig.text("bad_twice", "one") == "one"
    assert await rig.text("bad_echo", "two") == "two"


async def test_a_dead_server_hides_no_tools_and_costs_no_time(tmp_path: Path) -> None:
    dead = ServerSpec(description="x", url="http://127.0.0.1:9/mcp", allow_private=True, agents=(ME,))
    missing = ServerSpec(description="x", command=("no-such-program",), agents=(ME,))
    async with running({"dead": dead, "missing": missing, "good": misbehaving()}, tmp_path, wait=False) as rig:
        assert await rig.hub.offer.upstreams["good"].ready(20)
        trust_all(rig.hub, rig.hub.offer.upstreams["good"])
        began = time.perf_counter()
        assert "good_echo" in await rig.names()
        assert await rig.text("good_echo", "x") == "x"
        assert time.perf_counter() - began < 1.0

        health = await rig.http.get(f"{rig.url}/health")
        states = health.json()["upstreams"]
        assert {name: s["state"] for name, s in states.items()} == {"dead": "down", "missing": "down", "good": "ready"}
        assert "no program 'no-such-program'" in states["missing"]["reason"]


async def test_what_a_server_prints_on_standard_error_is_kept(rig: Rig) -> None:
    await rig.call("good_echo")
    assert "misbehaving: started" in (rig.logs / "mcp-good.log").read_text()


async def test_a_server_is_ended_with_everything_it_started(tmp_path: Path) -> None:
    async with running({"one": misbehaving()}, tmp_path) as rig:
        runaway = int(await rig.text("one_fork"))
        child = rig.hub.offer.upstreams["one"].link.pid
        assert psutil.pid_exists(runaway)
    await _until(lambda: not is_alive(runaway) and not is_alive(child))


async def test_a_server_sees_only_the_environment_it_was_given(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LEAK", "must not be seen")
    spec = misbehaving(env={"API_TOKEN": "${API_TOKEN}"})
    async with running({"one": spec}, tmp_path, secrets={"API_TOKEN": "s3cr3t-value-1234"}) as rig:
        seen = await rig.text("one_env")
        leaked = await rig.text("one_secret")
    assert "LEAK" not in seen
    assert "API_TOKEN" in seen
    assert "s3cr3t-value-1234" not in seen + leaked, "an injected secret does not come back in a result"
    assert "ghp_" not in leaked


@pytest.mark.parametrize("era", ["modern", "legacy"])
async def test_a_thousand_calls_at_once_get_their_own_answers(tmp_path: Path, era: str) -> None:
    more = ["--legacy"] if era == "legacy" else []
    async with running({"one": misbehaving(*more)}, tmp_path) as rig:
        session = await _initialize(rig)

        one = [f"modern-{n}-{'x' * (n % 50)}" for n in range(500)]
        other = [f"legacy-{n}-{'x' * (n % 50)}" for n in range(500)]
        answers = await asyncio.gather(
            rig.bulk("one_echo", one, width=500), rig.bulk("one_echo", other, session=session, width=500)
        )
        assert answers == [one, other]


@pytest.mark.alone
async def test_in_a_crowd_answers_arrive_and_the_end_of_the_server_is_noticed(tmp_path: Path) -> None:
    async with running({"one": misbehaving()}, tmp_path) as rig:
        hanging = [asyncio.create_task(rig.call("one_hang")) for _ in range(2 * CROWDED)]
        for size in (10, 1_000, 300_000):
            assert len(await rig.text("one_huge", str(size))) == size
        ends = [await rig.call("one_die"), *await asyncio.gather(*hanging)]
        assert {"Its process has ended" in answer["error"]["message"] for answer in ends} == {True}
        assert await rig.hub.offer.upstreams["one"].ready(10)
        assert await rig.text("one_echo", "again") == "again"


async def test_nothing_is_left_behind_by_calls_and_disconnects(tmp_path: Path) -> None:
    async with running({"one": misbehaving()}, tmp_path) as rig:
        rig.audit.keeps_all = False
        await rig.bulk("one_echo", ["warm"] * 10_000)  # as many as below: the callers live in this process too
        await rig.call("one_echo")
        me = psutil.Process()
        before = (len(me.children(recursive=True)), me.num_fds(), me.memory_info().rss)

        assert set(await rig.bulk("one_echo", ["x"] * 10_000)) == {"x"}
        for _ in range(10):
            calls = [asyncio.create_task(rig.call("one_hang")) for _ in range(20)]
            await _until(lambda: len(rig.hub.offer.upstreams["one"].link._pending) >= 20)
            for call in calls:
                call.cancel()
            await asyncio.gather(*calls, return_exceptions=True)

        pending = rig.hub.offer.upstreams["one"].link._pending
        await _until(lambda: len(pending) <= 1)  # what listens for changes stays
        await _until(lambda: me.num_fds() <= before[1] + 5)
        assert len(me.children(recursive=True)) == before[0]
        grown = me.memory_info().rss - before[2]
        assert grown < 15_000_000, grown
        assert await rig.text("one_echo", "still here") == "still here"


async def test_two_sessions_share_nothing(tmp_path: Path) -> None:
    async with running({"all": everything("modern")}, tmp_path) as rig:
        one, other = await _initialize(rig, "/mcp/all"), await _initialize(rig, "/mcp/all")
        await _legacy(rig, one, "logging/setLevel", {"level": "error"}, "/mcp/all")
        logs = [await _stream(rig, s, {"name": "test_logging_tool", "arguments": {}}) for s in (one, other)]
        assert ["a log message" in log for log in logs] == [False, True]

        stranger = rig.token(task="another")
        stolen = await rig.http.post(
            f"{rig.url}/mcp/all",
            json={"jsonrpc": "2.0", "id": 1, "method": "ping"},
            headers={"Authorization": f"Bearer {stranger}", "Mcp-Session-Id": one},
        )
        assert stolen.status_code == 404


async def _until(check: Any) -> None:
    async with asyncio.timeout(10):
        while not check():  # noqa: ASYNC110 - the kernel and the child set no event
            await asyncio.sleep(0.01)


async def _initialize(rig: Rig, path: str = "/mcp") -> str:
    params = {"protocolVersion": "2025-11-25", "capabilities": {}, "clientInfo": {"name": "t", "version": "1"}}
    response = await rig.http.post(
        rig.url + path,
        json={"jsonrpc": "2.0", "id": 0, "method": "initialize", "params": params},
        headers={"Authorization": f"Bearer {rig.token()}"},
    )
    assert response.status_code == 200, response.text
    return response.headers["mcp-session-id"]


async def _post(rig: Rig, session: str, method: str, params: Any, path: str) -> str:
    response = await rig.http.post(
        rig.url + path,
        json={"jsonrpc": "2.0", "id": 7, "method": method, "params": params},
        headers={"Authorization": f"Bearer {rig.token()}", "Mcp-Session-Id": session},
    )
    return response.text


async def _legacy(rig: Rig, session: str, method: str, params: Any, path: str = "/mcp") -> Any:
    return json.loads(await _post(rig, session, method, params, path))


async def _stream(rig: Rig, session: str, params: Any) -> str:
    return await _post(rig, session, "tools/call", params, "/mcp/all")
