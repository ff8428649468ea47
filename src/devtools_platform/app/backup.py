"""Everything of a stack in one encrypted archive, and a stack from such an archive in an empty place.

In it: the database, the code index with its vectors, the workspaces, the data directory's secrets, keys, locks and
sign-ins, the settings and the files they name. Not in it: what is made again by itself (downloads, logs, clones of
remotes), and secrets that an environments file or a catalogue takes from the environment.
"""

import asyncio
import json
import shlex
import shutil
import tempfile
from collections.abc import AsyncGenerator, Callable, Generator
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager, nullcontext
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import sqlalchemy as sa
from pydantic import TypeAdapter, ValidationError
from sqlalchemy import inspect

from devtools_platform import __version__
from devtools_platform.app.context_client import ContextClient
from devtools_platform.app.home import LAST_BACKUP, Home
from devtools_platform.app.search_engine import open_service
from devtools_platform.config import Settings, list_values
from devtools_platform.context.custody import Custody
from devtools_platform.context.snapshot import Snapshot
from devtools_platform.core.errors import BadInput, Conflict, DevToolsError
from devtools_platform.kit import archive, database, git
from devtools_platform.state import backup
from devtools_platform.state.adapters.embedded_postgres import EmbeddedPostgres, find_programs, forget_cluster
from devtools_platform.state.audit import AuditLog
from devtools_platform.state.supervision import list_workers

Progress = Callable[[str, str], None]

FORMAT = 1
MADE_AGAIN = {
    "cache",
    "context",
    "demo",
    "logs",
    "postgres",
    "restored",
    "stack.json",
    "stack.lock",
    "database_url",
    LAST_BACKUP,
}
"""Of the data directory: what has a part of its own in the archive, or is made again by itself."""
NOT_CONFIG = {"data_dir", "cache_dir", "model_file", "sandbox_program"}
"""Settings that name places or downloads of one machine."""


@dataclass(frozen=True)
class Contents:
    """What an archive says of itself."""

    version: str
    created_at: datetime
    store: str
    """`postgresql` or `sqlite`: a backup comes back to the kind of store it was made of."""
    has_index: bool
    format: int = FORMAT


_CONTENTS = TypeAdapter(Contents)


@dataclass(frozen=True)
class Made:
    file: Path
    bytes: int
    contents: Contents


@dataclass(frozen=True)
class Verified:
    """What came out of an archive when it was restored in a place of its own."""

    contents: Contents
    tasks: int
    audit_entries: int
    workspaces: int
    chunks: int | None
    """None: the archive has no index."""
    problems: tuple[str, ...]


@dataclass(frozen=True)
class Restored:
    tasks: int
    workspaces: int
    chunks: int | None
    settings: Path
    """Of the stack that was backed up; nothing reads it by itself."""


