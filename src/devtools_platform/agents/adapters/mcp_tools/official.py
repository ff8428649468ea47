"""A call by MCP's official client, which repeats arguments in headers as a tool's schema wants it."""

from collections.abc import Mapping
from typing import Any

import httpx2
import mcp_types as mcp
from mcp.client.client import Client
from mcp.client.streamable_http import streamable_http_client
from mcp.shared.exceptions import MCPError

from devtools_platform.agents.adapters.mcp_tools.types import Failure
from devtools_platform.core.tools import ToolResult


async def call(
    url: str,
    http: httpx2.AsyncClient,
    protocol: str,
    name: str,
    arguments: Mapping[str, Any],
    meta: Mapping[str, Any],
) -> ToolResult | Failure:
    """Raises `httpx2.HTTPError`, or a group of what failed, where nobody answers."""
    async with Client(streamable_http_client(url, http_client=http), mode=protocol) as client:
        await client.list_tools()  # it knows a tool's headers from its list
        try:
            result = await client.call_tool(name, dict(arguments), meta=dict(meta))  # pyright: ignore[reportArgumentType]
        except MCPError as error:  # caught in here: on its way out the client would wrap it in a group
            return Failure(error.error.code, error.error.message, error.error.data)
    text = "\n".join(part.text for part in result.content if isinstance(part, mcp.TextContent))
    return ToolResult(text, result.structured_content or {}, bool(result.is_error))
