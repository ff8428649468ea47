"""The gateway as agents reach it: MCP over streamable HTTP.

Tools are listed with the official client, once a run. A call is the one request that the stateless revision makes of
it, sent by itself: the client opens a connection, streams and tasks for each, and lists every tool after each call to
look for a schema of its answer (`bench/agents.py`: a fifth of a step's CPU). Where a server wants arguments repeated
in headers, which takes its list, the official client makes the call.
"""

from collections.abc import Mapping
from functools import cached_property
from typing import Any

import httpx2
import mcp_types as mcp
from mcp.client.client import Client
from mcp.client.streamable_http import streamable_http_client
from mcp.shared.exceptions import MCPError
from mcp.shared.inbound import (
    MCP_METHOD_HEADER,
    MCP_NAME_HEADER,
    MCP_PROTOCOL_VERSION_HEADER,
    encode_header_value,
)
from opentelemetry import propagate
from pydantic import TypeAdapter, ValidationError
from pydantic_core import to_json

from devtools_platform import __version__
from devtools_platform.core.errors import Away
from devtools_platform.core.tools import Caller, Tool, ToolResult
from devtools_platform.kit.tls import tls_context
from devtools_platform.kit.tokens import issue_run_token

IDEMPOTENCY_KEY = "dev-tools/idempotency-key"
APPROVAL = "dev-tools/approval"
PROTOCOL = "2026-07-28"
"""The stateless revision: no handshake, so a connection per call costs one request and nothing more."""
_ID = 1
"""Of every request: each has an exchange of its own."""
_CLIENT = {"name": "dev-tools", "version": __version__}
_MESSAGE: TypeAdapter[mcp.JSONRPCMessage] = TypeAdapter(mcp.JSONRPCMessage)


class GatewayClient:
    """Calls tools as whoever `caller` says; the token is made here and nowhere else leaves the process."""

    def __init__(self, url: str, secret: str, *, timeout_s: float) -> None:
        self._url = url
        self._secret = secret
        self._timeout_s = timeout_s

    async def list_tools(self, caller: Caller) -> list[Tool]:
        try:
            async with self._connect(caller) as http, self._open(http) as client:
                listed = await client.list_tools()
        except (httpx2.HTTPError, ExceptionGroup) as error:
            raise self._away(error) from None
        return [_from_mcp(tool) for tool in listed.tools]

    async def call(
        self, caller: Caller, name: str, arguments: Mapping[str, Any], key: str, approval: str | None = None
    ) -> ToolResult:
        meta = {IDEMPOTENCY_KEY: key} if approval is None else {IDEMPOTENCY_KEY: key, APPROVAL: approval}
        try:
            answer = await self._send(caller, name, arguments, meta)
            if isinstance(answer, mcp.JSONRPCError) and answer.error.code == mcp.HEADER_MISMATCH:
                async with self._connect(caller) as http, self._open(http) as client:
                    return await _call(client, name, arguments, meta)
        except (httpx2.HTTPError, ExceptionGroup) as error:
            raise self._away(error) from None
        if isinstance(answer, mcp.JSONRPCError):
            return _from_error(answer.error)
        try:
            return _from_result(mcp.CallToolResult.model_validate(answer.result, by_name=False))
        except ValidationError:
            return ToolResult("The gateway's answer to the call is no result of a tool.", is_error=True)

    async def _send(
        self, caller: Caller, name: str, arguments: Mapping[str, Any], meta: Mapping[str, Any]
    ) -> mcp.JSONRPCResponse | mcp.JSONRPCError:
        headers = {
            **self._identity(caller),
            "accept": "application/json, text/event-stream",
            "content-type": "application/json",
            MCP_PROTOCOL_VERSION_HEADER: PROTOCOL,
            MCP_METHOD_HEADER: "tools/call",
            MCP_NAME_HEADER: encode_header_value(name),
        }
        body = to_json(_request(name, arguments, meta))
        async with self._http.stream("POST", self._url, content=body, headers=headers) as response:
            # A stream when the call takes long or has something to say on the way: its answer comes last.
            if response.headers.get("content-type", "").startswith("text/event-stream"):
                said = [event.data async for event in httpx2.EventSource(response) if event.data]
                return _read(said[-1] if said else "", response.status_code)
            return _read(await response.aread(), response.status_code)

    @cached_property
    def _http(self) -> httpx2.AsyncClient:
        # No connection is kept: calls come from more than one event loop, and an idle one may be closing.
        limits = httpx2.Limits(max_connections=None, max_keepalive_connections=0)
        return httpx2.AsyncClient(verify=tls_context(), timeout=self._timeout_s, limits=limits)

    def _connect(self, caller: Caller) -> httpx2.AsyncClient:
        return httpx2.AsyncClient(verify=tls_context(), headers=self._identity(caller), timeout=self._timeout_s)

    def _identity(self, caller: Caller) -> dict[str, str]:
        return {"authorization": f"Bearer {issue_run_token(self._secret, caller)}"}

    def _open(self, http: httpx2.AsyncClient) -> Client:
        return Client(streamable_http_client(self._url, http_client=http), mode=PROTOCOL)

    def _away(self, error: Exception) -> Away:
        return Away(f"The gateway at {self._url} does not answer: {error}.")


def _request(name: str, arguments: Mapping[str, Any], meta: Mapping[str, Any]) -> dict[str, Any]:
    trace: dict[str, str] = {}
    propagate.inject(trace)
    envelope = {
        mcp.PROTOCOL_VERSION_META_KEY: PROTOCOL,
        mcp.CLIENT_INFO_META_KEY: _CLIENT,
        mcp.CLIENT_CAPABILITIES_META_KEY: {},
    }
    params = {"name": name, "arguments": dict(arguments), "_meta": {**envelope, **trace, **meta}}
    return {"jsonrpc": "2.0", "id": _ID, "method": "tools/call", "params": params}


def _read(body: bytes | str, status: int) -> mcp.JSONRPCResponse | mcp.JSONRPCError:
    try:
        message = _MESSAGE.validate_json(body, by_name=False)
    except ValidationError:  # refused before it was read, or answered by somebody in between
        message = None
    if isinstance(message, (mcp.JSONRPCResponse, mcp.JSONRPCError)):
        return message
    said = f"The gateway answered a call with status {status} and no result."
    return mcp.JSONRPCError(jsonrpc="2.0", id=_ID, error=mcp.ErrorData(code=mcp.INTERNAL_ERROR, message=said))


async def _call(client: Client, name: str, arguments: Mapping[str, Any], meta: Mapping[str, Any]) -> ToolResult:
    try:
        return _from_result(await client.call_tool(name, dict(arguments), meta=dict(meta)))  # pyright: ignore[reportArgumentType]
    except MCPError as error:  # caught in here: on its way out the client would wrap it in a group
        return _from_error(error.error)


def _from_error(error: mcp.ErrorData) -> ToolResult:
    """Raises `Away` where the error says that the gateway is."""
    facts: Any = error.data or {}
    if facts.get("code") == Away.code:
        raise Away(error.message)
    return ToolResult(error.message, facts, is_error=True)


def _from_mcp(tool: mcp.Tool) -> Tool:
    is_read_only = bool(tool.annotations and tool.annotations.read_only_hint)
    return Tool(tool.name, tool.description or "", tool.input_schema, is_read_only)


def _from_result(result: mcp.CallToolResult) -> ToolResult:
    text = "\n".join(part.text for part in result.content if isinstance(part, mcp.TextContent))
    return ToolResult(text, result.structured_content or {}, bool(result.is_error))
