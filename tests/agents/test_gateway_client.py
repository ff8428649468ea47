"""How an agent's tool call travels: one request, whatever way its answer comes."""

import json
import socket
import sys
from collections.abc import AsyncIterator
from typing import Any

import pytest
from opentelemetry.sdk.trace import TracerProvider
from starlette.types import Receive, Scope, Send

from devtools_platform.agents.adapters.mcp_tools import GatewayClient
from devtools_platform.app.serving import Serving
from devtools_platform.core.errors import Away
from devtools_platform.core.tools import Caller, ToolResult
from devtools_platform.gateway.front.exchange import frame
from devtools_platform.gateway.mcp.headers import decode_value

ME = Caller("task1", "feature-dev")
RESULT = {"content": [{"type": "text", "text": "done"}], "structuredContent": {"n": 1}, "resultType": "complete"}
LISTED = {
    "tools": [
        {
            "name": "shop_look",
            "inputSchema": {"type": "object", "properties": {"by": {"type": "string", "x-mcp-header": "by"}}},
        }
    ],
    "resultType": "complete",
    "ttlMs": 0,
    "cacheScope": "private",
}


class Door:
    """A gateway of one answer, which keeps what it is asked."""

    def __init__(self) -> None:
        self.asked: list[tuple[dict[bytes, bytes], dict[str, Any]]] = []
        self.kind = b"application/json"
        self.status = 200
        self.wants_header = False

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            while (message := await receive())["type"] != "lifespan.shutdown":
                await send({"type": message["type"] + ".complete"})
            await send({"type": "lifespan.shutdown.complete"})
            return
        headers = dict(scope["headers"])
        request = json.loads((await receive())["body"])
        self.asked.append((headers, request))
        body = self.answer(headers, request)
        head = [(b"content-type", self.kind), (b"content-length", b"%d" % len(body))]
        await send({"type": "http.response.start", "status": self.status, "headers": head})
        await send({"type": "http.response.body", "body": body})

    def answer(self, headers: dict[bytes, bytes], request: dict[str, Any]) -> bytes:
        if self.status != 200:
            return b"<html>Bad gateway</html>"
        given: dict[str, Any] = {"result": LISTED if request["method"] == "tools/list" else RESULT}
        if self.wants_header and request["method"] == "tools/call" and b"mcp-param-by" not in headers:
            given = {"error": {"code": -32020, "message": "The header Mcp-Param-by is missing."}}
        message = json.dumps({"jsonrpc": "2.0", "id": request["id"], **given}).encode()
        if self.kind == b"application/json":
            return message
        told = b'{"jsonrpc":"2.0","method":"notifications/message","params":{"level":"info","data":"on it"}}'
        return frame(told) + b": ping\r\n\r\n" + frame(message)


@pytest.fixture
def door() -> Door:
    return Door()


@pytest.fixture
async def client(door: Door) -> AsyncIterator[GatewayClient]:
    serving = Serving()
    sock = socket.create_server(("127.0.0.1", 0))
    sock.setblocking(False)
    await serving.serve(door, sock)
    yield GatewayClient(f"http://127.0.0.1:{sock.getsockname()[1]}/mcp", "a secret of some length", timeout_s=10)
    await serving.stop()
    sock.close()


async def test_a_call_is_one_request_with_its_key_and_its_trace(client: GatewayClient, door: Door) -> None:
    with TracerProvider().get_tracer("test").start_as_current_span("step") as span:
        result = await client.call(ME, "shop_look", {"by": "ä"}, "key-1", "a1")

    assert result == ToolResult("done", {"n": 1})
    ((headers, request),) = door.asked
    meta = request["params"]["_meta"]
    assert (meta["dev-tools/idempotency-key"], meta["dev-tools/approval"]) == ("key-1", "a1")
    assert f"{span.get_span_context().span_id:016x}" in meta["traceparent"]
    assert (request["params"]["name"], request["params"]["arguments"]) == ("shop_look", {"by": "ä"})
    assert headers[b"authorization"].startswith(b"Bearer ")


async def test_tools_are_listed_by_one_request(client: GatewayClient, door: Door) -> None:
    (tool,) = await client.list_tools(ME)
    assert (tool.name, tool.input_schema["type"], tool.is_read_only) == ("shop_look", "object", False)
    assert [request["method"] for _, request in door.asked] == ["tools/list"]


async def test_a_list_that_is_none_is_a_gateway_that_is_away(client: GatewayClient, door: Door) -> None:
    door.status = 502
    with pytest.raises(Away, match="502"):
        await client.list_tools(ME)


@pytest.mark.parametrize("listed", [{"tools": "words"}, {"tools": [{"name": 1}]}, {}])
async def test_tools_that_are_none_are_a_gateway_that_is_away(
    client: GatewayClient, monkeypatch: pytest.MonkeyPatch, listed: dict[str, Any]
) -> None:
    monkeypatch.setattr(sys.modules[__name__], "LISTED", listed)
    with pytest.raises(Away):
        await client.list_tools(ME)


async def test_a_name_that_fits_no_header_travels_coded(client: GatewayClient, door: Door) -> None:
    await client.call(ME, "täglich prüfen", {}, "key-1")
    ((headers, _),) = door.asked
    assert decode_value(headers[b"mcp-name"].decode()) == "täglich prüfen"


async def test_half_a_character_and_a_large_number_of_a_model_travel(client: GatewayClient, door: Door) -> None:
    await client.call(ME, "shop_look", {"by": "\ud83d", "n": 10**30}, "key-1")
    ((_, request),) = door.asked
    assert request["params"]["arguments"] == {"by": "\ud83d", "n": 10**30}


async def test_the_answer_of_a_stream_is_its_last_message(client: GatewayClient, door: Door) -> None:
    door.kind = b"text/event-stream"
    assert (await client.call(ME, "shop_look", {}, "key-1")).text == "done"


async def test_arguments_are_repeated_in_headers_where_the_server_wants_them(client: GatewayClient, door: Door) -> None:
    door.wants_header = True
    assert (await client.call(ME, "shop_look", {"by": "name"}, "key-1")).text == "done"
    assert [h.get(b"mcp-param-by") for h, r in door.asked if r["method"] == "tools/call"][-1] == b"name"


async def test_an_answer_that_is_none_is_an_error_for_the_agent(client: GatewayClient, door: Door) -> None:
    door.status = 502
    result = await client.call(ME, "shop_look", {}, "key-1")
    assert result.is_error
    assert "502" in result.text


async def test_a_result_that_is_none_is_an_error_for_the_agent(
    client: GatewayClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(RESULT, "content", "words")
    result = await client.call(ME, "shop_look", {}, "key-1")
    assert (result.is_error, result.data) == (True, {})


async def test_a_gateway_that_is_not_there_is_away() -> None:
    with socket.create_server(("127.0.0.1", 0)) as sock:
        port = sock.getsockname()[1]
    with pytest.raises(Away):
        await GatewayClient(f"http://127.0.0.1:{port}/mcp", "a secret of some length", timeout_s=5).call(
            ME, "shop_look", {}, "key-1"
        )
