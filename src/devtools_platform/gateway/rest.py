"""The gateway's REST side, for people and scripts: tools, trust, tokens, audit. Its calls go the way of all others.

It takes the stack's own token for everything, and a named token (`dev-tools token create`) for tools alone: `api`,
in front, has looked. Loaded when it is first asked for.
"""

import time
from collections.abc import Mapping
from dataclasses import asdict
from typing import Annotated, Any

import msgspec
from fastapi import FastAPI, Query, Request
from pydantic import BaseModel, ConfigDict, Field

from devtools_platform.core.errors import BadInput, DevToolsError, Forbidden, NotFound, ToolFailed, Unavailable
from devtools_platform.core.tools import Caller
from devtools_platform.gateway.audit import Audit
from devtools_platform.gateway.hub import Hub
from devtools_platform.gateway.identity import DEFAULT_DAYS, MAX_DAYS, Identity, describe
from devtools_platform.gateway.mcp.exchange import Call, Client, Silent
from devtools_platform.gateway.mcp.messages import INVALID_PARAMS, REFUSED, UNAVAILABLE, RpcError, decode, raw
from devtools_platform.gateway.offer import Entry
from devtools_platform.gateway.principal import OPERATOR, Principal
from devtools_platform.gateway.results import as_tool_result
from devtools_platform.gateway.search import SearchMode
from devtools_platform.gateway.service import Gateway
from devtools_platform.gateway.trust import Quarantined
from devtools_platform.kit.guard import HealthCheck
from devtools_platform.kit.http import create_app

MAX_OVERLAP_S = 30 * 86_400
"""Longest a token may count beside the one that replaced it."""


class ToolCall(BaseModel):
    """Arguments of a call, and optionally the key that names it for good."""

    model_config = ConfigDict(extra="forbid")

    arguments: dict[str, Any] = Field(default_factory=dict)
    key: str | None = Field(default=None, max_length=200)
    approval: str | None = Field(default=None, max_length=200)
    is_confirmed: bool = False
    """The operator has seen what it does and wants it, where a person must be asked."""


class NewToken(BaseModel):
    model_config = ConfigDict(extra="forbid")

    name: str
    scopes: list[str]
    agent: str | None = None
    task_id: str | None = None
    days: float = Field(default=DEFAULT_DAYS, gt=0, le=MAX_DAYS)
    per_minute: int | None = Field(default=None, ge=1, le=1_000_000)


class Approval(BaseModel):
    """Which tools to take out of quarantine, each with the hash that was looked at."""

    model_config = ConfigDict(extra="forbid")

    tools: dict[str, str]
    accept_findings: bool = False


def build_rest(
    gateway: Gateway, hub: Hub, search: SearchMode, identity: Identity, *, token: str, health: HealthCheck
) -> FastAPI:
    app = create_app("gateway", token=token, health=health)
    _add_tools(app, gateway, hub, search)
    _add_trust(app, hub)
    _add_tokens(app, identity)
    _add_audit(app, hub.audit)
    return app


def _principal(request: Request) -> Principal:
    return request.scope.get("devtools.principal", OPERATOR)


def _add_tools(app: FastAPI, gateway: Gateway, hub: Hub, search: SearchMode) -> None:
    @app.get("/servers", tags=["tools"])
    async def list_servers() -> list[dict[str, Any]]:
        own = [
            {"name": s.name, "kind": "own", "state": "ready", "tools": len(s.list_tools()), "quarantined": 0}
            for s in gateway.servers
        ]
        return own + [{"name": name, **hub.offer.facts_of(upstream)} for name, upstream in hub.offer.upstreams.items()]

    @app.get("/tools", tags=["tools"])
    async def list_tools(request: Request, agent: str | None = None) -> list[dict[str, Any]]:
        """With `agent`: what that agent may call outside tasks, as a managed one does."""
        principal = _principal(request)
        if agent is not None and principal is OPERATOR:
            principal = Principal("preview", agent, Caller("token:preview", agent), agent, ("tools:*",))
        return [_describe(entry, hub, principal) for entry in hub.offer.view(principal).entries.values()]

    @app.get("/tools/search", tags=["tools"])
    async def search_tools(
        request: Request,
        q: Annotated[str, Query(min_length=1, max_length=1000)],
        limit: Annotated[int, Query(ge=1, le=50)] = 5,
    ) -> list[dict[str, Any]]:
        principal = _principal(request)
        found, by = await search.find(hub, principal, q, limit)
        return [{**_describe(entry, hub, principal), "ranked_by": by} for entry in found]

    @app.post("/tools/{server}/{tool}", tags=["tools"])
    async def call_tool(server: str, tool: str, call: ToolCall, request: Request) -> dict[str, Any]:
        principal = _principal(request)
        try:
            entry = hub.offer.find(principal, f"{server}_{tool}")
            return await _call(hub, principal, entry, call)
        except RpcError as error:
            raise _as_ours(error) from None

    _ = (list_servers, list_tools, search_tools, call_tool)


