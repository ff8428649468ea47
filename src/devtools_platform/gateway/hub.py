"""The one way every call takes: decided, asked about, made, noted.

A call of our own tools, one with a key, and one that an agent needs approval for go by way of `Gateway`, which keeps
their answers. Others go straight to their server, whose answer is passed on as the bytes it came as.
"""

import logging
import random
import secrets
import time
from collections.abc import Generator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from contextvars import ContextVar
from functools import partial
from typing import Any

from msgspec import Raw
from opentelemetry import trace
from opentelemetry.context import attach, detach
from opentelemetry.trace import NonRecordingSpan, SpanContext

from devtools_platform.core.approvals import ApprovalRule
from devtools_platform.core.errors import Forbidden
from devtools_platform.core.tools import APPROVAL_REQUIRED, Caller, Tool, ToolResult
from devtools_platform.gateway.audit import Audit, Note, hash_result, shorten
from devtools_platform.gateway.confirmation import Confirmations
from devtools_platform.gateway.deferred import (
    Handles,
    is_declared,
    is_over,
    missing_extension,
    read_handle,
    show_state,
    wait_for_result,
)
from devtools_platform.gateway.limits import RateLimits
from devtools_platform.gateway.mcp.exchange import Call, Exchange, Silent
from devtools_platform.gateway.mcp.messages import (
    INVALID_PARAMS,
    REFUSED,
    UNAVAILABLE,
    Params,
    RpcError,
    as_object,
    decode_or_none,
    encode,
    raw,
    read_text,
    refusal,
)
from devtools_platform.gateway.offer import Entry, Offer
from devtools_platform.gateway.principal import Principal
from devtools_platform.gateway.results import as_tool_result, cut, cut_text, outcome_of, wire_result
from devtools_platform.gateway.rounds import Rounds, answer_rounds
from devtools_platform.gateway.secrecy import Secrets
from devtools_platform.gateway.service import Gateway
from devtools_platform.gateway.spans import caller_context, owner_of, parent_of
from devtools_platform.gateway.trust import ToolLock
from devtools_platform.gateway.upstreams.types import Verdict
from devtools_platform.gateway.upstreams.upstream import Upstream
from devtools_platform.kit.telemetry import tracer

log = logging.getLogger(__name__)

SPANS_PER_MINUTE = 600
"""Spans recorded of calls at servers of others; beyond it a call carries its trace on without one of its own."""

CATALOGUE_ASKS = ApprovalRule(name="the catalogue asks first", kind="tool")
"""Names the approval of a call that only the catalogue wants asked about, no rule of the stack."""

current_exchange: ContextVar[Exchange | None] = ContextVar("devtools_exchange", default=None)


