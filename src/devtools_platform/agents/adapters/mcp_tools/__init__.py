"""The gateway as agents reach it: MCP over streamable HTTP.

A listing and a call are each the one request that the stateless revision makes of it, sent by ourselves: the official
client opens a connection, streams and tasks for each, lists every tool after each call to look for a schema of its
answer (`bench/agents.py`: a fifth of a step's CPU), and takes a second of CPU to import. Where a server wants
arguments repeated in headers, the official client makes the call (`official`).
"""

import base64
import json
import re
from collections.abc import Mapping
from functools import cached_property
from typing import Any

import httpx2
import msgspec
from opentelemetry import propagate

from devtools_platform import __version__
from devtools_platform.agents.adapters.mcp_tools.types import Failure
from devtools_platform.core.errors import Away
from devtools_platform.core.tools import Caller, Tool, ToolResult
from devtools_platform.kit.tls import tls_context
from devtools_platform.kit.tokens import issue_run_token

IDEMPOTENCY_KEY = "dev-tools/idempotency-key"
APPROVAL = "dev-tools/approval"
PROTOCOL = "2026-07-28"
"""The stateless revision: no handshake, so a connection per call costs one request and nothing more."""
INTERNAL_ERROR, HEADER_MISMATCH = -32603, -32020
_META = "io.modelcontextprotocol/"
_ID = 1
"""Of every request: each has an exchange of its own."""
_CLIENT = {"name": "dev-tools", "version": __version__}
_PLAIN = re.compile(r"[\x21-\x7e]*")


class _Answer(msgspec.Struct):
    result: msgspec.Raw | msgspec.UnsetType = msgspec.UNSET
    error: Failure | msgspec.UnsetType = msgspec.UNSET


class _Content(msgspec.Struct):
    type: str
    text: str = ""


class _Called(msgspec.Struct, rename="camel"):
    content: list[_Content]
    structured_content: dict[str, Any] | None = None
    is_error: bool | None = None


class _Hints(msgspec.Struct, rename="camel"):
    read_only_hint: bool | None = None


class _Listed(msgspec.Struct, rename="camel"):
    name: str
    input_schema: dict[str, Any]
    description: str | None = None
    annotations: _Hints | None = None


class _Page(msgspec.Struct):
    tools: list[_Listed]


