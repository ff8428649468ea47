"""Fetching the model once: sources in turn, one lock, room checked first, only the pinned file accepted."""

import asyncio
import contextlib
import errno
import fcntl
import logging
import os
import shutil
from collections.abc import AsyncGenerator, Callable, Sequence
from pathlib import Path

from devtools_platform.agents.adapters.embedded_model.catalogue import CODER, EmbeddedModel
from devtools_platform.agents.adapters.embedded_model.files import (
    Partial,
    WrongBytesError,
    find_cached,
    finish,
    model_dir,
)
from devtools_platform.agents.adapters.embedded_model.sources import (
    Packages,
    Report,
    Source,
    SourceFailedError,
    parse_source,
)
from devtools_platform.core.errors import DiskFull, NoModel

log = logging.getLogger(__name__)

Progress = Callable[[int, int, str], None]
"""Called with bytes so far, bytes in all, and where they come from."""

MARGIN = 256 << 20
"""Room beside the file itself: one downloaded part, and some for everybody else on the disk."""
LOCK_POLL_S = 0.2


async def fetch(cache_dir: Path, *, source: str | None, progress: Progress, model: EmbeddedModel = CODER) -> Path:
    """The model's file, fetched if the cache does not hold it.

    Takes up a download that was broken off. Raises `NoModel` with every source's failure, `DiskFull`, or
    `BadInput` for a `source` nobody could read.
    """
    sources: list[Source] = [parse_source(source, model)] if source else []
    sources.append(Packages(model))
    folder = model_dir(cache_dir, model)
    folder.mkdir(parents=True, exist_ok=True)
    async with _alone(folder / ".lock", lambda: progress(0, model.size, "waiting for another download")):
        if found := await asyncio.to_thread(find_cached, cache_dir, model):
            return found
        partial = await asyncio.to_thread(Partial, folder / f"{model.file_name}.partial", model)
        try:
            _check_room(partial, model)
            await _try_all(sources, partial, progress, model)
            return await asyncio.to_thread(finish, partial, cache_dir, model)
        except OSError as error:
            if error.errno == errno.ENOSPC:
                raise _disk_full(partial, model) from error
            raise
        finally:
            partial.close()


async def _try_all(sources: Sequence[Source], partial: Partial, progress: Progress, model: EmbeddedModel) -> None:
    failures: list[str] = []
    for source in sources:

        def report(label: str = source.label) -> None:
            progress(partial.size, model.size, label)

        try:
            return await _fill(source, partial, report)
        except (SourceFailedError, WrongBytesError) as error:
            log.warning("model source %s failed: %s", source.label, error)
            failures.append(f"{source.label}: {error}")
    raise NoModel(
        f"The model {model.name!r} ({model.title}) could not be fetched. " + " | ".join(failures),
        hint=(
            "Give a copy with `dev-tools model pull --source FILE_OR_URL`, "
            "or use an endpoint with DEV_TOOLS_MODEL_BASE_URL."
        ),
    )


async def _fill(source: Source, partial: Partial, report: Report) -> None:
    """Let one source complete the file. Wrong bytes are thrown away.

    When they may be an earlier source's, this one gets a second try from the start.
    """
    resumed_at = partial.size
    try:
        await source.fill(partial, report)
        partial.check()
    except WrongBytesError:
        partial.cut(0)
        if not resumed_at:
            raise
        await _fill(source, partial, report)


def _check_room(partial: Partial, model: EmbeddedModel) -> None:
    if shutil.disk_usage(partial.path.parent).free < model.size - partial.size + MARGIN:
        raise _disk_full(partial, model)


def _disk_full(partial: Partial, model: EmbeddedModel) -> DiskFull:
    folder = partial.path.parent
    free = shutil.disk_usage(folder).free
    needed = model.size - partial.path.stat().st_size + MARGIN
    return DiskFull(
        f"{str(folder)!r} has {free >> 20} MB free; fetching {model.name!r} needs {needed >> 20} MB more.",
        hint="Free some room, or set DEV_TOOLS_CACHE_DIR to a folder on a larger disk.",
    )


@contextlib.asynccontextmanager
async def _alone(path: Path, on_wait: Callable[[], None]) -> AsyncGenerator[None]:
    """Hold the lock file `path`; the kernel releases it however this process ends."""
    handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        while not _try_lock(handle):
            on_wait()
            await asyncio.sleep(LOCK_POLL_S)
        yield
    finally:
        os.close(handle)


def _try_lock(handle: int) -> bool:
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