@dataclass(frozen=True)
class Backup:
    """The stack of one data directory."""

    settings: Settings
    progress: Progress

    # -- create --------------------------------------------------------------------------------------------------------

    async def create(self, file: Path, public_key: str, *, with_index: bool = True) -> Made:
        """Write all of it to `file`, also while tasks run; an older file stays until the new one is whole.

        Raises `BadInput` for a place or key that cannot be used, `DiskFull`.
        """
        home = Home.of(self.settings)
        home.prepare()
        is_running = home.is_locked()
        with nullcontext() if is_running else home.lock(), _staging(home) as folder:
            async with self._database(home, is_running=is_running) as url:
                await _require_used(url)
                self.progress("database", "copied as it is at this moment")
                dump = folder / "database" / "dump"
                await asyncio.to_thread(backup.back_up, url, dump, find_programs())
                if with_index:
                    self.progress("index", "copied with its vectors")
                    await self._save_index(home, url, folder / "index" / "snapshot", is_running=is_running)
            self._save_settings(folder / "config")
            await asyncio.to_thread(_copy_home, home, folder / "home")
            store = "postgresql" if backup.sqlite_file(url) is None else "sqlite"
            contents = Contents(__version__, datetime.now(UTC), store, with_index)
            (folder / "about" / "backup.json").write_bytes(_CONTENTS.dump_json(contents))
            parts = {name: folder / name for name in ("about", "database", "index", "config", "home")}
            self.progress("archive", "the workspaces, and all of it encrypted")
            size = await asyncio.to_thread(archive.pack, file, parts | {"workspaces": home.workspaces}, public_key)
        home.keep_secret(LAST_BACKUP, json.dumps({"at": contents.created_at.isoformat(), "file": str(file)}))
        return Made(file, size, contents)

    async def _save_index(self, home: Home, url: str, file: Path, *, is_running: bool) -> None:
        """From the service where it runs, here or elsewhere: it alone knows what it is writing."""
        if is_running:
            await ContextClient.of(home).download(file)
            return
        if self.settings.context_url is not None:
            await ContextClient(self.settings.context_url.rstrip("/"), home.secret("token")).download(file)
            return
        async with self._offline_index(home, url) as custody:
            await custody.save(file)

    def _save_settings(self, folder: Path) -> None:
        values = list_values(self.settings, without=NOT_CONFIG)
        lines: list[str] = []
        for name, one in values.items():
            value = one.value
            if one.path is not None and one.path.exists() and self.settings.data_dir not in one.path.parents:
                (folder / name).mkdir()
                copy = folder / name / one.path.name
                (shutil.copytree if one.path.is_dir() else shutil.copyfile)(one.path, copy)
                value = f"@restored/{name}/{one.path.name}"
            lines.append(f"{one.variable}={shlex.quote(value)}\n")
        (folder / "settings.env").write_text("".join(lines))

    # -- verify --------------------------------------------------------------------------------------------------------

    async def verify(self, file: Path, key: Path) -> Verified:
        """Restore `file` in a place of its own, look at what came, and throw it away. This stack is not touched."""
        home = Home.of(self.settings)
        home.prepare()
        with _staging(home) as folder:
            contents = await self._unpack(file, folder, key)
            self.progress("database", "restored beside this one, brought to this release's schema")
            async with _throw_away_database(folder / "try", contents.store) as url:
                tasks = await asyncio.to_thread(backup.restore, url, folder / "database" / "dump", find_programs())
                engine = database.connect(url)
                try:
                    await asyncio.to_thread(database.migrate, engine)
                    audit = await AuditLog(engine).verify()
                finally:
                    engine.dispose()
            problems = [] if audit.broken_at is None else [f"the audit's chain is broken at entry {audit.broken_at}"]
            chunks = None
            if contents.has_index:
                snapshot = Snapshot(folder / "index" / "snapshot")
                chunks = await asyncio.to_thread(_count_chunks, snapshot)
            clones = _list_clones(folder / "workspaces")
            for clone in clones:
                try:
                    await git.head_of(clone)
                except DevToolsError as error:
                    problems.append(f"the workspace {clone.name} cannot be used: {error}")
            problems += [f"{name} is missing" for name in ("token", "secret") if not (folder / "home" / name).is_file()]
        return Verified(contents, tasks, audit.entries, len(clones), chunks, tuple(problems))

    async def _unpack(self, file: Path, folder: Path, key: Path) -> Contents:
        self.progress("archive", "decrypted beside its place")
        return await asyncio.to_thread(_unpack, file, folder, key)

    # -- restore -------------------------------------------------------------------------------------------------------

    async def restore(self, file: Path, key: Path) -> Restored:
        """Make an empty data directory and an empty database the stack that is in `file`; overwrite nothing.

        Raises `Conflict` where something is there already, `AlreadyRunning` while a stack runs here.
        """
        home = Home.of(self.settings)
        home.prepare()
        with home.lock(), _staging(home) as folder:
            _refuse_used(home, folder)
            contents = await self._unpack(file, folder, key)
            self._refuse_other_store(contents)
            async with self._database(home, is_running=False) as url, AsyncExitStack() as opened:
                await _refuse_while_worked_on(url)
                custody = None
                if contents.has_index:  # one that is away is told before anything is changed
                    custody = await opened.enter_async_context(self._offline_index(home, url))
                    await custody.service.engine.count()
                tasks = await asyncio.to_thread(backup.restore, url, folder / "database" / "dump", find_programs())
                self.progress("database", f"{tasks} tasks")
                await _migrate(url)
                chunks = None
                if custody is not None:
                    chunks = (await custody.restore(folder / "index" / "snapshot")).chunks
                    self.progress("index", f"{chunks} chunks")
            return Restored(tasks, _take_over(home, folder), chunks, home.path / "restored" / "settings.env")

    def _refuse_other_store(self, contents: Contents) -> None:
        given = self._given_url()
        store = "sqlite" if given is not None and backup.sqlite_file(given) is not None else "postgresql"
        if store != contents.store:
            url = "sqlite:////absolute/path/file.db" if contents.store == "sqlite" else "a postgresql:// URL, or none"
            raise Conflict(
                f"The backup is of {contents.store}, the database here is {store}.", hint=f"Set DATABASE_URL to {url}."
            )

    # -- what they work on ---------------------------------------------------------------------------------------------

    def _given_url(self) -> str | None:
        return self.settings.database_url.get_secret_value() if self.settings.database_url else None

    @asynccontextmanager
    async def _database(self, home: Home, *, is_running: bool) -> AsyncGenerator[str]:
        """The given one, or the running stack's; else the embedded server, started for the time it takes."""
        url = self._given_url() or (home.find_secret("database_url") if is_running else None)
        if url is not None:
            yield url
            return
        postgres = EmbeddedPostgres(self.settings.data_dir)
        url = await postgres.start(lambda text: self.progress("database", text))
        try:
            yield url
        finally:
            await postgres.stop()

    @asynccontextmanager
    async def _offline_index(self, home: Home, url: str) -> AsyncGenerator[Custody]:
        engine = database.connect(url)
        async with AsyncExitStack() as cleanup:
            cleanup.callback(engine.dispose)
            yield Custody(await open_service(self.settings, home.path / "context", engine, self.progress, cleanup))