class GatewayClient:
    """Calls tools as whoever `caller` says; the token is made here and nowhere else leaves the process."""

    def __init__(self, url: str, secret: str, *, timeout_s: float) -> None:
        self._url = url
        self._secret = secret
        self._timeout_s = timeout_s

    async def list_tools(self, caller: Caller) -> list[Tool]:
        """Every tool the caller may use: the gateway has them in one page. Raises `Away` where it does not tell."""
        answer = await self._send(caller, "tools/list", {}, {})
        if isinstance(answer, Failure):
            raise self._away(answer.message)
        try:
            return [_to_tool(tool) for tool in msgspec.json.decode(answer, type=_Page).tools]
        except msgspec.DecodeError as error:
            raise self._away(str(error)) from None

    async def call(
        self, caller: Caller, name: str, arguments: Mapping[str, Any], key: str, approval: str | None = None
    ) -> ToolResult:
        """What a tool answers, a refusal included. Raises `Away` where the gateway, or what it needs, is away."""
        meta = {IDEMPOTENCY_KEY: key} if approval is None else {IDEMPOTENCY_KEY: key, APPROVAL: approval}
        answer = await self._send(caller, "tools/call", {"name": name, "arguments": dict(arguments)}, meta)
        if isinstance(answer, Failure):
            if answer.code == HEADER_MISMATCH:
                return await self._call_with_headers(caller, name, arguments, meta)
            return _to_refusal(answer)
        try:
            result = msgspec.json.decode(answer, type=_Called)
        except msgspec.DecodeError:
            return ToolResult("The gateway's answer to the call is no result of a tool.", is_error=True)
        text = "\n".join(part.text for part in result.content if part.type == "text")
        return ToolResult(text, result.structured_content or {}, bool(result.is_error))

    async def _call_with_headers(
        self, caller: Caller, name: str, arguments: Mapping[str, Any], meta: Mapping[str, Any]
    ) -> ToolResult:
        # Here, since it takes a second to import and is rarely needed.
        from devtools_platform.agents.adapters.mcp_tools.official import call

        try:
            async with httpx2.AsyncClient(
                verify=tls_context(), headers=self._identity(caller), timeout=self._timeout_s
            ) as http:
                answer = await call(self._url, http, PROTOCOL, name, arguments, meta)
        except (httpx2.HTTPError, ExceptionGroup) as error:
            raise self._away(str(error)) from None
        return _to_refusal(answer) if isinstance(answer, Failure) else answer

    async def _send(
        self, caller: Caller, method: str, params: Mapping[str, Any], meta: Mapping[str, Any]
    ) -> msgspec.Raw | Failure:
        headers = {
            **self._identity(caller),
            "accept": "application/json, text/event-stream",
            "content-type": "application/json",
            "mcp-protocol-version": PROTOCOL,
            "mcp-method": method,
        }
        if "name" in params:
            headers["mcp-name"] = _encode_header(params["name"])
        body = json.dumps(_request(method, params, meta)).encode()  # half a character too, as a model may write it
        try:
            async with self._http.stream("POST", self._url, content=body, headers=headers) as response:
                # A stream when the call takes long or has something to say on the way: its answer comes last.
                if response.headers.get("content-type", "").startswith("text/event-stream"):
                    said = [event.data async for event in httpx2.EventSource(response) if event.data]
                    return _read(said[-1] if said else "", response.status_code)
                return _read(await response.aread(), response.status_code)
        except httpx2.HTTPError as error:
            raise self._away(str(error)) from None

    @cached_property
    def _http(self) -> httpx2.AsyncClient:
        # No connection is kept: calls come from more than one event loop, and an idle one may be closing.
        limits = httpx2.Limits(max_connections=None, max_keepalive_connections=0)
        return httpx2.AsyncClient(verify=tls_context(), timeout=self._timeout_s, limits=limits)

    def _identity(self, caller: Caller) -> dict[str, str]:
        return {"authorization": f"Bearer {issue_run_token(self._secret, caller)}"}

    def _away(self, why: str) -> Away:
        return Away(f"The gateway at {self._url} does not answer: {why}.")


def _request(method: str, params: Mapping[str, Any], meta: Mapping[str, Any]) -> dict[str, Any]:
    trace: dict[str, str] = {}
    propagate.inject(trace)
    envelope = {
        f"{_META}protocolVersion": PROTOCOL,
        f"{_META}clientInfo": _CLIENT,
        f"{_META}clientCapabilities": {},
    }
    return {
        "jsonrpc": "2.0",
        "id": _ID,
        "method": method,
        "params": {**params, "_meta": {**envelope, **trace, **meta}},
    }


def _encode_header(value: str) -> str:
    """As the revision carries in a header what does not fit one."""
    if _PLAIN.fullmatch(value) and not value.startswith("=?"):
        return value
    return f"=?base64?{base64.b64encode(value.encode()).decode()}?="


def _read(body: bytes | str, status: int) -> msgspec.Raw | Failure:
    try:
        answer = msgspec.json.decode(body, type=_Answer)
    except msgspec.DecodeError:  # refused before it was read, or answered by somebody in between
        answer = _Answer()
    if isinstance(answer.error, Failure):
        return answer.error
    if isinstance(answer.result, msgspec.Raw):
        return answer.result
    return Failure(INTERNAL_ERROR, f"The gateway answered a call with status {status} and no result.")


def _to_refusal(error: Failure) -> ToolResult:
    """Raises `Away` where the error says that the gateway is."""
    facts: Any = error.data or {}
    if facts.get("code") == Away.code:
        raise Away(error.message)
    return ToolResult(error.message, facts, is_error=True)


def _to_tool(tool: _Listed) -> Tool:
    is_read_only = bool(tool.annotations and tool.annotations.read_only_hint)
    return Tool(tool.name, tool.description or "", tool.input_schema, is_read_only)
