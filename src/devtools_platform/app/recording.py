"""What a process of ours writes down about itself while it runs: its log and the traces of its agents."""

import contextlib
import logging
import logging.handlers
from collections.abc import Generator
from pathlib import Path

import pydantic_ai

from devtools_platform import __version__
from devtools_platform.app.releases import current_release
from devtools_platform.config import Settings
from devtools_platform.observability.interfaces import SpanStore
from devtools_platform.observability.service import Tracing
from devtools_platform.observability.spans import Origin


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
def trace_to(spans: SpanStore, settings: Settings) -> Generator[Tracing]:
    """What the agents of this process do is stored as spans; those still held are written out at the end."""
    origin = Origin(settings.environment, __version__, current_release().git_sha)
    tracing = Tracing(spans, origin, with_content=settings.trace_content)
    pydantic_ai.BANNER_ENABLED = False  # it takes agents for untraced: their spans are ours, not its own
    try:
        yield tracing
    finally:
        tracing.close()
