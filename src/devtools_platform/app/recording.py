"""What a process of ours writes down about itself while it runs: its log and the traces of its agents."""

import contextlib
import logging
import logging.handlers
from collections.abc import Generator
from contextlib import AbstractContextManager
from pathlib import Path

from devtools_platform import __version__
from devtools_platform.config import Settings
from devtools_platform.deploy.service import current_release
from devtools_platform.observability.interfaces import SpanStore
from devtools_platform.observability.service import Tracing
from devtools_platform.observability.spans import Origin


def log_to(file: Path) -> AbstractContextManager[None]:
    """Everything the process logs goes to a bounded file; the terminal is for progress."""
    return _log(logging.handlers.RotatingFileHandler(file, maxBytes=5_000_000, backupCount=2))


def log_to_terminal() -> AbstractContextManager[None]:
    """Everything the process logs goes to standard error, which whoever runs it keeps and bounds."""
    return _log(logging.StreamHandler())


@contextlib.contextmanager
def _log(handler: logging.Handler) -> Generator[None]:
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
    """Spans of this process are stored; those still held are written out at the end."""
    origin = Origin(settings.environment, __version__, current_release().git_sha)
    tracing = Tracing(spans, origin, with_content=settings.trace_content)
    try:
        yield tracing
    finally:
        tracing.close()


def silence_banner() -> None:
    """Where agents run: pydantic-ai takes them for untraced and says so, for their spans are ours, not its own."""
    import pydantic_ai  # brings much with it: only where agents run

    pydantic_ai.BANNER_ENABLED = False