def _unpack(file: Path, folder: Path, key: Path) -> Contents:
    if not file.is_file():
        raise BadInput(f"There is no file {str(file)!r}.", hint="Make one with `dev-tools backup create FILE`.")
    for part in folder.iterdir():
        part.rmdir()
    archive.unpack(file, folder, key)
    try:
        contents = _CONTENTS.validate_json((folder / "about" / "backup.json").read_bytes())
    except (OSError, ValidationError):
        raise BadInput(
            f"{str(file)!r} does not say what is in it.", hint="Give a file that `dev-tools backup create` wrote."
        ) from None
    if contents.format != FORMAT:
        raise Conflict(
            f"{str(file)!r} has format {contents.format}, this release reads {FORMAT}.",
            hint=f"Restore it with Dev-Tools {contents.version}, which made it.",
        )
    return contents


@contextmanager
def _staging(home: Home) -> Generator[Path]:
    """A folder in the data directory, closed to others as it is: what is in an archive never lies open elsewhere."""
    with tempfile.TemporaryDirectory(prefix=".backup-", dir=home.path) as name:
        folder = Path(name)
        for part in ("about", "database", "index", "config", "home"):
            (folder / part).mkdir()
        yield folder


def _list_home(home: Home) -> list[Path]:
    apart = [] if home.kept == home.path else list(home.kept.iterdir())
    return [*(path for path in home.path.iterdir() if path != home.kept), *apart]


def _copy_home(home: Home, target: Path) -> None:
    for path in _list_home(home):
        if path.name in MADE_AGAIN | {"workspaces"} or path.name.startswith(".") or path.is_symlink():
            continue
        if path.is_dir():
            shutil.copytree(path, target / path.name, symlinks=True)
        elif path.is_file() and not _is_database(path):
            shutil.copy2(path, target / path.name)
    for name in ("token", "secret"):  # given ones stand elsewhere
        if (value := home.find_secret(name)) is not None:
            Home(target).keep_secret(name, value)


