"""The gateway's decision and record of each call: permitted? done before? then run it and keep the outcome."""

import asyncio
import logging
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from opentelemetry.trace import Span
from prometheus_client import Counter, Histogram

from devtools_platform.core.agents import CallerName
from devtools_platform.core.approvals import Action, ApprovalRule, ApprovalRules, Environment
from devtools_platform.core.errors import Forbidden
from devtools_platform.core.interfaces import ToolServer
from devtools_platform.core.redact import redact, redact_text
from devtools_platform.core.tools import APPROVAL_REQUIRED, Caller, Tool, ToolResult
from devtools_platform.gateway.interfaces import CallRecords, Grants
from devtools_platform.gateway.stopping import FindCancelled, Stopped, Stopping
from devtools_platform.gateway.types import Policy, StoredCall
from devtools_platform.kit.patience import patiently
from devtools_platform.kit.telemetry import task_span

log = logging.getLogger(__name__)

LOOK_EVERY_S = 0.2
"""How often it is looked whether another gateway process has the answer to a call that it makes."""

TOOL_CALLS = Counter("devtools_tool_calls_total", "Tool calls", ["server", "tool", "agent", "outcome"])
TOOL_TIME = Histogram("devtools_tool_call_duration_seconds", "Tool call time", ["server", "tool"])


@dataclass(frozen=True)
class Route:
    server: ToolServer
    tool: Tool


