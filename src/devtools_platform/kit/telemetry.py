"""Spans by the OpenTelemetry API only. Which exporters listen is the business of `observability`."""

import hashlib
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass

from opentelemetry import trace
from opentelemetry.trace import NonRecordingSpan, Span, SpanContext, TraceFlags

tracer = trace.get_tracer("devtools_platform")

TASK = "session.id"
AGENT = "user.id"
"""The attributes, and baggage entries, by which spans belong to a task and an agent; Langfuse's names for both."""


@dataclass(frozen=True)
class TaskScope:
    """Whose work is being done right now: every span and every model call is stamped with it."""

    task_id: str
    agent: str


current_scope: ContextVar[TaskScope | None] = ContextVar("devtools_task_scope", default=None)


def trace_id_for(task_id: str) -> str:
    """The task's trace id as 32 hex digits. Derived, so that a restarted task goes on in the same trace."""
    return hashlib.sha256(f"dev-tools task {task_id}".encode()).hexdigest()[:32]


@contextmanager
def task_span(task_id: str, agent: str, name: str, attributes: Mapping[str, str] | None = None) -> Generator[Span]:
    """A span in the task's trace; everything inside belongs to `agent`."""
    root = SpanContext(
        trace_id=int(trace_id_for(task_id), 16),
        span_id=int(trace_id_for(task_id)[:16], 16),
        is_remote=True,
        trace_flags=TraceFlags(TraceFlags.SAMPLED),
    )
    parent = trace.get_current_span().get_span_context()
    context = None
    if not parent.is_valid or parent.trace_id != root.trace_id:
        context = trace.set_span_in_context(NonRecordingSpan(root))
    reset = current_scope.set(TaskScope(task_id, agent))
    try:
        with tracer.start_as_current_span(name, context=context, attributes=attributes) as span:
            yield span
    finally:
        current_scope.reset(reset)
