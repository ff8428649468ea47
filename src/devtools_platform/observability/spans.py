"""What becomes of a span before anybody keeps it: whose it is, what it is called at Langfuse, no secrets, bounded.

One place for all sinks. Langfuse reads each observation by itself, so what it groups by stands on every span; the
rules are those of its server (`OtelIngestionProcessor`, `ObservationTypeMapper`).
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from opentelemetry import baggage, trace
from opentelemetry.context import Context
from opentelemetry.sdk.trace import ReadableSpan, Span, SpanProcessor

from devtools_platform.core.redact import holds_secret, redact, redact_text
from devtools_platform.kit.telemetry import AGENT, TASK, current_scope
from devtools_platform.observability.interfaces import SpanRow

MAX_ATTRIBUTE_CHARS = 20_000
OBSERVATION_TYPE = "langfuse.observation.type"
STATUS_MESSAGE = "langfuse.observation.status_message"

CONTENT = frozenset(
    {
        *("gen_ai.input.messages", "gen_ai.output.messages", "gen_ai.system_instructions", "final_result"),
        *("gen_ai.tool.call.arguments", "gen_ai.tool.call.result", "gen_ai.retrieval.query.text"),
    }
)
"""What was said to models and tools, and by them."""


@dataclass(frozen=True)
class Origin:
    """Where spans come from; on each of them, since resources are lost in some receivers."""

    environment: str
    version: str
    git_sha: str | None

    @property
    def attributes(self) -> dict[str, str]:
        named = {
            "service.name": "dev-tools",
            "service.version": self.version,
            "deployment.environment.name": self.environment,
            "langfuse.environment": self.environment,
        }
        return named if self.git_sha is None else {**named, "langfuse.release": self.git_sha}


class TaskStamp(SpanProcessor):
    """Task and agent on every span: by the work that is being done, else the parent span's, else the baggage's.

    Without it sub-agents and the gateway's spans fall into sessions of their own.
    """

    def on_start(self, span: Span, parent_context: Context | None = None) -> None:
        scope = current_scope.get()
        if scope is not None:
            span.set_attribute(TASK, scope.task_id)
            span.set_attribute(AGENT, scope.agent)
            return
        parent: Any = getattr(trace.get_current_span(parent_context), "attributes", None) or {}
        known: Any = span.attributes or {}
        for name in (TASK, AGENT):
            value = known.get(name) or parent.get(name) or baggage.get_baggage(name, parent_context)
            if isinstance(value, str):
                span.set_attribute(name, value)


def to_row(span: ReadableSpan, origin: Origin, *, with_content: bool = True) -> SpanRow:
    """A finished span as every sink gets it. Without content, of an error its kind alone is kept."""
    context = span.get_span_context()
    assert context is not None  # noqa: S101 - a finished span has one
    given = dict(span.attributes or {})
    given |= _described(span, given)
    if not with_content:
        given = _without_content(given)
    attributes = {**_without_secrets(given), **origin.attributes}
    return SpanRow(
        trace_id=f"{context.trace_id:032x}",
        span_id=f"{context.span_id:016x}",
        parent_id=f"{span.parent.span_id:016x}" if span.parent else None,
        name=span.name,
        kind=span.kind.name.lower(),
        started_at=_time(span.start_time),
        ended_at=_time(span.end_time),
        status=span.status.status_code.name.lower(),
        attributes=attributes,
        task_id=attributes.get(TASK),
        agent=attributes.get(AGENT),
    )


def _without_content(given: Mapping[str, Any]) -> dict[str, Any]:
    kept = {key: value for key, value in given.items() if key not in CONTENT}
    if STATUS_MESSAGE in kept:
        kept[STATUS_MESSAGE] = str(kept[STATUS_MESSAGE]).partition(":")[0]
    return kept


def _described(span: ReadableSpan, given: Mapping[str, Any]) -> dict[str, Any]:
    """What Langfuse cannot see by itself: retrieval, our own agent spans, why something failed."""
    more: dict[str, Any] = {}
    tool = str(given.get("gen_ai.tool.name", ""))
    if tool.startswith("context_"):
        more[OBSERVATION_TYPE] = "retriever"
    elif span.name.startswith("agent_run "):
        more[OBSERVATION_TYPE] = "agent"
    if span.name == "task":
        more["langfuse.trace.name"] = "task"
    if span.status.description:
        more[STATUS_MESSAGE] = span.status.description
    elif given.get("devtools.tool.is_error"):
        more["langfuse.observation.level"] = "WARNING"
    return more


def _without_secrets(given: Mapping[str, Any]) -> dict[str, Any]:
    """Looked at all at once, ten times as fast as searched one by one: nearly all text has no secret in it."""
    texts = "\n".join([value for value in given.values() if isinstance(value, str)])
    is_clean = not holds_secret(texts) and "bearer" not in texts.lower()
    return {key: _kept(value, is_clean=is_clean) for key, value in given.items()}


def _kept(value: Any, *, is_clean: bool) -> Any:
    """Of a type that JSON has, and bounded after it was redacted: a secret that is cut is not known any more."""
    if isinstance(value, str):
        return (value if is_clean else redact_text(value))[:MAX_ATTRIBUTE_CHARS]
    if isinstance(value, (bool, int, float)):
        return value
    return json.loads(json.dumps(redact(value), default=str))


def _time(nanoseconds: int | None) -> datetime:
    return datetime.fromtimestamp((nanoseconds or 0) / 1e9, tz=UTC)
