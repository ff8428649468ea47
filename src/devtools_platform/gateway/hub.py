"""All servers behind one door: which tools a caller sees, and the one way a call takes to the server that has it.

The part's own tool servers stay with `Gateway`, which also decides and records every call that carries a key.
Here is what those do not need: servers of others, whose answers are passed on as the bytes they came as.
"""

import gc
import logging
import random
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from contextvars import ContextVar
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import msgspec
from msgspec import Raw
from opentelemetry import trace
from opentelemetry.context import Context
from opentelemetry.trace import NonRecordingSpan, Span, SpanContext, TraceFlags
from prometheus_client import Counter, Gauge

from devtools_platform.core.errors import Conflict, NotFound
from devtools_platform.core.redact import redact_text
from devtools_platform.core.tools import Caller, Tool, ToolResult
from devtools_platform.gateway.audit import Audit, Note
from devtools_platform.gateway.limits import RateLimits
from devtools_platform.gateway.mcp.exchange import Call, Exchange, Silent
from devtools_platform.gateway.mcp.headers import ParamHeader, param_headers
from devtools_platform.gateway.mcp.messages import (
    INVALID_PARAMS,
    METHOD_NOT_FOUND,
    REFUSED,
    UNAVAILABLE,
    Params,
    RpcError,
    as_object,
    encode,
    raw,
    read_object,
    read_text,
)
from devtools_platform.gateway.principal import Principal, missing_scope
from devtools_platform.gateway.rounds import Rounds, answer_rounds
from devtools_platform.gateway.secrecy import Secrets
from devtools_platform.gateway.service import TOOL_CALLS, TOOL_TIME, Gateway, Route
from devtools_platform.gateway.trust import TOOL_NAME, Finding, Quarantined, ToolLock, digest, scan
from devtools_platform.gateway.upstreams.http_link import ModernHttp
from devtools_platform.gateway.upstreams.types import ToolRule, Verdict
from devtools_platform.gateway.upstreams.upstream import Upstream
from devtools_platform.kit.telemetry import trace_id_for, tracer

log = logging.getLogger(__name__)

UPSTREAM_UP = Gauge("devtools_mcp_server_up", "Whether an MCP server behind the gateway answers", ["server"])
RESTARTS = Counter("devtools_mcp_server_restarts_total", "Connections made anew", ["server"])
QUARANTINE = Gauge("devtools_mcp_tools_quarantined", "Tools in quarantine", ["server"])

SPANS_PER_MINUTE = 600
"""Spans recorded of calls at servers of others; beyond it a call carries its trace on without one of its own."""

Approve = Callable[[Caller, str, Mapping[str, Any], str | None], Awaitable[ToolResult | None]]
"""What `ask` means: None lets the call go ahead, a result says what it waits for."""

current_exchange: ContextVar[Exchange | None] = ContextVar("devtools_exchange", default=None)


@dataclass(frozen=True)
class Entry:
    """One tool as the gateway offers it."""

    full: str
    name: str
    server: str
    upstream: Upstream | None
    """None for the part's own tool servers."""
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


class OpenGateway(Gateway):
    """The gateway with the tools of other servers beside its own. They come and go, so they are looked up."""

    upstream_routes: Mapping[str, Route] = {}
    may_see: Callable[[Caller, str], bool]
    """Whether an agent sees a tool of another server. Set by the hub, together with the routes."""

    def list_own(self) -> dict[str, Route]:
        """The tools of the part's own servers."""
        return super().list_tools()

    def list_tools(self, caller: Caller | None = None) -> dict[str, Route]:
        routes = super().list_tools(caller)
        for name, route in self.upstream_routes.items():
            if caller is None or self.may_see(caller, name):
                routes[name] = route
        return routes


class UpstreamTools:
    """An upstream as a tool server, for calls that are recorded under a key: text and data, no other content."""

    def __init__(self, upstream: Upstream, hub: "Hub") -> None:
        self.upstream = upstream
        self.hub = hub

    @property
    def name(self) -> str:
        return self.upstream.name

    def list_tools(self) -> Sequence[Tool]:
        mine = [e for e in self.hub.entries().values() if e.upstream is self.upstream]
        return [Tool(e.name, e.description, e.schema or {}, e.is_read_only) for e in mine]

    async def call(self, name: str, arguments: Mapping[str, Any], caller: Caller) -> ToolResult:
        call = Call("tools/call", {"name": raw(name), "arguments": raw(arguments)})
        exchange = current_exchange.get() or Silent()
        try:
            result = await self.hub.send(self.upstream, call, exchange)
        except RpcError as error:
            return ToolResult(redact_text(error.message), {"code": error.code}, is_error=True)
        return as_tool_result(self.hub.secrets.redact(result))


