"""What a process of ours writes down about itself while it runs: its log and the traces of its agents."""

import contextlib
import logging
import logging.handlers
from collections.abc import Generator
from pathlib import Path

from pydantic_ai import Agent
from pydantic_ai.models.instrumented import InstrumentationSettings

from devtools_platform.observability.interfaces import SpanStore
from devtools_platform.observability.service import Tracing


@contextlib.contextmanager
def log_to(file: Path) -> Generator[None]:
    """Everything the process logs goes to a bounded file; the terminal is for progress."""
    handler = logging.handlers.RotatingFileHandler(file, maxBytes=5_000_000, backupCount=2)
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s %(message)s"))
    root = logging.getLogger()
    root.addHandler(handler)
    logging.raiseExceptions = False  # a log on a full disk must not write tracebacks over the progress
    try:
        yield
    finally:
        root.removeHandler(handler)
        handler.close()


@contextlib.contextmanager
def trace_to(spans: SpanStore, environment: str) -> Generator[None]:
    """What the agents of this process do is stored as spans; those still held are written out at the end."""
    tracing = Tracing(spans, environment=environment)
    Agent.instrument_all(InstrumentationSettings(tracer_provider=tracing.provider))
    try:
        yield
    finally:
        tracing.close()
