"""The gateway as agents reach it: MCP over streamable HTTP, with the official client."""

import ssl
from collections.abc import Mapping
from typing import Any

import httpx2
import mcp_types as mcp
from mcp.client.client import Client
from mcp.client.streamable_http import streamable_http_client
from mcp.shared.exceptions import MCPError

from devtools_platform.core.errors import Away
from devtools_platform.core.tools import Caller, Tool, ToolResult
from devtools_platform.kit.tokens import issue_run_token

IDEMPOTENCY_KEY = "dev-tools/idempotency-key"
APPROVAL = "dev-tools/approval"
PROTOCOL = "2026-07-28"
"""The stateless revision: no handshake, so a connection per call costs one request and nothing more."""


class GatewayClient:
    """Calls tools as whoever `caller` says; the token is made here and nowhere else leaves the process."""

    def __init__(self, url: str, secret: str, *, timeout_s: float) -> None:
        self._url = url
        self._secret = secret
        self._timeout_s = timeout_s
        self._tls = ssl.create_default_context()  # costs 25 ms of CPU: made once, not per call

    async def list_tools(self, caller: Caller) -> list[Tool]:
        try:
            async with self._connect(caller) as http, self._open(http) as client:
                listed = await client.list_tools()
        except (httpx2.HTTPError, ExceptionGroup) as error:
            raise Away(f"The gateway at {self._url} does not answer: {error}.") from None
        return [_from_mcp(tool) for tool in listed.tools]

    async def call(
        self, caller: Caller, name: str, arguments: Mapping[str, Any], key: str, approval: str | None = None
    ) -> ToolResult:
        try:
            async with self._connect(caller) as http, self._open(http) as client:
                return await _call(client, name, arguments, key, approval)
        except (httpx2.HTTPError, ExceptionGroup) as error:
            raise Away(f"The gateway at {self._url} does not answer: {error}.") from None

    def _connect(self, caller: Caller) -> httpx2.AsyncClient:
        headers = {"Authorization": f"Bearer {issue_run_token(self._secret, caller)}"}
        return httpx2.AsyncClient(headers=headers, timeout=self._timeout_s, verify=self._tls)

    def _open(self, http: httpx2.AsyncClient) -> Client:
        return Client(streamable_http_client(self._url, http_client=http), mode=PROTOCOL)


async def _call(client: Client, name: str, arguments: Mapping[str, Any], key: str, approval: str | None) -> ToolResult:
    meta: dict[str, Any] = {IDEMPOTENCY_KEY: key} if approval is None else {IDEMPOTENCY_KEY: key, APPROVAL: approval}
    try:
        return _from_result(await client.call_tool(name, dict(arguments), meta=meta))  # pyright: ignore[reportArgumentType]
    except MCPError as error:  # caught in here: on its way out the client would wrap it in a group
        facts: Any = error.error.data or {}
        if facts.get("code") == Away.code:
            raise Away(str(error)) from None
        return ToolResult(str(error), facts, is_error=True)


def _from_mcp(tool: mcp.Tool) -> Tool:
    is_read_only = bool(tool.annotations and tool.annotations.read_only_hint)
    return Tool(tool.name, tool.description or "", tool.input_schema, is_read_only)


def _from_result(result: mcp.CallToolResult) -> ToolResult:
    text = "\n".join(part.text for part in result.content if isinstance(part, mcp.TextContent))
    return ToolResult(text, result.structured_content or {}, bool(result.is_error))