def as_tool_result(result: Raw) -> ToolResult:
    """What a program keeps of a result. Images and the like are named, not kept."""
    try:
        body = msgspec.json.decode(result)
        parts = [_text_of(part) for part in body.get("content", [])]
        data = as_object(body.get("structuredContent"))
        return ToolResult("\n".join(parts), data, bool(body.get("isError")))
    except (msgspec.MsgspecError, AttributeError, TypeError, RecursionError):
        return ToolResult("The server's answer is no tool result.", is_error=True)


def _text_of(part: Mapping[str, Any]) -> str:
    if part.get("type") == "text":
        return str(part.get("text", ""))
    if part.get("type") == "resource" and "text" in part.get("resource", {}):
        return str(part["resource"]["text"])
    size = len(str(part.get("data") or part.get("resource", {}).get("blob") or ""))
    return f"[{part.get('type', 'unknown')} {part.get('mimeType', '')}: {size} characters, not shown as text]"


class Hub:
    """Use `start` and `stop`."""

    def __init__(
        self,
        gateway: Gateway,
        upstreams: Sequence[Upstream],
        *,
        lock: ToolLock,
        audit: Audit,
        secrets: Secrets,
        key: str,
        approve: Approve | None = None,
    ) -> None:
        self.gateway = gateway
        self.upstreams = {upstream.name: upstream for upstream in upstreams}
        self.lock = lock
        self.audit = audit
        self.secrets = secrets
        self.rounds = Rounds(key)
        self.limits = RateLimits()
        self.approve = approve
        self.version = 0
        """Grows with every change of the catalogue."""
        self.listeners: set[Callable[[], None]] = set()
        """Called when the tools have changed."""
        self.quarantine: dict[str, Quarantined] = {}
        self._entries: dict[str, Entry] = {}
        self._views: dict[Any, View] = {}
        self._servers = {upstream.name: UpstreamTools(upstream, self) for upstream in upstreams}
        if isinstance(gateway, OpenGateway):
            gateway.may_see = lambda caller, name: self._agent_sees(caller.agent, self._entries[name])
        for upstream in upstreams:
            upstream.on_change = self._on_change
        self._rebuild()

    async def start(self) -> None:
        self.audit.start()
        for upstream in self.upstreams.values():
            upstream.start()

    async def stop(self) -> None:
        await self.rounds.close()
        for upstream in self.upstreams.values():
            await upstream.stop()
        await self.audit.stop()

    # The catalogue

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
        own = self.gateway.list_own() if isinstance(self.gateway, OpenGateway) else self.gateway.list_tools()
        for full, route in own.items():
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
        if isinstance(self.gateway, OpenGateway):
            self.gateway.upstream_routes = {
                full: Route(self._servers[e.server], Tool(e.name, e.description, e.schema or {}, e.is_read_only))
                for full, e in entries.items()
                if e.upstream is not None
            }

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
        schema = _decoded(definition.get("inputSchema"))
        if not isinstance(schema, dict):
            reason = "Its input schema is no object."
        if reason is not None:
            findings: Sequence[Finding] = scan(definition)
            self.quarantine[full] = Quarantined(upstream.name, name, reason, hash_, description, findings)
            return None
        hints = read_object(definition.get("annotations"))
        is_read_only = _decoded(hints.get("readOnlyHint")) is True
        spec = upstream.spec
        headers = param_headers(schema)
        return Entry(
            full,
            name,
            upstream.name,
            upstream,
            encode({**definition, "name": raw(full)}),
            encode(definition),
            description,
            is_read_only,
            spec.reads if is_read_only else spec.writes,
            tuple(rule for rule in spec.rules if rule.covers(name)),
            headers,
            schema,
            TOOL_CALLS.labels(upstream.name, full, "", "ok"),
            TOOL_CALLS.labels(upstream.name, full, "", "error"),
            TOOL_TIME.labels(upstream.name, full),
        )

    def _agent_sees(self, agent: str, entry: Entry) -> bool:
        if entry.upstream is not None and agent in entry.upstream.spec.agents:
            return True
        return entry.full in self.gateway.policy.tools_of(agent)  # pyright: ignore[reportArgumentType]

    def _sees(self, principal: Principal, entry: Entry) -> bool:
        if not principal.permits(entry.full):
            return False
        return principal.agent is None or self._agent_sees(principal.agent, entry)

    def view(self, principal: Principal) -> View:
        """What a caller may see, ready to be sent."""
        found = self._views.get(principal.policy_key)
        if found is None:
            if len(self._views) > 1000:  # noqa: PLR2004 - more policies than anybody has
                self._views.clear()
            entries = {full: entry for full, entry in self._entries.items() if self._sees(principal, entry)}
            servers = {entry.server for entry in entries.values()}
            by_server = {s: _array([e.own for e in entries.values() if e.server == s]) for s in servers}
            found = View(entries, _array([entry.merged for entry in entries.values()]), by_server)
            self._views[principal.policy_key] = found
        return found

    def entry(self, full: str) -> Entry | None:
        return self._entries.get(full)

    def entries(self) -> Mapping[str, Entry]:
        return self._entries

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

    # Calls

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

    async def call(
        self, principal: Principal, entry: Entry, call: Call, exchange: Exchange, approval: str | None
    ) -> Raw:
        """One call without a key, at a server of others. Raises `RpcError`."""
        upstream = entry.upstream
        assert upstream is not None  # noqa: S101 - the caller has looked
        started = time.perf_counter()
        arguments = bytes(call.params.get("arguments", b""))
        trace_id: str | None = None
        decision, outcome, result = "allow", "error", b""
        try:
            decision, cap = self._decide(principal, entry, arguments)
            if decision == "ask":
                held = await self._ask(principal, entry, arguments, approval)
                if held is not None:
                    outcome = "held"
                    return wire_result(held)
            with self._span(principal, entry, call.meta) as span:
                context = span.get_span_context()
                trace_id = f"{context.trace_id:032x}"
                call.meta["traceparent"] = Raw(
                    f'"00-{trace_id}-{context.span_id:016x}-{int(context.trace_flags):02x}"'.encode()
                )
                answer = self.secrets.redact(await self.send(upstream, call, exchange))
                result = bytes(answer)
                if len(result) > cap:
                    answer = _cut(answer, cap)
                outcome = "error" if b'"isError":true' in result.replace(b" ", b"")[-4000:] else "ok"
                return answer
        except RpcError as error:
            outcome = "denied" if error.code == REFUSED else "error"
            raise self._clean(error) from None
        finally:
            duration = time.perf_counter() - started
            (entry.ok if outcome in {"ok", "held"} else entry.bad).inc()
            entry.time.observe(duration)
            caller = principal.caller
            self.audit.note(
                Note(
                    time.time(), principal.id, principal.agent, caller.task_id, entry.server, entry.name,
                    decision, outcome, duration, trace_id, arguments, result,
                )
            )  # fmt: skip

    def _decide(self, principal: Principal, entry: Entry, arguments: bytes) -> tuple[Verdict, int]:
        """The decision and the largest result allowed. Raises `RpcError` for what is refused outright."""
        if self.audit.is_full:
            raise RpcError(UNAVAILABLE, "The audit log cannot be written, so nothing may be called now.")
        verdict, cap, decided = entry.verdict, 0, False
        if entry.rules:
            values: Any = _decoded(Raw(arguments)) if arguments else {}
            for rule in entry.rules:
                if not isinstance(values, dict) or not rule.holds(values):  # pyright: ignore[reportUnknownArgumentType]
                    continue
                if rule.decision is not None and not decided:
                    verdict, decided = rule.decision, True
                if rule.per_minute is not None:
                    self._take(principal, entry.full, rule.per_minute)
                cap = cap or rule.max_result_bytes or 0
        if principal.per_minute is not None:
            self._take(principal, "*", principal.per_minute)
        if verdict == "deny":
            raise refusal("forbidden", f"{entry.full!r} with these arguments is denied by a rule of the catalogue.", "")
        if arguments and self.secrets.are_in(arguments):
            text = f"The arguments of {entry.full!r} hold a secret, which no tool receives."
            raise refusal(
                "secret_in_arguments", text, "Give the secret to the server in the catalogue (`env`, `headers`)."
            )
        return verdict, cap or (entry.upstream.spec.max_result_bytes if entry.upstream else 0)

    def _take(self, principal: Principal, what: str, per_minute: int) -> None:
        if wait := self.limits.wait_s(principal.id, what, per_minute):
            data = {"code": "rate_limited", "retry_after_s": round(wait, 1)}
            text = f"{principal.name} may call {what!r} {per_minute} times a minute; again in {wait:.0f} s."
            raise RpcError(UNAVAILABLE, text, data)

    async def _ask(
        self, principal: Principal, entry: Entry, arguments: bytes, approval: str | None
    ) -> ToolResult | None:
        values: Any = _decoded(Raw(arguments)) if arguments else {}
        if self.approve is not None:
            return await self.approve(principal.caller, entry.full, values, approval)
        text = f"{entry.full} needs a person's approval, and nobody can give one here. It was not called."
        data = {"code": "approval_required", "tool": entry.full, "server": entry.server}
        return ToolResult(text, data, is_error=True)

    async def decide_keyed(
        self, principal: Principal, entry: Entry, arguments: Mapping[str, Any], approval: str | None
    ) -> ToolResult | None:
        """The same decision for a call that `Gateway.call` records. Raises `RpcError`; None lets it go ahead."""
        given = encode(arguments)
        verdict, _ = self._decide(principal, entry, given)
        return await self._ask(principal, entry, given, approval) if verdict == "ask" else None

    async def send(self, upstream: Upstream, call: Call, exchange: Exchange) -> Raw:
        """To the server, across the eras: where it and the client differ, questions are carried over."""
        link = upstream.link
        if link is None or call.method not in ("tools/call", "prompts/get", "resources/read"):
            return await upstream.request(call, exchange)
        is_stateless_client = not exchange.client.session
        if link.facts.era == "modern":
            if is_stateless_client:
                return await upstream.request(call, exchange)
            return await answer_rounds(upstream.request, call, exchange)
        if is_stateless_client and not isinstance(exchange, Silent):
            return await self.rounds.send(upstream.request, call, exchange)
        return await upstream.request(call, exchange)

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

    def _span(self, principal: Principal, entry: Entry, meta: Params) -> AbstractContextManager[Span]:
        """A span in the caller's trace. Under load most are only passed on: the audit log has every call."""
        parent = _parent(read_text(meta.get("traceparent")), principal)
        if self.limits.wait_s("", "spans", SPANS_PER_MINUTE):
            trace_id = parent.trace_id if parent is not None else random.getrandbits(127) + 1
            span_id = random.getrandbits(63) + 1
            return nullcontext(NonRecordingSpan(SpanContext(trace_id, span_id, is_remote=False)))
        context = trace.set_span_in_context(NonRecordingSpan(parent)) if parent is not None else None
        attributes = {"gen_ai.tool.name": entry.full, "devtools.principal": principal.id}
        return tracer.start_as_current_span(f"tools/call {entry.full}", context=context, attributes=attributes)

    def _clean(self, error: RpcError) -> RpcError:
        data = self.secrets.redact(raw(error.data)) if error.data is not None else None
        return RpcError(error.code, redact_text(error.message), data)


