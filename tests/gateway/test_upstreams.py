"""Servers reached in other ways, and what is kept in the database about calls to them."""

import asyncio
import json
import os
import socket
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Annotated, Any

import pytest
import sqlalchemy as sa
from fastapi import FastAPI, Header, Query

from devtools_platform.agents.adapters.mcp_tools import GatewayClient
from devtools_platform.app.serving import Serving
from devtools_platform.core.tools import Caller
from devtools_platform.gateway.adapters.access_tokens import SqlTokens
from devtools_platform.gateway.adapters.audit_log import SqlAudit
from devtools_platform.gateway.adapters.call_records import SqlCallRecords
from devtools_platform.gateway.audit import GENESIS, Audit, Chain, Note, first_broken, hash_result
from devtools_platform.gateway.identity import Identity
from devtools_platform.gateway.mcp.headers import check_headers, decode_value, encode_value, headers_for, param_headers
from devtools_platform.gateway.mcp.messages import RpcError
from devtools_platform.gateway.upstreams import stdio_link
from devtools_platform.gateway.upstreams.types import ServerSpec
from devtools_platform.kit.schema import gateway_audit, gateway_tokens
from gateway_rig import ME, SECRET, Memory, everything, misbehaving, running, trust_all


@pytest.fixture
async def shop_url() -> AsyncIterator[str]:
    """A plain HTTP service with an OpenAPI document, as teams have them."""
    app = FastAPI()

    @app.get("/items/{name}")
    async def read_item(
        name: str, team: Annotated[str, Header(alias="x-team")], verbose: Annotated[bool, Query()]
    ) -> dict[str, Any]:
        return {"name": name, "verbose": verbose, "team": team}

    @app.post("/items")
    async def add_item(item: dict[str, Any], authorization: Annotated[str, Header()]) -> dict[str, Any]:
        return {"added": item, "auth": authorization}

    _ = (read_item, add_item)
    serving = Serving()
    sock = socket.create_server(("127.0.0.1", 0))
    sock.setblocking(False)
    await serving.serve(app, sock)
    yield f"http://127.0.0.1:{sock.getsockname()[1]} {json.dumps(app.openapi())}"
    await serving.stop()
    sock.close()


async def test_an_openapi_document_becomes_tools(shop_url: str, tmp_path: Path) -> None:
    base, _, document = shop_url.partition(" ")
    (tmp_path / "shop.json").write_text(document)
    spec = ServerSpec(
        description="x",
        openapi=str(tmp_path / "shop.json"),
        base_url=base,
        allow_private=True,
        agents=(ME,),
        writes="allow",
        headers={"Authorization": "Bearer ${SHOP}"},
    )
    async with running({"shop": spec}, tmp_path, secrets={"SHOP": "shop-secret-123"}) as rig:
        names = await rig.names()
        read = next(name for name in names if "read_item" in name)
        add = next(name for name in names if "add_item" in name)

        async def call(name: str, arguments: dict[str, Any]) -> dict[str, Any]:
            return (await rig.rpc("tools/call", {"name": name, "arguments": arguments})).json()["result"]

        found = await call(read, {"name": "../secret?x=1", "verbose": True, "x-team": "blue"})
        assert found["structuredContent"] == {"name": "../secret?x=1", "verbose": True, "team": "blue"} or (
            found["isError"] and "404" in found["content"][0]["text"]
        ), "an argument stays within its path segment"
        added = await call(add, {"body": {"colour": "red"}, "authorization": "mine"})
        assert added["structuredContent"]["added"] == {"colour": "red"}
        assert "shop-secret-123" not in json.dumps(added), "the credential was used, and masked on the way back"
        assert added["structuredContent"]["auth"] == "Bearer ***"
        missing = await call(read, {})
        assert missing["isError"]
        assert missing["content"][0]["text"].startswith("Missing arguments: name")


async def test_a_keyed_call_at_a_server_of_others_has_one_effect(tmp_path: Path, database: sa.Engine) -> None:
    async with running({"one": misbehaving()}, tmp_path) as rig:
        rig.hub.gateway.records = SqlCallRecords(database)
        client = GatewayClient(f"{rig.url}/mcp", SECRET, timeout_s=10)
        me = Caller("task1", ME)
        pids = [(await client.call(me, "one_fork", {}, "key-once")).text for _ in range(3)]
        assert len(set(pids)) == 1, "the second and third call got the stored answer"
        assert (await client.call(me, "one_echo", {"text": "other"}, "key-other")).text == "other"