async def _call(hub: Hub, principal: Principal, entry: Entry, call: ToolCall) -> dict[str, Any]:
    began = time.perf_counter()
    if call.is_confirmed and principal is not OPERATOR:
        raise Forbidden("Only who holds the stack's own token can confirm a call.", hint="Leave out `is_confirmed`.")
    request = Call("tools/call", {"name": raw(entry.name), "arguments": raw(call.arguments)})
    exchange = Silent(Client(principal.id))
    answer = await hub.call(
        principal, entry, request, exchange, key=call.key, approval=call.approval, is_confirmed=call.is_confirmed
    )
    result = as_tool_result(answer)
    return {
        "text": result.text,
        "data": result.data,
        "is_error": result.is_error,
        "content": decode(answer).get("content", []),
        "duration_s": round(time.perf_counter() - began, 6),
    }


def _as_ours(error: RpcError) -> DevToolsError:
    data: Any = error.data
    if error.code == REFUSED:
        hint = str(data.get("hint", "")) if isinstance(data, dict) else ""  # pyright: ignore[reportUnknownMemberType, reportUnknownArgumentType]
        return Forbidden(error.message, hint=hint)
    if error.code == UNAVAILABLE:
        return Unavailable(error.message, hint="See `dev-tools tools doctor`.")
    if error.message.startswith("There is no tool"):
        return NotFound(error.message, hint="See `dev-tools tools list`.")
    if error.code == INVALID_PARAMS:
        return BadInput(error.message, hint="See the tool's input schema: `dev-tools tools list --json`.")
    return ToolFailed(error.message, hint="Read the message; the tool's server sent it.")


def _add_trust(app: FastAPI, hub: Hub) -> None:
    @app.get("/quarantine", tags=["trust"])
    async def list_quarantine(server: str | None = None) -> list[dict[str, Any]]:
        return [_held(name, q) for name, q in hub.offer.quarantine.items() if server in {None, q.server}]

    @app.post("/servers/{server}/approve", tags=["trust"])
    async def approve(server: str, approval: Approval) -> dict[str, Any]:
        approved = hub.offer.approve_tools(server, approval.tools, accept_findings=approval.accept_findings)
        return {"server": server, "approved": approved, "lock": str(hub.offer.lock.file)}

    _ = (list_quarantine, approve)


def _add_tokens(app: FastAPI, identity: Identity) -> None:
    @app.get("/tokens", tags=["tokens"])
    async def list_tokens() -> list[Mapping[str, object]]:
        return [describe(record) for record in identity.list_tokens()]

    @app.post("/tokens", tags=["tokens"], status_code=201)
    async def create_token(new: NewToken) -> dict[str, object]:
        record, token = await identity.create(
            new.name, scopes=new.scopes, agent=new.agent, task_id=new.task_id, days=new.days, per_minute=new.per_minute
        )
        return {**describe(record), "token": token}

    @app.post("/tokens/{id_}/rotate", tags=["tokens"])
    async def rotate_token(
        id_: str, overlap_s: Annotated[float, Query(ge=0, le=MAX_OVERLAP_S)] = 0
    ) -> dict[str, object]:
        """The old token counts for `overlap_s` more, so that whoever holds it can be told of the new one."""
        record, token = await identity.rotate(id_, overlap_s)
        return {**describe(record), "token": token}

    @app.delete("/tokens/{id_}", tags=["tokens"])
    async def revoke_token(id_: str) -> Mapping[str, object]:
        return describe(await identity.revoke(id_))

    _ = (list_tokens, create_token, rotate_token, revoke_token)


def _add_audit(app: FastAPI, audit: Audit) -> None:
    @app.get("/audit", tags=["audit"])
    async def list_audit(
        after: Annotated[int, Query(ge=0, le=2**53)] = 0, limit: Annotated[int, Query(ge=1, le=500)] = 100
    ) -> list[dict[str, Any]]:
        return [msgspec.structs.asdict(line) for line in await audit.store.read(after, limit)]

    @app.get("/audit/verification", tags=["audit"])
    async def verify_audit() -> dict[str, Any]:
        await audit.flush()
        return asdict(await audit.verify())

    _ = (list_audit, verify_audit)


def _describe(entry: Entry, hub: Hub, principal: Principal) -> dict[str, Any]:
    return {
        "name": entry.full,
        "server": entry.server,
        "description": entry.description,
        "is_read_only": entry.is_read_only,
        "decision": hub.decision(principal, entry),
        "input_schema": entry.schema,
    }


def _held(name: str, held: Quarantined) -> dict[str, Any]:
    return {
        "name": name,
        "server": held.server,
        "tool": held.tool,
        "reason": held.reason,
        "digest": held.digest,
        "description": held.description,
        "findings": [{"where": f.where, "what": f.what} for f in held.findings],
    }
