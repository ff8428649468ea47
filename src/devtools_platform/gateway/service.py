"""The gateway's decision and record of each call: permitted? done before? then run it and keep the outcome."""

import logging
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from prometheus_client import Counter, Histogram

from devtools_platform.core.errors import Forbidden
from devtools_platform.core.interfaces import ToolServer
from devtools_platform.core.redact import redact, redact_text
from devtools_platform.core.tools import Caller, Tool, ToolResult
from devtools_platform.gateway.interfaces import CallRecords
from devtools_platform.gateway.types import Policy, StoredCall
from devtools_platform.kit.telemetry import task_span

log = logging.getLogger(__name__)

TOOL_CALLS = Counter("devtools_tool_calls_total", "Tool calls", ["server", "tool", "agent", "outcome"])
TOOL_TIME = Histogram("devtools_tool_call_duration_seconds", "Tool call time", ["server", "tool"])


@dataclass(frozen=True)
class Route:
    server: ToolServer
    tool: Tool


class Gateway:
    """All tools of all servers under stable names `server_tool`, behind one policy."""

    def __init__(self, servers: Sequence[ToolServer], policy: Policy, records: CallRecords) -> None:
        self.servers = servers
        self.policy = policy
        self.records = records
        self._routes = {
            f"{server.name}_{tool.name}": Route(server, tool) for server in servers for tool in server.list_tools()
        }

    def list_tools(self, caller: Caller | None = None) -> dict[str, Route]:
        """Full name -> route; only what `caller` may call, or everything for None."""
        if caller is None:
            return dict(self._routes)
        permitted = self.policy.tools_of(caller.agent)
        return {name: route for name, route in self._routes.items() if name in permitted}

    async def call(self, caller: Caller, name: str, arguments: Mapping[str, Any], key: str) -> ToolResult:
        """Run a tool once per `key`: the same key again gives the stored result. Raises `Forbidden`."""
        with task_span(caller.task_id, caller.agent, f"tools/call {name}") as span:
            span.set_attribute("gen_ai.tool.name", name)
            span.set_attribute("devtools.tool.key", key)
            route = self.list_tools(caller).get(name)
            stored = await self.records.begin(key, caller, name, redact(arguments), "allow" if route else "deny")
            if route is None:
                await self.records.finish(key, ToolResult("denied by policy", is_error=True), 0.0)
                TOOL_CALLS.labels("", name if name in self._routes else "unknown", caller.agent, "denied").inc()
                raise Forbidden(self._why_denied(caller, name))
            if stored is not None and (answer := _replay(stored, route)) is not None:
                span.set_attribute("devtools.tool.replayed", value=True)
                return answer
            result = await self._run(route, caller, name, arguments, key)
            span.set_attribute("devtools.tool.is_error", result.is_error)
            return result

    async def _run(self, route: Route, caller: Caller, name: str, arguments: Mapping[str, Any], key: str) -> ToolResult:
        started = time.perf_counter()
        try:
            result = await route.server.call(route.tool.name, arguments, caller)
        except Exception:
            log.exception("tool %s broke", name)
            result = ToolResult(f"The tool {name} broke on our side; the log has the details.", is_error=True)
        duration = time.perf_counter() - started
        result = ToolResult(redact_text(result.text), redact(result.data), result.is_error)
        await self.records.finish(key, result, duration)
        TOOL_CALLS.labels(route.server.name, name, caller.agent, "error" if result.is_error else "ok").inc()
        TOOL_TIME.labels(route.server.name, name).observe(duration)
        return result

    def _why_denied(self, caller: Caller, name: str) -> str:
        if name not in self._routes:
            return f"There is no tool {name!r}. {caller.agent} may call: {', '.join(self.list_tools(caller))}."
        return f"{caller.agent} may not call {name!r}: the gateway's policy lists it in none of its toolsets."


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
