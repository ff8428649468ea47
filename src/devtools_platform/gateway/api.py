"""The gateway's front door (:8000): MCP at `/mcp` for agents, a little REST for people and scripts.

`/mcp` is spoken by the official SDK in both of its eras. A caller is known by its run token and by nothing it says.
"""

import uuid
from collections.abc import AsyncGenerator, Mapping
from contextlib import asynccontextmanager
from importlib import resources
from typing import Any

import mcp_types as mcp
import yaml
from fastapi import FastAPI
from mcp.server.context import ServerRequestContext
from mcp.server.lowlevel import Server
from mcp.shared.exceptions import MCPError
from starlette.types import ASGIApp, Receive, Scope, Send

from devtools_platform import __version__
from devtools_platform.core.errors import DevToolsError, Unauthorized
from devtools_platform.core.tools import Caller, Tool, ToolResult
from devtools_platform.gateway.service import Gateway, Route
from devtools_platform.gateway.types import Policy
from devtools_platform.kit.http import create_app, error_response
from devtools_platform.kit.tokens import verify_run_token

APPROVAL = "dev-tools/approval"
"""The `_meta` field with the id of the approval by which a call may run that a person had to be asked about."""
IDEMPOTENCY_KEY = "dev-tools/idempotency-key"
"""The `_meta` field that names a call for good; without it every request is a call of its own."""


def load_policy() -> Policy:
    """The policy shipped with the gateway."""
    text = resources.files("devtools_platform.gateway").joinpath("policy.yaml").read_text()
    return Policy.model_validate(yaml.safe_load(text))


def build_api(gateway: Gateway, *, token: str, secret: str) -> FastAPI:
    """`token` opens the REST side; `secret` verifies the run tokens that open `/mcp`."""
    server = _mcp_server(gateway)
    mcp_app = server.streamable_http_app(json_response=True, stateless_http=True)

    async def health() -> dict[str, Any]:
        return {"servers": len(gateway.servers), "tools": len(gateway.list_tools())}

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncGenerator[None]:
        async with server.session_manager.run():
            yield

    app = create_app("gateway", token=token, health=health, open_paths=frozenset({"/mcp"}), lifespan=lifespan)

    @app.get("/servers", tags=["tools"])
    async def list_servers() -> list[dict[str, Any]]:
        return [{"name": s.name, "tools": len(s.list_tools())} for s in gateway.servers]

    @app.get("/tools", tags=["tools"])
    async def list_tools() -> list[dict[str, Any]]:
        return [_describe(name, route) for name, route in gateway.list_tools().items()]

    _ = (list_servers, list_tools)
    app.mount("/", RunTokens(mcp_app, secret))
    return app


def _describe(name: str, route: Route) -> dict[str, Any]:
    tool = route.tool
    facts = {"description": tool.description, "is_read_only": tool.is_read_only}
    return {"name": name, "server": route.server.name, **facts, "input_schema": tool.input_schema}


class RunTokens:
    """Raw ASGI: only a caller with a valid run token gets through; who it is goes into the scope."""

    def __init__(self, app: ASGIApp, secret: str) -> None:
        self.app = app
        self.secret = secret

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["path"] != "/mcp":
            await self.app(scope, receive, send)
            return
        try:
            caller = verify_run_token(self.secret, _bearer(scope))
        except Unauthorized as error:
            response = error_response(error)
            response.headers["WWW-Authenticate"] = "Bearer"
            await response(scope, receive, send)
            return
        await self.app({**scope, "devtools.caller": caller}, receive, send)


def _bearer(scope: Scope) -> str:
    headers: Mapping[bytes, bytes] = dict(scope["headers"])
    kind, _, value = headers.get(b"authorization", b"").decode("latin-1").partition(" ")
    if kind.lower() != "bearer" or not value:
        raise Unauthorized("`/mcp` needs `Authorization: Bearer RUN_TOKEN`.")
    return value.strip()


def _mcp_server(gateway: Gateway) -> Server[Any]:
    async def on_list_tools(
        context: ServerRequestContext[Any], _: mcp.PaginatedRequestParams | None
    ) -> mcp.ListToolsResult:
        routes = gateway.list_tools(_caller(context))
        return mcp.ListToolsResult(tools=[_to_mcp(name, route.tool) for name, route in routes.items()])

    async def on_call_tool(context: ServerRequestContext[Any], params: mcp.CallToolRequestParams) -> mcp.CallToolResult:
        meta: Mapping[str, Any] = context.meta or {}
        key = str(meta.get(IDEMPOTENCY_KEY) or uuid.uuid4())
        try:
            approval = meta.get(APPROVAL)
            granted = None if approval is None else str(approval)
            result = await gateway.call(_caller(context), params.name, params.arguments or {}, key, granted)
        except DevToolsError as error:
            raise MCPError(code=mcp.INVALID_PARAMS, message=str(error), data=error.to_dict()) from None
        return _to_mcp_result(result)

    return Server("dev-tools", version=__version__, on_list_tools=on_list_tools, on_call_tool=on_call_tool)


def _caller(context: ServerRequestContext[Any]) -> Caller:
    return context.request.scope["devtools.caller"]  # pyright: ignore[reportOptionalMemberAccess]


def _to_mcp(name: str, tool: Tool) -> mcp.Tool:
    hints = mcp.ToolAnnotations(read_only_hint=tool.is_read_only)
    schema = dict(tool.input_schema)
    return mcp.Tool(name=name, description=tool.description, input_schema=schema, annotations=hints)


def _to_mcp_result(result: ToolResult) -> mcp.CallToolResult:
    return mcp.CallToolResult(
        content=[mcp.TextContent(type="text", text=result.text)],
        structured_content=dict(result.data),
        is_error=result.is_error,
    )
