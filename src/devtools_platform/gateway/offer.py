"""What the gateway offers: every server's tools, pinned and named, and which of them each caller sees.

Made anew when a server's tools change, and once for each policy; a call only looks things up here.
"""

import gc
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from prometheus_client import Counter, Gauge

from devtools_platform.core.agents import AgentName
from devtools_platform.core.approvals import Risk
from devtools_platform.core.errors import Conflict, NotFound
from devtools_platform.core.interfaces import ToolServer
from devtools_platform.core.tools import Tool
from devtools_platform.gateway.mcp.headers import ParamHeader, param_headers
from devtools_platform.gateway.mcp.messages import (
    INVALID_PARAMS,
    METHOD_NOT_FOUND,
    Params,
    RpcError,
    as_object,
    decode_or_none,
    encode,
    raw,
    read_object,
    read_text,
    refusal,
)
from devtools_platform.gateway.principal import Principal, missing_scope
from devtools_platform.gateway.service import TOOL_CALLS, TOOL_TIME, Gateway, Route
from devtools_platform.gateway.trust import TOOL_NAME, Finding, Quarantined, ToolLock, digest, scan
from devtools_platform.gateway.upstreams.http_link import ModernHttp
from devtools_platform.gateway.upstreams.types import ToolRule, Verdict
from devtools_platform.gateway.upstreams.upstream import Upstream

UPSTREAM_UP = Gauge("devtools_mcp_server_up", "Whether an MCP server behind the gateway answers", ["server"])
RESTARTS = Counter("devtools_mcp_server_restarts_total", "Connections made anew", ["server"])
QUARANTINE = Gauge("devtools_mcp_tools_quarantined", "Tools in quarantine", ["server"])


@dataclass(frozen=True)
class Entry:
    """One tool as the gateway offers it."""

    full: str
    name: str
    server: str
    upstream: Upstream | None
    """None for the part's own tool servers."""
    route: Route
    merged: bytes
    """Its definition under its full name."""
    own: bytes
    """Its definition as its server gave it."""
    description: str
    is_read_only: bool
    verdict: Verdict
    rules: tuple[ToolRule, ...] = ()
    param_headers: tuple[ParamHeader, ...] = ()
    schema: Any = None
    ok: Any = None
    bad: Any = None
    time: Any = None


@dataclass(frozen=True)
class View:
    """What one policy shows: made once, served as bytes."""

    entries: Mapping[str, Entry]
    tools: bytes
    """The JSON array of all tools under their full names."""
    by_server: Mapping[str, bytes]
    """Server -> the JSON array of its tools under their own names."""
    asked: frozenset[str]
    """Tools of others that a rule of the stack has a person asked about, whatever the catalogue allows."""