class UpstreamTools:
    """An upstream as a tool server, for calls that are recorded under a key: text and data, no other content."""

    def __init__(self, upstream: Upstream, hub: "Hub") -> None:
        self.upstream = upstream
        self.hub = hub

    @property
    def name(self) -> str:
        return self.upstream.name

    def list_tools(self) -> Sequence[Tool]:
        mine = [e for e in self.hub.offer.entries().values() if e.upstream is self.upstream]
        return [e.route.tool for e in mine]

    async def call(self, name: str, arguments: Mapping[str, Any], caller: Caller) -> ToolResult:
        call = Call("tools/call", {"name": raw(name), "arguments": raw(arguments)})
        exchange = current_exchange.get() or Silent()
        try:
            result = await wait_for_result(partial(self.hub.send, self.upstream), call, exchange)
        except RpcError as error:
            return ToolResult(self.hub.secrets.mask(error.message), {"code": error.code}, is_error=True)
        return as_tool_result(self.hub.secrets.redact(result))


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
        self.audit = audit
        self.secrets = secrecy
        audit.mask = secrecy.mask_values
        self.rounds = Rounds(key)
        self.handles = Handles(key)
        self.limits = RateLimits()
        self.confirmations = Confirmations()
        self.offer = Offer(gateway, upstreams, {u.name: UpstreamTools(u, self) for u in upstreams}, lock)
        for upstream in upstreams:
            upstream.mask = secrecy.mask

    async def start(self) -> None:
        self.audit.start()
        for upstream in self.offer.upstreams.values():
            upstream.start()

    async def stop(self) -> None:
        await self.rounds.close()
        for upstream in self.offer.upstreams.values():
            await upstream.stop()
        await self.audit.stop()

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
        if entry.upstream is not None and await entry.upstream.freshen():
            entry = self._look_again(principal, entry.full, arguments)
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
                outcome = outcome_of(kept)
                answer = wire_result(cut_text(kept, cap) if cap else kept)
                result = bytes(answer)
                return answer
            with self._span(principal, entry, call.meta) as (trace_id, parent):
                call.meta["traceparent"] = parent
                answer = self.secrets.redact(await self.send(entry.upstream, call, exchange))
                if is_declared(exchange.client):
                    answer = self.handles.wrap(answer, principal.id, entry.full, cap)
                result = bytes(answer)
                if len(result) > cap and read_handle(answer) is None:
                    answer = cut(answer, cap)
                outcome = "error" if b'"isError":true' in result[-4000:].replace(b" ", b"") else "ok"
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

    async def follow(self, principal: Principal, call: Call, exchange: Exchange, server: str | None) -> Raw:
        """What became of a call that is answered later: `tasks/get`, `tasks/update`, `tasks/cancel`.

        `server`: where the request was sent, None for all. Raises `RpcError`.
        """
        started = time.perf_counter()
        if not is_declared(exchange.client):
            raise missing_extension()
        text = read_text(call.params.get("taskId"))
        handle = self.handles.read(text, principal.id)
        given = bytes(call.params.get("inputResponses", b""))
        entry = self._look_again(principal, handle.tool, given)
        if entry.upstream is None or server not in {None, entry.server}:
            raise RpcError(INVALID_PARAMS, f"taskId is of another server than {server!r}.")
        outcome, result = "error", b""
        try:
            if principal.per_minute is not None:
                self._take(principal, "*", principal.per_minute)
            if given and self.secrets.are_in(given):
                raise refusal("secret_in_arguments", f"The answers to {entry.full!r} hold a secret.", "Leave it out.")
            inner = Call(call.method, {**call.params, "taskId": raw(handle.id)}, call.meta)
            answer = self.secrets.redact(await entry.upstream.request(inner, exchange))
            if call.method == "tasks/get":
                answer = show_state(answer, str(text), handle.cap)
            outcome, result = "ok", bytes(answer)
            return answer
        except RpcError as error:
            outcome = "denied" if error.code == REFUSED else "error"
            raise self.clean(error) from None
        finally:
            if call.method != "tasks/get" or outcome != "ok" or is_over(Raw(result)):  # not each of many looks
                noted = encode({call.method: handle.id, "inputResponses": Raw(given or b"{}")})
                duration = time.perf_counter() - started
                self._note(principal, entry.server, entry.name, "allow", outcome, duration, None, noted, result)

    def _look_again(self, principal: Principal, full: str, arguments: bytes) -> Entry:
        """The tool as its server describes it now; one that changed is in quarantine. Raises `RpcError`."""
        try:
            return self.offer.find(principal, full)
        except RpcError:
            self.note_refused(principal, full, arguments)
            raise

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
                duration, trace_id, shorten(arguments), hash_result(result),
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
        arguments = as_object(decode_or_none(call.params.get("arguments")))
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
        if verdict == "allow" and entry.full in self.offer.view(principal).asked:
            verdict = "ask"
        if verdict == "deny":
            raise refusal("forbidden", f"{entry.full!r} with these arguments is denied by a rule of the catalogue.", "")
        if arguments and self.secrets.are_in(arguments):
            text = f"The arguments of {entry.full!r} hold a secret, which no tool receives."
            raise refusal(
                "secret_in_arguments", text, "Give the secret to the server in the catalogue (`env`, `headers`)."
            )
        return verdict, cap or upstream.spec.max_result_bytes

    def decision(self, principal: Principal, entry: Entry) -> Verdict:
        """What a call meets before its arguments are looked at."""
        is_asked = entry.full in self.offer.view(principal).asked
        if entry.upstream is not None:
            return "ask" if is_asked and entry.verdict == "allow" else entry.verdict
        if principal.agent is None and not entry.is_read_only:
            return "ask"
        return "ask" if is_asked else "allow"

    def _decide_own(self, principal: Principal, entry: Entry) -> Verdict:
        """For agents the stack's rules decide, in `Gateway`. A person is asked here, before anything is changed."""
        return "allow" if principal.agent is not None else self.decision(principal, entry)

    def _apply_rules(self, principal: Principal, entry: Entry, arguments: bytes) -> tuple[Verdict, int]:
        """The first rule that decides does; each that holds limits."""
        verdict, cap, is_decided = entry.verdict, 0, False
        values: Any = decode_or_none(Raw(arguments)) if arguments else {}
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
            if isinstance(exchange, Silent):
                return await wait_for_result(upstream.request, call, exchange)
            if is_stateless_client:
                return await upstream.request(call, exchange)
            return await answer_rounds(partial(wait_for_result, upstream.request), call, exchange)
        if is_stateless_client and not isinstance(exchange, Silent):
            return await self.rounds.send(upstream.request, call, exchange)
        return await upstream.request(call, exchange)

    def _span(self, principal: Principal, entry: Entry, meta: Params) -> AbstractContextManager[tuple[str, Raw]]:
        """A span in the caller's trace: the trace's id, and the `traceparent` to pass on.

        Under load most are only passed on: the audit log has every call.
        """
        parent = parent_of(read_text(meta.get("traceparent")), principal)
        if self.limits.wait_s("", "spans", SPANS_PER_MINUTE):
            ids = parent.trace_id if parent is not None else random.getrandbits(127) + 1, random.getrandbits(63) + 1
            return nullcontext(_trace_of(*ids, is_recorded=False))
        return self._recorded(principal, entry, parent)

    @contextmanager
    def _recorded(self, principal: Principal, entry: Entry, parent: SpanContext | None) -> Generator[tuple[str, Raw]]:
        context = trace.set_span_in_context(NonRecordingSpan(parent)) if parent is not None else None
        attributes = {"gen_ai.tool.name": entry.full, "devtools.principal": principal.id, **owner_of(principal)}
        name = f"tools/call {entry.full}"
        with tracer.start_as_current_span(name, context=context, attributes=attributes) as span:
            own = span.get_span_context()
            yield _trace_of(own.trace_id, own.span_id, is_recorded=own.trace_flags.sampled)

    def clean(self, error: RpcError) -> RpcError:
        data = self.secrets.redact(raw(error.data)) if error.data is not None else None
        return RpcError(error.code, self.secrets.mask(error.message), data)


def _trace_of(trace_id: int, span_id: int, *, is_recorded: bool) -> tuple[str, Raw]:
    id_, own = trace_id.to_bytes(16).hex(), span_id.to_bytes(8).hex()  # a fifth of what formatting them costs
    return id_, Raw(f'"00-{id_}-{own}-0{is_recorded:d}"'.encode())