async def test_tokens_and_audit_outlive_the_process(database: sa.Engine) -> None:
    identity = Identity(SECRET, SqlTokens(database))
    record, token = await identity.create("editor", scopes=["tools:a_*", "tools:b_*"], per_minute=5)
    again = Identity(SECRET, SqlTokens(database))
    await again.load()
    assert again.verify(f"Bearer {token}".encode()).scopes == ("tools:a_*", "tools:b_*")
    await again.revoke(record.id)
    await identity.load()
    assert [r.is_valid for r in identity.list_tokens()] == [False]
    with database.connect() as connection:
        stored = str(connection.execute(sa.select(gateway_tokens)).all())
    assert token not in stored

    note = Note(1.5, "p", None, "t", "s", "tool", "allow", "ok", 0.25, None, b'{"a":"\\u0000 x"}', hash_result(b"{}"))
    for _ in range(2):
        audit = Audit(SqlAudit(database))
        audit.note(note)
        await audit.flush()
    lines = await SqlAudit(database).read(0, 10)
    assert [line.seq for line in lines] == [1, 2]
    assert first_broken(lines, GENESIS) is None
    assert await audit.verify() == Chain(2, lines[-1].hash, None)
    with database.begin() as connection:
        connection.execute(sa.update(gateway_audit).where(gateway_audit.c.seq == 2).values(outcome="denied"))
    assert (await audit.verify()).broken_at == 2


async def test_nothing_is_called_while_the_audit_log_cannot_be_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("devtools_platform.gateway.audit.MAX_BACKLOG", 2)

    async def fail(_: Memory, lines: Any) -> None:
        raise OSError("no room")

    monkeypatch.setattr(Memory, "append", fail)
    async with running({"one": misbehaving()}, tmp_path) as rig:
        answers = [await rig.call("one_echo", "x") for _ in range(3)]
        assert ["result" in answer for answer in answers] == [True, True, False]
        assert "audit log cannot be written" in answers[2]["error"]["message"]
        monkeypatch.undo()


async def test_a_server_that_comes_back_is_used_again_without_a_restart(tmp_path: Path) -> None:
    sock = socket.create_server(("127.0.0.1", 0))
    port = sock.getsockname()[1]
    sock.close()
    spec = ServerSpec(
        description="x", url=f"http://127.0.0.1:{port}/mcp", allow_private=True, agents=(ME,), writes="allow"
    )
    async with running({"late": spec}, tmp_path, wait=False) as rig:
        upstream = rig.hub.offer.upstreams["late"]
        assert not await upstream.ready(0.3)
        assert "No connection" in upstream.reason
        async with running({"one": misbehaving()}, tmp_path / "inner") as inner:
            proxy = await asyncio.start_server(lambda r, w: _pipe(r, w, inner.url, inner.token()), "127.0.0.1", port)
            async with proxy:
                assert await upstream.ready(10), upstream.reason
                trust_all(rig.hub, upstream)
                assert await rig.text("late_one_echo", "through two gateways") == "through two gateways"


@pytest.mark.parametrize("era", ["modern", "legacy"])
async def test_a_program_that_is_slow_to_start_is_met_in_its_own_era(
    era: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It finds two questions at once, and a server of today's revision refuses the older one's handshake."""
    monkeypatch.setattr(stdio_link, "DISCOVER_TIMEOUT_S", 0.05)
    gate = tmp_path / "gate"
    os.mkfifo(gate)
    program = everything(era).command
    spec = everything(era, command=("sh", "-c", 'read _ < "$0"; exec "$@"', str(gate), *program))
    async with running({"slow": spec}, tmp_path, wait=False) as rig:
        upstream = rig.hub.offer.upstreams["slow"]
        assert not await upstream.ready(0.5)
        await asyncio.to_thread(gate.write_text, "go\n")
        assert await upstream.ready(20), upstream.reason


async def _pipe(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, url: str, token: str) -> None:
    """Hands each connection on, with a token."""
    host, port = url.removeprefix("http://").split(":")
    up_reader, up_writer = await asyncio.open_connection(host, int(port))

    async def copy(source: asyncio.StreamReader, sink: asyncio.StreamWriter, *, is_request: bool) -> None:
        while data := await source.read(65536):
            if is_request:
                data = data.replace(b"accept: ", b"authorization: Bearer " + token.encode() + b"\r\naccept: ", 1)
            sink.write(data)
        sink.close()

    await asyncio.gather(copy(reader, up_writer, is_request=True), copy(up_reader, writer, is_request=False))


def test_headers_that_repeat_arguments_are_made_and_checked() -> None:
    region = {"type": "string", "x-mcp-header": "Region"}
    count = {"type": "integer", "x-mcp-header": "Count"}
    schema = {
        "type": "object",
        "properties": {"region": region, "deep": {"type": "object", "properties": {"n": count}}},
    }
    declared = param_headers(schema)
    arguments = {"region": "Zürich", "deep": {"n": 42}}
    made = {name.lower().encode(): value.encode() for name, value in headers_for(declared, arguments).items()}

    check_headers(declared, arguments, made)
    check_headers(declared, arguments, {**made, b"mcp-param-count": b"42.0"})
    for wrong in (
        {**made, b"mcp-param-count": b"43"},
        {b"mcp-param-count": b"42"},
        {**made, b"mcp-param-region": b"x"},
    ):
        with pytest.raises(RpcError):
            check_headers(declared, arguments, wrong)
    with pytest.raises(RpcError):
        check_headers(declared, {}, made)
    assert param_headers({"properties": {"a": {"type": "number", "x-mcp-header": "A"}}}) == ()
    for text in ("plain", " edges ", "=?base64?eA==?=", "ü"):
        assert decode_value(encode_value(text)) == text
    assert decode_value("=?base64?###?=") is None