class Offer:
    """The catalogue as it stands."""

    def __init__(
        self, gateway: Gateway, upstreams: Sequence[Upstream], servers: Mapping[str, ToolServer], lock: ToolLock
    ) -> None:
        self.gateway = gateway
        self.upstreams = {upstream.name: upstream for upstream in upstreams}
        self.lock = lock
        self.version = 0
        """Grows with every change of the catalogue."""
        self.listeners: set[Callable[[], None]] = set()
        """Called when the tools have changed."""
        self.quarantine: dict[str, Quarantined] = {}
        self._servers = servers
        self._entries: dict[str, Entry] = {}
        self._views: dict[Any, View] = {}
        for upstream in upstreams:
            upstream.on_change = self._on_change
        self._rebuild()

    def _on_change(self, upstream: Upstream) -> None:
        UPSTREAM_UP.labels(upstream.name).set(upstream.state == "ready")
        if upstream.state == "ready":
            self.refresh()
        elif upstream.restarts:
            RESTARTS.labels(upstream.name).inc()

    def refresh(self) -> None:
        """Take over what the servers list now."""
        before = {name: entry.merged for name, entry in self._entries.items()}
        self._rebuild()
        if len(self._entries) > len(before):
            _settle_memory()
        if before != {name: entry.merged for name, entry in self._entries.items()}:
            for listener in tuple(self.listeners):
                listener()

    def _rebuild(self) -> None:
        entries: dict[str, Entry] = {}
        for full, route in self.gateway.list_tools().items():
            entries[full] = _own_entry(full, route)
        self.quarantine = {}
        for upstream in self.upstreams.values():
            held = 0
            for definition in upstream.tools:
                entry = self._admit(upstream, definition, entries)
                if entry is not None:
                    entries[entry.full] = entry
                else:
                    held += 1
            QUARANTINE.labels(upstream.name).set(held)
            if isinstance(upstream.link, ModernHttp):
                mine = [e for e in entries.values() if e.upstream is upstream and e.param_headers]
                upstream.link.declare({e.name: e.param_headers for e in mine})
        self._entries = entries
        self._views = {}
        self.version += 1

    def _admit(self, upstream: Upstream, definition: Params, taken: Mapping[str, Entry]) -> Entry | None:
        """The tool as an entry, or None: it is in quarantine then."""
        name = read_text(definition.get("name")) or ""
        full = f"{upstream.name}_{name}"
        hash_ = digest(definition)
        reason = self.lock.verdict(upstream.name, upstream.spec, name, hash_)
        description = read_text(definition.get("description")) or ""
        if not TOOL_NAME.fullmatch(name):
            reason, full = "Its name is not one a tool may have.", f"{upstream.name}_{name[:100]!r}"
        elif full in taken:
            reason = f"Another tool is named {full!r} already."
        schema: Any = decode_or_none(definition.get("inputSchema"))
        if not isinstance(schema, dict):
            reason = "Its input schema is no object."
        if reason is not None:
            findings: Sequence[Finding] = scan(definition)
            self.quarantine[full] = Quarantined(upstream.name, name, reason, hash_, description, findings)
            return None
        hints = read_object(definition.get("annotations"))
        is_read_only = decode_or_none(hints.get("readOnlyHint")) is True
        spec = upstream.spec
        headers = param_headers(schema)
        verdict = spec.reads if is_read_only else spec.writes
        risk: Risk = "low" if verdict == "allow" else "high"
        return Entry(
            full,
            name,
            upstream.name,
            upstream,
            Route(self._servers[upstream.name], Tool(name, description, as_object(schema), is_read_only, risk=risk)),
            encode({**definition, "name": raw(full)}),
            encode(definition),
            description,
            is_read_only,
            verdict,
            tuple(rule for rule in spec.rules if rule.covers(name)),
            headers,
            schema,
            TOOL_CALLS.labels(upstream.name, full, "", "ok"),
            TOOL_CALLS.labels(upstream.name, full, "", "error"),
            TOOL_TIME.labels(upstream.name, full),
        )

    def _agent_sees(self, agent: AgentName, entry: Entry) -> bool:
        if entry.upstream is not None and agent in entry.upstream.spec.agents:
            return True
        return entry.full in self.gateway.policy.tools_of(agent)

    def _sees(self, principal: Principal, entry: Entry) -> bool:
        if not principal.permits(entry.full):
            return False
        if principal.agent is None:
            return entry.upstream is not None or entry.route.tool.is_for_people or principal.sees_all
        if not principal.caller.has_task and entry.upstream is None and not entry.route.tool.is_for_people:
            return False  # an agent without a task, such as a managed one, has no workspace it could work in
        return self._agent_sees(principal.agent, entry)

    def view(self, principal: Principal) -> View:
        """What a caller may see, ready to be sent."""
        found = self._views.get(principal.policy_key)
        if found is None:
            if len(self._views) > 1000:  # noqa: PLR2004 - more policies than anybody has
                self._views.clear()
            entries = {full: entry for full, entry in self._entries.items() if self._sees(principal, entry)}
            servers = {entry.server for entry in entries.values()}
            by_server = {s: _array([e.own for e in entries.values() if e.server == s]) for s in servers}
            agent = principal.agent or "person"
            asked = {full for full, e in entries.items() if self.gateway.find_rule(agent, full, e.route.tool)}
            found = View(entries, _array([e.merged for e in entries.values()]), by_server, frozenset(asked))
            self._views[principal.policy_key] = found
        return found

    def entries(self) -> Mapping[str, Entry]:
        return self._entries

    def facts_of(self, upstream: Upstream) -> dict[str, Any]:
        """A server's state, for people."""
        facts = upstream.link.facts if upstream.link is not None else None
        return {
            "kind": "command" if upstream.spec.command else "openapi" if upstream.spec.openapi else "url",
            "state": upstream.state,
            "reason": upstream.reason or None,
            "protocol": facts.version if facts else None,
            "release": facts.release if facts else None,
            "tools": sum(entry.upstream is upstream for entry in self._entries.values()),
            "quarantined": sum(held.server == upstream.name for held in self.quarantine.values()),
            "restarts": upstream.restarts,
        }

    def why_none(self, principal: Principal) -> str:
        """Why a caller sees no tool at all: an empty list would have a model invent some."""
        if principal.scopes is not None and not any(principal.permits(name) for name in self._entries):
            return f"The scopes {', '.join(principal.scopes) or '(none)'} cover none of the {len(self._entries)} tools."
        down = [f"{u.name} ({u.reason or u.state})" for u in self.upstreams.values() if u.state != "ready"]
        parts = [f"{principal.agent or principal.name} may call none of the {len(self._entries)} tools."]
        if down:
            parts.append(f"Not reachable now: {', '.join(down)}.")
        if self.quarantine:
            parts.append(f"{len(self.quarantine)} tools are in quarantine: `dev-tools tools approve`.")
        return " ".join(parts)

    def approve_tools(self, server: str, tools: Mapping[str, str], *, accept_findings: bool) -> list[str]:
        """Pin tools as they are now, if they still are what was looked at. Raises `NotFound`, `Conflict`."""
        upstream = self.upstreams.get(server)
        if upstream is None:
            raise NotFound(f"There is no server {server!r}.", hint="See `dev-tools tools list`.")
        held = {q.tool: q for q in self.quarantine.values() if q.server == server}
        for tool, seen in tools.items():
            if tool not in held:
                raise NotFound(
                    f"{tool!r} of {server!r} is not in quarantine.", hint="See `dev-tools tools approve SERVER`."
                )
            if held[tool].digest != seen:
                raise Conflict(f"{tool!r} of {server!r} has changed since you looked.", hint="Look at it again.")
            if held[tool].findings and not accept_findings:
                what = "; ".join(f"{f.where} {f.what}" for f in held[tool].findings)
                raise Conflict(f"{tool!r} of {server!r}: {what}.", hint="If that is all right, say --accept-findings.")
        release = upstream.link.facts.release if upstream.link is not None else ""
        self.lock.approve(server, upstream.spec, release, tools)
        self.refresh()
        return sorted(tools)

    def find(self, principal: Principal, full: str) -> Entry:
        """The tool, if the caller may call it. Raises `RpcError` that says what is missing."""
        entry = self.view(principal).entries.get(full)
        if entry is not None:
            return entry
        if (held := self.quarantine.get(full)) is not None:
            fix = f"Look at it with `dev-tools tools approve {held.server}`."
            raise refusal("quarantined", f"{full!r} is in quarantine. {held.reason}", fix)
        if full in self._entries and not principal.permits(full):
            scope = missing_scope(full)
            raise refusal("forbidden", f"{principal.name} lacks the scope {scope!r}.", "Make a token that has it.")
        if full in self._entries:
            who = principal.agent or principal.name
            text = f"{who} may not call {full!r}: the gateway's policy lists it in none of its toolsets."
            raise refusal("forbidden", text, "Add it to a toolset, or the agent to the server's `agents`.")
        may = ", ".join(list(self.view(principal).entries)[:40])
        raise RpcError(INVALID_PARAMS, f"There is no tool {full!r}. {principal.name} may call: {may or 'none'}.")

    def server(self, principal: Principal, name: str) -> Upstream:
        """A server whose tools, prompts and resources are reached without prefixes. Raises `RpcError`."""
        upstream = self.upstreams.get(name)
        if upstream is None or not self.may_use(principal, upstream):
            raise RpcError(METHOD_NOT_FOUND, f"There is no server {name!r} for {principal.name}.")
        return upstream

    def may_use(self, principal: Principal, upstream: Upstream) -> bool:
        """Whether what a server has beside tools is open to a caller: as soon as any of its tools can be."""
        if not principal.permits(f"{upstream.name}_*") and upstream.name not in self.view(principal).by_server:
            return False
        return principal.agent is None or principal.agent in upstream.spec.agents


def _settle_memory() -> None:
    """What has just been loaded stays: the collector need not walk it again and again, 100 ms each time, on the call
    path. A call itself makes no cycles, so the collector may also come less often."""
    gc.freeze()
    gc.set_threshold(20_000, 20, 50)


def _own_entry(full: str, route: Route) -> Entry:
    tool = route.tool
    definition = {
        "name": tool.name,
        "description": tool.description,
        "inputSchema": dict(tool.input_schema),
        "annotations": {"readOnlyHint": tool.is_read_only},
    }
    merged, own = encode({**definition, "name": full}), encode(definition)
    return Entry(
        full,
        tool.name,
        route.server.name,
        None,
        route,
        merged,
        own,
        tool.description,
        tool.is_read_only,
        "allow",
        schema=dict(tool.input_schema),
    )


def _array(items: Sequence[bytes]) -> bytes:
    return b"[" + b",".join(items) + b"]"