def _is_database(path: Path) -> bool:
    """An SQLite store in the data directory has a copy of its own in the archive, taken as one moment."""
    with path.open("rb") as file:
        return file.read(16) == b"SQLite format 3\0" or path.name.endswith(("-wal", "-shm"))


def _refuse_used(home: Home, ours: Path) -> None:
    """Empty folders, logs and the lock are nothing to lose; a database has a check of its own."""
    nothing = {"stack.lock", "logs", "postgres", LAST_BACKUP, ours.name}
    for path in _list_home(home):
        if path.name in nothing or (path.is_dir() and not any(path.iterdir())) or _is_given_database(path):
            continue
        raise Conflict(
            f"{str(home.path)!r} holds {path.name!r} already, and a restore overwrites nothing.",
            hint="Give another data directory (--data-dir), or move this one away.",
        )
    if clones := _list_clones(home.workspaces):
        raise Conflict(
            f"{str(home.workspaces)!r} holds {clones[0].name!r} already, and a restore overwrites nothing.",
            hint="Give another folder of workspaces (DEV_TOOLS_WORKSPACES_DIR), or move this one away.",
        )


def _is_given_database(path: Path) -> bool:
    return path.is_file() and _is_database(path)


def _take_over(home: Home, folder: Path) -> int:
    """Into their places; the secrets last, because they make it a stack. Returns how many workspaces came."""
    config = folder / "config"
    text = (config / "settings.env").read_text().replace("@restored", str(home.path / "restored"))
    (config / "settings.env").write_text(text)
    (config / "settings.env").chmod(0o600)
    config.rename(home.path / "restored")
    came = 0
    for clone in _list_clones(folder / "workspaces"):
        shutil.move(clone, home.workspaces / clone.name)  # which may be on another disk
        came += 1
    for path in sorted((folder / "home").iterdir(), key=lambda one: one.name in {"token", "secret"}):
        shutil.move(path, home.kept / path.name)
    return came


def _list_clones(folder: Path) -> list[Path]:
    return sorted(path for path in folder.iterdir() if path.is_dir()) if folder.is_dir() else []


def _count_chunks(snapshot: Snapshot) -> int:
    pages = (page for one in snapshot.manifests for page in snapshot.pages_of_chunks(one.collection))
    return sum(len(chunks) for page in pages for chunks in page.values())


@asynccontextmanager
async def _throw_away_database(folder: Path, store: str) -> AsyncGenerator[str]:
    await asyncio.to_thread(folder.mkdir)
    if store == "sqlite":
        yield f"sqlite:///{folder / 'store.db'}"
        return
    postgres = EmbeddedPostgres(folder)
    try:
        yield await postgres.start(lambda _: None)
    finally:
        await postgres.stop()
        await asyncio.to_thread(forget_cluster, folder)


async def _require_used(url: str) -> None:
    engine = database.connect(url)
    try:
        step = await database.read_in_thread(engine, database.read_step)
    finally:
        engine.dispose()
    if step is None:
        raise BadInput(
            "There is nothing to back up: no stack has used this database.", hint="Start one: `dev-tools up`."
        )


async def _migrate(url: str) -> None:
    engine = database.connect(url)
    try:
        await asyncio.to_thread(database.migrate, engine)
    finally:
        engine.dispose()


async def _refuse_while_worked_on(url: str) -> None:
    """A stack or a worker elsewhere, on the same database, would go on with what is no longer there."""
    engine = database.connect(url)

    def knows_workers(connection: sa.Connection) -> bool:
        return inspect(connection).has_table("workers", schema=database.schema_in(connection))

    try:
        if not await database.in_thread(engine, knows_workers):
            return
        alive = [worker.id for worker in await list_workers(engine, {}) if worker.status == "alive"]
    finally:
        engine.dispose()
    if alive:
        raise Conflict(
            f"{', '.join(alive)} work on this database.",
            hint="Stop every stack and worker that uses it, then try again.",
        )
