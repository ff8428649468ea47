"""All servers behind one door: which tools a caller sees, and the one way a call takes to the server that has it.

The part's own tool servers stay with `Gateway`, which also decides and records every call that carries a key.
Here is what those do not need: servers of others, whose answers are passed on as the bytes they came as.
"""

import gc
import logging
import random
import secrets
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from contextvars import ContextVar
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any

import msgspec
from msgspec import Raw
from opentelemetry import trace
from opentelemetry.context import Context, attach, detach
from opentelemetry.trace import NonRecordingSpan, Span, SpanContext, TraceFlags
from prometheus_client import Counter, Gauge

from devtools_platform.core.agents import AgentName
from devtools_platform.core.approvals import ApprovalRule, Risk
from devtools_platform.core.errors import Conflict, Forbidden, NotFound
from devtools_platform.core.tools import APPROVAL_REQUIRED, Caller, Tool, ToolResult
from devtools_platform.gateway.audit import Audit, Note
from devtools_platform.gateway.confirmation import Confirmations
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
    decode,
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

CATALOGUE_ASKS = ApprovalRule(name="the catalogue asks first", kind="tool")
"""Names the approval of a call that only the catalogue wants asked about, no rule of the stack."""

current_exchange: ContextVar[Exchange | None] = ContextVar("devtools_exchange", default=None)


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
        return [e.route.tool for e in mine]

    async def call(self, name: str, arguments: Mapping[str, Any], caller: Caller) -> ToolResult:
        call = Call("tools/call", {"name": raw(name), "arguments": raw(arguments)})
        exchange = current_exchange.get() or Silent()
        try:
            result = await self.hub.send(self.upstream, call, exchange)
        except RpcError as error:
            return ToolResult(self.hub.secrets.mask(error.message), {"code": error.code}, is_error=True)
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
        secrecy: Secrets,
        key: str,
    ) -> None:
        self.gateway = gateway
        self.upstreams = {upstream.name: upstream for upstream in upstreams}
        self.lock = lock
        self.audit = audit
        self.secrets = secrecy
        audit.mask = secrecy.mask_values
        self.rounds = Rounds(key)
        self.limits = RateLimits()
        self.confirmations = Confirmations()
        self.version = 0
        """Grows with every change of the catalogue."""
        self.listeners: set[Callable[[], None]] = set()
        """Called when the tools have changed."""
        self.quarantine: dict[str, Quarantined] = {}
        self._entries: dict[str, Entry] = {}
        self._views: dict[Any, View] = {}
        self._servers = {upstream.name: UpstreamTools(upstream, self) for upstream in upstreams}
        for upstream in upstreams:
            upstream.on_change = self._on_change
            upstream.mask = secrecy.mask
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
        schema: Any = _decoded(definition.get("inputSchema"))
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
        self,
        principal: Principal,
        entry: Entry,
        call: Call,
        exchange: Exchange,
        *,
        key: str | None = None,
        approval: str | None = None,
        is_confirmed: bool = False,
    ) -> Raw:
        """One call of one tool: decided, asked about, made, and noted in the audit log. Raises `RpcError`.

        With a `key` it is made once, and its text and data are kept as its answer. Our own tools' calls and those an
        agent needs approval for are always kept. `is_confirmed`: the person who calls has been asked already.
        """
        started = time.perf_counter()
        arguments = bytes(call.params.get("arguments", b""))
        trace_id: str | None = None
        decision, outcome, result = "allow", "error", b""
        try:
            decision, cap = self._decide(principal, entry, arguments)
            must_ask = decision == "ask" and not is_confirmed
            if must_ask and principal.agent is None:
                held = await self._confirm(entry, arguments, call, exchange)
                if held is not None:
                    outcome, result = "held", bytes(held)
                    return held
                must_ask = False
            if entry.upstream is None or key is not None or must_ask:
                ask_by = CATALOGUE_ASKS if must_ask else None
                kept = await self._call_recorded(principal, entry, call, exchange, key, approval, ask_by)
                outcome = _outcome_of(kept)
                answer = wire_result(_cut_text(kept, cap) if cap else kept)
                result = bytes(answer)
                return answer
            with self._span(principal, entry, call.meta) as span:
                context = span.get_span_context()
                trace_id = f"{context.trace_id:032x}"
                call.meta["traceparent"] = Raw(
                    f'"00-{trace_id}-{context.span_id:016x}-{int(context.trace_flags):02x}"'.encode()
                )
                answer = self.secrets.redact(await self.send(entry.upstream, call, exchange))
                result = bytes(answer)
                if len(result) > cap:
                    answer = _cut(answer, cap)
                outcome = "error" if b'"isError":true' in result.replace(b" ", b"")[-4000:] else "ok"
                return answer
        except RpcError as error:
            outcome = "denied" if error.code == REFUSED else "error"
            raise self.clean(error) from None
        finally:
            duration = time.perf_counter() - started
            if entry.upstream is not None:
                (entry.ok if outcome in {"ok", "held"} else entry.bad).inc()
                entry.time.observe(duration)
            self._note(principal, entry.server, entry.name, decision, outcome, duration, trace_id, arguments, result)

    def note_refused(self, principal: Principal, name: str, arguments: bytes) -> None:
        """Somebody tried what they may not, or what is not there."""
        server, _, tool = name.partition("_")
        self._note(principal, server[:100], tool[:100], "deny", "denied", 0.0, None, arguments, b"")

    def _note(
        self,
        principal: Principal,
        server: str,
        tool: str,
        decision: str,
        outcome: str,
        duration: float,
        trace_id: str | None,
        arguments: bytes,
        result: bytes,
    ) -> None:
        self.audit.note(
            Note(
                time.time(), principal.id, principal.agent, principal.caller.task_id, server, tool, decision, outcome,
                duration, trace_id, arguments, result,
            )
        )  # fmt: skip

    async def _confirm(self, entry: Entry, arguments: bytes, call: Call, exchange: Exchange) -> Raw | None:
        """None lets the call of a person go ahead; a result says what it waits for, or that they said no."""
        said = await self.confirmations.ask(entry.full, arguments, call, exchange)
        if said is True:
            return None
        if isinstance(said, Raw):
            return said
        if said is False:
            return wire_result(
                ToolResult(f"The person said no: {entry.full} was not called.", {"code": "denied"}, True)
            )
        text = (
            f"{entry.full} changes something, so a person must agree to each call, and this client cannot ask one "
            "(it declares no `elicitation`). It was not called. A rule in the catalogue can allow it."
        )
        return wire_result(ToolResult(text, {"code": APPROVAL_REQUIRED, "tool": entry.full}, is_error=True))

    async def _call_recorded(
        self,
        principal: Principal,
        entry: Entry,
        call: Call,
        exchange: Exchange,
        key: str | None,
        approval: str | None,
        ask_by: ApprovalRule | None,
    ) -> ToolResult:
        """By way of `Gateway`, which asks by the stack's rules, makes the call once, and keeps its answer."""
        if entry.upstream is None and principal.agent is None and not entry.route.tool.is_for_people:
            text = f"{entry.full!r} works in a task's workspace, and {principal.name} works in none."
            raise refusal("forbidden", text, "Run it as part of a task, or make a token with --agent and --task.")
        arguments = as_object(_decoded(call.params.get("arguments")))
        owned = key if key is not None else secrets.token_hex(16)
        if key is not None and principal.scopes is not None:
            owned = f"{principal.id}:{key}"  # nobody replays, or blocks, somebody else's call
        token = current_exchange.set(exchange)
        context = caller_context(call.meta, principal)
        attached = attach(context) if context is not None else None
        try:
            return await self.gateway.call_permitted(
                entry.route, principal.caller, entry.full, arguments, owned, approval, ask_by
            )
        except Forbidden as error:
            raise refusal("forbidden", str(error), error.hint) from None
        finally:
            if attached is not None:
                detach(attached)
            current_exchange.reset(token)

    def _decide(self, principal: Principal, entry: Entry, arguments: bytes) -> tuple[Verdict, int]:
        """The decision and the largest result allowed, 0 for any. Raises `RpcError` for what is refused outright."""
        if self.audit.is_full:
            raise RpcError(UNAVAILABLE, "The audit log cannot be written, so nothing may be called now.")
        if principal.per_minute is not None:
            self._take(principal, "*", principal.per_minute)
        upstream = entry.upstream
        if upstream is None:
            return self._decide_own(principal, entry), 0
        verdict, cap = self._apply_rules(principal, entry, arguments) if entry.rules else (entry.verdict, 0)
        if verdict == "allow" and entry.full in self.view(principal).asked:
            verdict = "ask"
        if verdict == "deny":
            raise refusal("forbidden", f"{entry.full!r} with these arguments is denied by a rule of the catalogue.", "")
        if arguments and self.secrets.are_in(arguments):
            text = f"The arguments of {entry.full!r} hold a secret, which no tool receives."
            raise refusal(
                "secret_in_arguments", text, "Give the secret to the server in the catalogue (`env`, `headers`)."
            )
        return verdict, cap or upstream.spec.max_result_bytes

    def _decide_own(self, principal: Principal, entry: Entry) -> Verdict:
        """For agents the stack's rules decide, in `Gateway`. A person is asked here, before anything is changed."""
        if principal.agent is not None:
            return "allow"
        return "ask" if not entry.is_read_only or entry.full in self.view(principal).asked else "allow"

    def _apply_rules(self, principal: Principal, entry: Entry, arguments: bytes) -> tuple[Verdict, int]:
        """The first rule that decides does; each that holds limits."""
        verdict, cap, is_decided = entry.verdict, 0, False
        values: Any = _decoded(Raw(arguments)) if arguments else {}
        for rule in entry.rules:
            if not isinstance(values, dict) or not rule.holds(values):  # pyright: ignore[reportUnknownArgumentType]
                continue
            if rule.decision is not None and not is_decided:
                verdict, is_decided = rule.decision, True
            if rule.per_minute is not None:
                self._take(principal, entry.full, rule.per_minute)
            cap = cap or rule.max_result_bytes or 0
        return verdict, cap

    def _take(self, principal: Principal, what: str, per_minute: int) -> None:
        if wait := self.limits.wait_s(principal.id, what, per_minute):
            data = {"code": "rate_limited", "retry_after_s": round(wait, 1)}
            text = f"{principal.name} may call {what!r} {per_minute} times a minute; again in {wait:.0f} s."
            raise RpcError(UNAVAILABLE, text, data)

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

    def clean(self, error: RpcError) -> RpcError:
        data = self.secrets.redact(raw(error.data)) if error.data is not None else None
        return RpcError(error.code, self.secrets.mask(error.message), data)


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


def _decoded(value: Raw | None) -> Any:
    if value is None:
        return None
    try:
        return msgspec.json.decode(value)
    except (msgspec.MsgspecError, RecursionError):
        return None


def _outcome_of(result: ToolResult) -> str:
    if result.data.get("code") == APPROVAL_REQUIRED:
        return "held"
    return "error" if result.is_error else "ok"


def _cut_text(result: ToolResult, cap: int) -> ToolResult:
    """A kept answer with its text cut, if it is too large for its rule. What is kept stays whole."""
    if len(result.text) <= cap:
        return result
    cut: Any = decode(_cut(wire_result(result), cap))
    return replace(result, text=cut["content"][0]["text"], data={})


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