class Gateway:
    """All tools of all servers under stable names `server_tool`, behind one policy."""

    def __init__(
        self,
        servers: Sequence[ToolServer],
        policy: Policy,
        records: CallRecords,
        *,
        rules: ApprovalRules,
        grants: Grants,
        environment: Environment,
        find_cancelled: FindCancelled | None = None,
    ) -> None:
        """`find_cancelled`: None where no task can be cancelled, as there is no stack."""
        self.servers = servers
        self.policy = policy
        self.records = records
        self.rules = rules
        self.grants = grants
        self.environment: Environment = environment
        self._stopping = Stopping(find_cancelled) if find_cancelled else None
        self._running: dict[tuple[str, Caller, str], asyncio.Task[tuple[ToolResult, bool]]] = {}
        self._routes = {
            f"{server.name}_{tool.name}": Route(server, tool) for server in servers for tool in server.list_tools()
        }

    def list_tools(self, caller: Caller | None = None) -> dict[str, Route]:
        """Full name -> route; only what `caller` may call, or everything for None."""
        if caller is None:
            return dict(self._routes)
        permitted = self.policy.tools_of(caller.agent)
        return {name: route for name, route in self._routes.items() if name in permitted}

    async def call(
        self, caller: Caller, name: str, arguments: Mapping[str, Any], key: str, approval: str | None = None
    ) -> ToolResult:
        """Run a tool once per `key`: the same key again gives the stored result. Raises `Forbidden`.

        Where a person must be asked first, a result with the code `approval_required`; the call runs when it
        comes again with the id of the approval, with exactly the arguments that were approved.
        """
        with task_span(caller.task_id, caller.agent, f"tools/call {name}") as span:
            span.set_attribute("gen_ai.tool.name", name)
            span.set_attribute("devtools.tool.key", key)
            route = self.list_tools(caller).get(name)
            if route is None:
                await self.records.begin(key, caller, name, redact(arguments), "deny")
                await self.records.finish(key, ToolResult("denied by policy", is_error=True), 0.0)
                TOOL_CALLS.labels("", name if name in self._routes else "unknown", caller.agent, "denied").inc()
                raise Forbidden(self._why_denied(caller, name))
            return await self._decide_and_run(route, caller, name, arguments, key, approval, None, span)

    async def call_permitted(
        self,
        route: Route,
        caller: Caller,
        name: str,
        arguments: Mapping[str, Any],
        key: str,
        approval: str | None = None,
        ask_by: ApprovalRule | None = None,
    ) -> ToolResult:
        """The same for a caller whose right to the tool is established; `ask_by` asks where no rule of ours does.

        A person is not sent to a person: whoever calls this has asked them.
        """
        with task_span(caller.task_id, caller.agent, f"tools/call {name}") as span:
            span.set_attribute("gen_ai.tool.name", name)
            span.set_attribute("devtools.tool.key", key)
            return await self._decide_and_run(route, caller, name, arguments, key, approval, ask_by, span)

    async def _decide_and_run(
        self,
        route: Route,
        caller: Caller,
        name: str,
        arguments: Mapping[str, Any],
        key: str,
        approval: str | None,
        ask_by: ApprovalRule | None,
        span: Span,
    ) -> ToolResult:
        rule = None if caller.agent == "person" else self.find_rule(caller.agent, name, route.tool) or ask_by
        if rule is not None and approval is None:
            TOOL_CALLS.labels(route.server.name, name, caller.agent, "asked").inc()
            return _ask_first(rule, route)
        if rule is not None and approval is not None:
            await self._check_grant(approval, caller, name, arguments)
            key = f"approval:{approval}"  # good for one effect, whoever sends it again
            span.set_attribute("devtools.tool.key", key)
        result, is_replayed = await self._once(route, caller, name, arguments, key)
        span.set_attribute("devtools.tool.replayed", is_replayed)
        span.set_attribute("devtools.tool.is_error", result.is_error)
        return result

    def find_rule(self, agent: CallerName, name: str, tool: Tool) -> ApprovalRule | None:
        """The rule of this stack by which a person is asked before the call; None when nobody is."""
        return self.rules.find(
            Action(kind="tool", agent=agent, environment=self.environment, tool=name, risk=tool.risk)
        )

    async def _check_grant(self, approval: str, caller: Caller, name: str, arguments: Mapping[str, Any]) -> None:
        """Raises `Forbidden` unless a person approved exactly this call."""
        granted = await self.grants.find_grant(approval, caller, name)
        if granted is None:
            raise Forbidden(f"{approval!r} is no approval of {name} for {caller.agent} in task {caller.task_id}.")
        if redact(granted) != redact(arguments):
            raise Forbidden(f"Approval {approval!r} is for other arguments than these.")

    async def _once(
        self, route: Route, caller: Caller, name: str, arguments: Mapping[str, Any], key: str
    ) -> tuple[ToolResult, bool]:
        """The call's result, and whether it was there already. Who sends a running call again waits for it."""
        flight = (key, caller, name)
        if (running := self._running.get(flight)) is not None:
            return (await asyncio.shield(running))[0], True
        # A task of its own: a caller that hangs up does not leave the tool's work half done and unrecorded.
        work = asyncio.create_task(self._begin_and_run(route, caller, name, arguments, key))
        self._running[flight] = work
        work.add_done_callback(lambda _: self._running.pop(flight, None))
        return await asyncio.shield(work)

    async def _begin_and_run(
        self, route: Route, caller: Caller, name: str, arguments: Mapping[str, Any], key: str
    ) -> tuple[ToolResult, bool]:
        while (stored := await self.records.begin(key, caller, name, redact(arguments), "allow")) is not None:
            if not stored.is_same_call:
                raise Forbidden(f"The idempotency key {key!r} belongs to another call.", hint="Send a key of your own.")
            if stored.is_running:
                await asyncio.sleep(LOOK_EVERY_S)
                continue
            if (answer := _replay(stored, route)) is not None:
                if stored.state == "started":
                    await self.records.mark_doubtful(key)
                return answer, True
            if await self.records.take_over(key, stored):
                break
        return await self._run(route, caller, name, arguments, key), False

    async def _run(self, route: Route, caller: Caller, name: str, arguments: Mapping[str, Any], key: str) -> ToolResult:
        started = time.perf_counter()
        try:
            call = route.server.call(route.tool.name, arguments, caller)
            if self._stopping is not None and caller.has_task and caller.agent != "person":
                call = self._stopping.guard(caller.task_id, call)
            result = await call
        except Stopped:
            result = ToolResult("The task was cancelled; the call was stopped before its end.", is_error=True)
        except Exception:
            log.exception("tool %s broke", name)
            result = ToolResult(f"The tool {name} broke on our side; the log has the details.", is_error=True)
        duration = time.perf_counter() - started
        result = ToolResult(redact_text(result.text), redact(result.data), result.is_error)
        await patiently(lambda: self.records.finish(key, result, duration))
        TOOL_CALLS.labels(route.server.name, name, caller.agent, "error" if result.is_error else "ok").inc()
        TOOL_TIME.labels(route.server.name, name).observe(duration)
        return result

    def _why_denied(self, caller: Caller, name: str) -> str:
        if name not in self._routes:
            return f"There is no tool {name!r}. {caller.agent} may call: {', '.join(self.list_tools(caller))}."
        return f"{caller.agent} may not call {name!r}: the gateway's policy lists it in none of its toolsets."


def _ask_first(rule: ApprovalRule, route: Route) -> ToolResult:
    facts = {"rule": rule.name, "risk": route.tool.risk, "expires_after_s": rule.expires_after_s}
    text = f"A person must approve this call first (rule {rule.name!r})."
    return ToolResult(text, {"code": APPROVAL_REQUIRED, **facts}, is_error=True)


def _replay(stored: StoredCall, route: Route) -> ToolResult | None:
    """The answer to a call whose key is known. None: run it once more, which only some tools bear."""
    if stored.state == "finished":
        return ToolResult(stored.text, stored.data or {}, stored.is_error)
    if route.tool.is_read_only or route.tool.is_repeatable:
        return None
    return ToolResult(
        "This call was interrupted before and may have had its effect. Look at the present state first, "
        "then decide whether to call again.",
        {"in_doubt": True},
        is_error=True,
    )
