"""One `setup` for all spans of a process: every span is stamped with task and agent, redacted once, then stored."""

import json
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from opentelemetry import trace
from opentelemetry.context import Context
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import ReadableSpan, Span, SpanProcessor, TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter, SpanExportResult
from sqlalchemy.exc import SQLAlchemyError

from devtools_platform import __version__
from devtools_platform.core.errors import DevToolsError
from devtools_platform.core.redact import redact
from devtools_platform.kit.telemetry import current_scope
from devtools_platform.observability.interfaces import SpanRow, SpanStore
from devtools_platform.observability.metrics import EXPORT_FAILURES

MAX_ATTRIBUTE_CHARS = 20_000


class TaskStamp(SpanProcessor):
    """Langfuse's session and user, on every span: without it sub-agents fall into sessions of their own."""

    def on_start(self, span: Span, parent_context: Context | None = None) -> None:
        scope = current_scope.get()
        if scope is not None:
            span.set_attribute("session.id", scope.task_id)
            span.set_attribute("user.id", scope.agent)


class StoreExporter(SpanExporter):
    """Writes finished spans to our own table, the source of truth."""

    def __init__(self, store: SpanStore) -> None:
        self.store = store

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        try:
            self.store.write([to_row(span) for span in spans])
        except (SQLAlchemyError, DevToolsError):
            EXPORT_FAILURES.labels("store").inc(len(spans))
            return SpanExportResult.FAILURE
        return SpanExportResult.SUCCESS


class Tracing:
    """The spans of this process. `close` writes out what is still held."""

    def __init__(self, store: SpanStore, *, environment: str) -> None:
        resource = Resource.create(
            {
                "service.name": "dev-tools",
                "service.version": __version__,
                "deployment.environment.name": environment,
            }
        )
        self.provider = TracerProvider(resource=resource, shutdown_on_exit=False)
        self.provider.add_span_processor(TaskStamp())
        self.provider.add_span_processor(BatchSpanProcessor(StoreExporter(store), schedule_delay_millis=500))
        trace.set_tracer_provider(self.provider)

    def flush(self) -> None:
        self.provider.force_flush()

    def close(self) -> None:
        self.provider.shutdown()


def to_row(span: ReadableSpan) -> SpanRow:
    """A finished span as we store it."""
    context = span.get_span_context()
    assert context is not None  # noqa: S101 - a finished span has one
    attributes: Mapping[str, Any] = redact(dict(span.attributes or {}))
    return SpanRow(
        trace_id=f"{context.trace_id:032x}",
        span_id=f"{context.span_id:016x}",
        parent_id=f"{span.parent.span_id:016x}" if span.parent else None,
        name=span.name,
        kind=span.kind.name.lower(),
        started_at=_time(span.start_time),
        ended_at=_time(span.end_time),
        status=span.status.status_code.name.lower(),
        attributes={key: _storable(value) for key, value in attributes.items()},
        task_id=attributes.get("session.id"),
        agent=attributes.get("user.id"),
    )


def _time(nanoseconds: int | None) -> datetime:
    return datetime.fromtimestamp((nanoseconds or 0) / 1e9, tz=UTC)


def _storable(value: Any) -> Any:
    if isinstance(value, str):
        return value[:MAX_ATTRIBUTE_CHARS]
    return value if isinstance(value, (bool, int, float)) else json.loads(json.dumps(value, default=str))
