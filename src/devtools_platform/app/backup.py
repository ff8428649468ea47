"""Backup and restore of a stack's database, wherever it is: a running stack's, a given server's, or the embedded one.

The embedded server is started for the time it takes when no stack runs it.
"""

import asyncio
from collections.abc import AsyncGenerator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

from sqlalchemy import inspect

from devtools_platform.app.home import Home
from devtools_platform.config import Settings
from devtools_platform.core.errors import Conflict
from devtools_platform.kit import database, schema
from devtools_platform.state import backup
from devtools_platform.state.adapters.embedded_postgres import EmbeddedPostgres, find_programs
from devtools_platform.state.backup import Restored
from devtools_platform.state.supervision import list_workers

Progress = Callable[[str, str], None]


@dataclass(frozen=True)
class Backup:
    """The database of one data directory."""

    settings: Settings
    progress: Progress

    async def save(self, file: Path) -> int:
        """Write it to `file`, also while tasks run; returns the size in bytes."""
        home = Home(self.settings.data_dir)
        home.prepare()
        async with AsyncExitStack() as cleanup:
            url = self._given_url() or (home.find_secret("database_url") if home.is_locked() else None)
            if url is None:
                url = await cleanup.enter_async_context(self._own_server(home))
            return await asyncio.to_thread(backup.back_up, url, file, find_programs())

    async def restore(self, file: Path, *, replace: bool) -> Restored:
        """Put `file` in place of the database. Raises `AlreadyRunning` while a stack runs on this data directory."""
        home = Home(self.settings.data_dir)
        home.prepare()
        async with AsyncExitStack() as cleanup:
            if (url := self._given_url()) is None:
                url = await cleanup.enter_async_context(self._own_server(home))
            else:
                cleanup.enter_context(home.lock())
            await _refuse_while_worked_on(url)
            restored = await asyncio.to_thread(backup.restore, url, file, find_programs(), replace=replace)
            engine = database.connect(url)
            cleanup.callback(engine.dispose)
            try:
                await asyncio.to_thread(database.migrate, engine)
            except Conflict as error:
                kept = restored.safety_backup
                before = f" What was there before is in {str(kept)!r}." if kept else ""
                raise Conflict(f"The backup is restored, but: {error}", hint=error.hint + before) from None
            return restored

    def _given_url(self) -> str | None:
        return self.settings.database_url.get_secret_value() if self.settings.database_url else None

    @asynccontextmanager
    async def _own_server(self, home: Home) -> AsyncGenerator[str]:
        with home.lock():
            postgres = EmbeddedPostgres(self.settings.data_dir)
            url = await postgres.start(lambda text: self.progress("database", text))
            try:
                yield url
            finally:
                await postgres.stop()


async def _refuse_while_worked_on(url: str) -> None:
    """A stack or a worker elsewhere, on the same database, would go on with what is no longer there."""
    engine = database.connect(url)
    try:
        if not await database.in_thread(engine, lambda c: inspect(c).has_table("workers", schema=schema.SCHEMA)):
            return
        alive = [worker.id for worker in await list_workers(engine, {}) if worker.status == "alive"]
    finally:
        engine.dispose()
    if alive:
        raise Conflict(
            f"{', '.join(alive)} work on this database.",
            hint="Stop every stack and worker that uses it, then try again.",
        )
