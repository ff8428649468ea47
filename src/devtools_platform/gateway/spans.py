"""In whose trace a call's spans belong."""

from functools import lru_cache

from opentelemetry import trace
from opentelemetry.context import Context
from opentelemetry.trace import NonRecordingSpan, SpanContext, TraceFlags

from devtools_platform.gateway.mcp.messages import (
    Params,
    read_text,
)
from devtools_platform.gateway.principal import Principal
from devtools_platform.kit.telemetry import AGENT, TASK, trace_id_for


def caller_context(meta: Params, principal: Principal) -> Context | None:
    """The context in which a call's spans belong to the caller's trace; None when it names none."""
    parent = parent_of(read_text(meta.get("traceparent")), principal)
    return trace.set_span_in_context(NonRecordingSpan(parent)) if parent is not None else None


def owner_of(principal: Principal) -> dict[str, str]:
    """Whose session a call's spans are in, by the verified token: what a caller's baggage says proves nothing.

    A person's calls are in none: they are in the audit log.
    """
    if principal.agent is not None:
        return {TASK: principal.caller.task_id, AGENT: principal.agent}
    return {}


def parent_of(traceparent: str | None, principal: Principal) -> SpanContext | None:
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