def _settle_memory() -> None:
    """What has just been loaded stays: the collector need not walk it again and again, 100 ms each time, on the call
    path. A call itself makes no cycles, so the collector may also come less often."""
    gc.freeze()
    gc.set_threshold(20_000, 20, 50)


def refusal(code: str, message: str, hint: str) -> RpcError:
    return RpcError(
        REFUSED, message, {"code": code, "message": message, "hint": hint or "Ask whoever runs the gateway."}
    )


def wire_result(result: ToolResult) -> Raw:
    """A tool server's result as MCP has it."""
    return raw(
        {
            "content": [{"type": "text", "text": result.text}],
            "structuredContent": result.data,
            "isError": result.is_error,
            "resultType": "complete",
        }
    )


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
        merged,
        own,
        tool.description,
        tool.is_read_only,
        "allow",
        schema=dict(tool.input_schema),
    )


def _array(items: Sequence[bytes]) -> bytes:
    return b"[" + b",".join(items) + b"]"


def _decoded(value: Raw | None) -> Any:
    if value is None:
        return None
    try:
        return msgspec.json.decode(value)
    except (msgspec.MsgspecError, RecursionError):
        return None


def _cut(result: Raw, cap: int) -> Raw:
    """A result too large for its rule: its text cut in the middle, its data left out, and both said."""
    held = as_tool_result(result)
    half = max(0, cap // 2 - 200)
    left_out = len(held.text) - 2 * half
    text = f"{held.text[:half]}\n[{left_out} characters left out: a result here is at most {cap} bytes]\n"
    return raw(
        {
            "content": [{"type": "text", "text": text + (held.text[-half:] if half else "")}],
            "isError": held.is_error,
            "resultType": "complete",
        }
    )


def caller_context(meta: Params, principal: Principal) -> Context | None:
    """The context in which a call's spans belong to the caller's trace; None when it names none."""
    parent = _parent(read_text(meta.get("traceparent")), principal)
    return trace.set_span_in_context(NonRecordingSpan(parent)) if parent is not None else None


def _parent(traceparent: str | None, principal: Principal) -> SpanContext | None:
    """The caller's own span where it names one, otherwise its task's trace."""
    if traceparent is not None:
        parts = traceparent.split("-")
        if len(parts) == 4 and len(parts[1]) == 32 and len(parts[2]) == 16:  # noqa: PLR2004 - W3C's lengths
            try:
                ids = int(parts[1], 16), int(parts[2], 16)
            except ValueError:
                return None
            if all(ids):
                return SpanContext(*ids, is_remote=True, trace_flags=TraceFlags(TraceFlags.SAMPLED))
    if principal.agent is not None and principal.scopes is None:
        return _task_root(principal.caller.task_id)
    return None


@lru_cache(maxsize=1024)
def _task_root(task_id: str) -> SpanContext:
    id_ = trace_id_for(task_id)
    return SpanContext(int(id_, 16), int(id_[:16], 16), is_remote=True, trace_flags=TraceFlags(TraceFlags.SAMPLED))
