"""One `setup` for all spans of a process: each is stamped, redacted once and stored; sinks are fed from the store.

The store is the source of truth. Nothing here speaks to another machine: `forwarding` does, from the store, so
that a sink that is slow or dead costs a task nothing and misses nothing.
"""

import threading
from collections.abc import Sequence

from opentelemetry import trace
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter, SpanExportResult
from sqlalchemy.exc import SQLAlchemyError

from devtools_platform.core.errors import Away, DevToolsError
from devtools_platform.observability.interfaces import SpanRow, SpanStore
from devtools_platform.observability.metrics import EXPORT_FAILURES, SPANS_LOST
from devtools_platform.observability.spans import Origin, TaskStamp, to_row

DELAY_MS = 500
QUEUE = 16_384
"""Spans held while the database is away; about 30 MB at most."""
PATIENCE_S = 20.0


class StoreExporter(SpanExporter):
    """Writes finished spans to our own table. Waits a while for a database that is away; runs on its own thread."""

    def __init__(self, store: SpanStore, origin: Origin, *, with_content: bool = True) -> None:
        self.store = store
        self.origin = origin
        self.with_content = with_content
        self._closed = threading.Event()

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        rows = [
            row for row in (to_row(span, self.origin, with_content=self.with_content) for span in spans) if row.task_id
        ]
        wait = 0.5
        while rows:
            try:
                self.store.write(rows)
                break
            except Away:
                EXPORT_FAILURES.labels("store").inc()
                if wait > PATIENCE_S / 2 or self._closed.wait(wait):
                    return self._lose(rows)
                wait *= 2
            except (SQLAlchemyError, DevToolsError):
                EXPORT_FAILURES.labels("store").inc()
                return self._lose(rows)
        return SpanExportResult.SUCCESS

    def shutdown(self) -> None:
        self._closed.set()

    def _lose(self, rows: Sequence[SpanRow]) -> SpanExportResult:
        SPANS_LOST.labels("store").inc(len(rows))
        return SpanExportResult.FAILURE


class Tracing:
    """The spans of this process, with or without what was said. `close` writes out what is still held."""

    def __init__(self, store: SpanStore, origin: Origin, *, with_content: bool = True) -> None:
        self.provider = TracerProvider(resource=Resource.create(dict(origin.attributes)), shutdown_on_exit=False)
        self.provider.add_span_processor(TaskStamp())
        exporter = StoreExporter(store, origin, with_content=with_content)
        self.provider.add_span_processor(
            BatchSpanProcessor(exporter, schedule_delay_millis=DELAY_MS, max_queue_size=QUEUE)
        )
        trace.set_tracer_provider(self.provider)

    def flush(self) -> None:
        self.provider.force_flush()

    def close(self) -> None:
        self.provider.shutdown()
