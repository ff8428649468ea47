"""Code context: keeps the indexes of repositories and documents true, and answers questions about them.

Leaves an indexing run to `indexer.py` and the answers to `questions.py`; what is indexed is written in manifests.
Above it are the HTTP routes and the agents' tools.
"""

import asyncio
import logging
from collections import defaultdict
from collections.abc import AsyncGenerator, Collection, Generator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from prometheus_client import Gauge

from devtools_platform.context import git
from devtools_platform.context.access import make_not_found
from devtools_platform.context.filling import Filling
from devtools_platform.context.indexer import index_documents, index_files, index_head, update_files
from devtools_platform.context.interfaces import ChunkEngine, DocumentStore, Embedder, Progress
from devtools_platform.context.manifest import Manifest, ManifestStore
from devtools_platform.context.owed import Owed
from devtools_platform.context.questions import Questions
from devtools_platform.context.types import IndexStatus, Source
from devtools_platform.context.vectors import VectorCache
from devtools_platform.context.watching import Watcher, needs_full_scan
from devtools_platform.core.errors import DevToolsError, Unavailable

log = logging.getLogger(__name__)

INDEXES_FAILING = Gauge("devtools_context_indexes_failing", "Collections whose last indexing ended in an error")
LAST_INDEX = Gauge("devtools_context_last_index_timestamp_seconds", "When a collection was last brought up to date")


@dataclass
class _Run:
    """An indexing run of this process: going on, or the last one."""

    repo: Path
    is_going: bool = True
    done: int | None = None
    total: int | None = None
    error: str | None = None


class _Paused(Exception):
    """A run stops because somebody paused its collection."""


class Changes:
    """Wakes whoever waits for news of a collection."""

    def __init__(self) -> None:
        self._waiting: defaultdict[str, asyncio.Event] = defaultdict(asyncio.Event)

    def tell(self, collection: str) -> None:
        self._waiting.pop(collection, asyncio.Event()).set()

    def next(self, collection: str) -> asyncio.Event:
        """Set by the first change from now on: take it before looking, wait for it afterwards."""
        return self._waiting[collection]


class ContextService(Questions):
    """One per engine. Close the service first, then the engine."""

    def __init__(
        self,
        engine: ChunkEngine,
        manifest_dir: Path,
        embedder: Embedder | None = None,
        documents: DocumentStore | None = None,
    ) -> None:
        super().__init__(engine, ManifestStore(manifest_dir), embedder, documents)
        self.vectors = VectorCache(manifest_dir.parent / "vectors.sqlite")
        self.changes = Changes()
        self._runs: dict[str, _Run] = {}
        self._locks: defaultdict[str, asyncio.Lock] = defaultdict(asyncio.Lock)
        self._background: dict[str, asyncio.Task[None]] = {}
        self.owed = Owed(self._catch_up)
        """What is tried again by itself."""
        self._filling = None if embedder is None else Filling(engine, embedder, self.vectors, self.manifests)
        self._is_restoring = False
        self._pausing: set[str] = set()
        self._watchers: dict[str, asyncio.Task[None]] = {}

    async def collections(self) -> list[str]:
        """Every collection that is indexed, or is being indexed for the first time."""
        going = {name for name, run in self._runs.items() if run.is_going}
        return sorted({*self.manifests.list_names(), *going})

    async def status(self, collection: str) -> IndexStatus:
        """Raises `NotFound` for a collection nobody ever asked to index."""
        run = self._runs.get(collection)
        manifest = self.manifests.load(collection)
        if manifest is None and run is None:
            raise make_not_found(collection)
        return IndexStatus(
            collection=collection,
            repo=_name_repo(manifest.repo if manifest else run.repo if run else Path()),
            commit=manifest.commit if manifest else None,
            files=len(manifest.files) if manifest else 0,
            chunks=await self.engine.count(collection),
            indexed_at=manifest.indexed_at if manifest else None,
            is_indexing=run is not None and run.is_going,
            files_done=run.done if run else None,
            files_total=run.total if run else None,
            error=run.error if run else None,
            follows=manifest.follows if manifest else "commit",
            is_watched=collection in self._watchers,
            is_paused=self.manifests.is_paused(collection),
            without_vector=await self._count_without_vector(collection),
            embedding_error=self._filling.error if self._filling else None,
            skipped=dict(sorted(manifest.skipped.items())) if manifest else {},
        )

    async def _count_without_vector(self, collection: str) -> int | None:
        return await self.engine.count(collection, without_vector=True) if self.embedder else None

    async def index(
        self, collection: str, repo: Path, progress: Progress | None = None, follow: Source = "commit"
    ) -> IndexStatus:
        """Make the collection true of HEAD, or of the files on disk; only what changed since the last time is read.

        One that is paused is left as it is: its status says so. What was away, here or at `refresh`, is tried again
        by itself until it is there.
        `repo` is absolute. Raises `NotARepository`, `ProgramFailed` (git) and `Unavailable` (engine).
        """
        if self.manifests.load(collection) is None and self._is_restoring:  # the load refuses a bad name
            raise Unavailable("A snapshot is being restored.", hint="Index it when that has ended.")
        async with self._locks[collection]:
            run = self._runs[collection] = _Run(repo)

            def note(done: int, total: int) -> None:
                run.done, run.total = done, total
                self.changes.tell(collection)
                if progress:
                    progress(done, total)
                if collection in self._pausing and done < total:
                    raise _Paused

            try:
                if not self.manifests.is_paused(collection):
                    await self._bring_up(collection, repo, note, follow)
                    LAST_INDEX.set_to_current_time()
            except _Paused:  # as after a kill: what is stored is known, the rest is pending
                log.info("Indexing %s is paused", collection)
            except BaseException as error:
                run.error = str(error) or type(error).__name__
                if isinstance(error, Unavailable):
                    self.owed.note(collection, repo, follow)
                raise
            else:
                self.owed.settle(collection)
            finally:
                run.is_going = False
                self.changes.tell(collection)
                INDEXES_FAILING.set(sum(1 for run in self._runs.values() if run.error))
        self.fill(collection)
        return await self.status(collection)

    async def _bring_up(self, collection: str, repo: Path, note: Progress, follow: Source) -> None:
        if follow == "documents":
            await index_documents(self.engine, self.manifests, self.get_documents(), collection, note)
        else:
            bring_up = index_head if follow == "commit" else index_files
            manifest = await bring_up(self.engine, self.manifests, collection, repo, note)
            await self.histories.read(manifest)  # here, and not while the first question waits

    async def watch(self, collection: str, root: Path) -> IndexStatus:
        """Follow the files under `root`: what is saved is searchable within a moment, until `unwatch`."""
        if collection not in self._watchers:
            ready = asyncio.Event()
            watcher = Watcher(root, lambda paths: self.refresh(collection, paths), ready)
            self._watchers[collection] = asyncio.create_task(watcher.run())
            await ready.wait()
        status = await self.index(collection, root, follow="files")
        self._note_watched(collection)
        return status

    def _note_watched(self, collection: str) -> None:
        """For the next process."""
        self.manifests.save(replace(self.get_manifest(collection), is_watched=True))

    async def pause(self, collection: str) -> IndexStatus:
        """Stop indexing and embedding it until `resume`, over restarts too; what is stored is searched all along.

        Returns when the run that goes on has stopped, within a batch. Raises `NotFound`.
        """
        await self.status(collection)
        self._pausing.add(collection)
        try:
            async with self._locks[collection]:
                self.manifests.save(replace(self.get_manifest(collection), is_paused=True))
        finally:
            self._pausing.discard(collection)
        self.changes.tell(collection)
        return await self.status(collection)

    async def resume(self, collection: str) -> IndexStatus:
        """Go on where `pause` stopped, in the background. Raises `NotFound`."""
        async with self._locks[collection]:
            manifest = replace(self.get_manifest(collection), is_paused=False)
            self.manifests.save(manifest)
        return await self._begin(collection, manifest.repo, manifest.follows)

    async def start_watch(self, collection: str, root: Path) -> IndexStatus:
        """The same in the background."""
        run = self._runs.get(collection)
        if run is None or not run.is_going:
            self._runs[collection] = _Run(root)
            work = self._resume_one(collection, Manifest(collection, root, is_watched=True))
            self._background[collection] = asyncio.create_task(work)
        return await self.status(collection)

    async def unwatch(self, collection: str) -> None:
        if watcher := self._watchers.pop(collection, None):
            watcher.cancel()
            await asyncio.gather(watcher, return_exceptions=True)
            self.manifests.save(replace(self.get_manifest(collection), is_watched=False))

    async def resume_all(self) -> None:
        """Watch again what was watched when the last process ended, and finish what it was killed in."""
        for collection in self.manifests.list_names():
            manifest = self.manifests.load(collection)
            if manifest is not None and (manifest.is_watched or manifest.pending):
                work = self._resume_one(collection, manifest)
                self._background[collection] = asyncio.create_task(work)
        if self.documents is not None:
            self._background[""] = asyncio.create_task(self._resume_documents(self.documents))

    async def _resume_documents(self, store: DocumentStore) -> None:
        """A process may have been killed between storing, or forgetting, and indexing."""
        try:
            for collection in await store.list_collections():
                await self.index(collection, Path(), follow="documents")
        except DevToolsError as error:
            log.warning("Documents are not brought up to date: %s", error)

    async def _resume_one(self, collection: str, manifest: Manifest) -> None:
        try:
            if manifest.is_watched:
                await self.watch(collection, manifest.repo)
            else:
                await self.index(collection, manifest.repo, follow=manifest.follows)
        except DevToolsError as error:
            log.warning("%s cannot be followed any more: %s", collection, error)

    async def refresh(self, collection: str, paths: Collection[str]) -> None:
        """Look at these files of an index that follows files. A folder among them means looking at all."""
        before = self.get_manifest(collection)
        if before.is_paused:
            return
        if needs_full_scan(before, paths):
            await self.index(collection, before.repo, follow="files")
            return
        async with self._locks[collection]:
            try:
                await update_files(self.engine, self.manifests, self.get_manifest(collection), paths)
            except Unavailable:
                self.owed.note(collection, before.repo, "files")
                raise
        self.fill(collection)

    async def _catch_up(self, collection: str, repo: Path, follow: Source) -> None:
        await self.index(collection, repo, follow=follow)
        if collection in self._watchers:
            self._note_watched(collection)

    async def wait_for_vectors(self) -> None:
        """Until the background embedding that is known now has ended."""
        if self._filling is not None:
            await self._filling.wait()

    async def start_index(self, collection: str, repo: Path, follow: Source = "commit") -> IndexStatus:
        """The same in the background. A run that goes on already is left alone, and its status returned."""
        if follow == "commit":
            await git.find_head(repo)  # the caller hears at once that there is nothing to index
        return await self._begin(collection, repo, follow)

    async def _begin(self, collection: str, repo: Path, follow: Source) -> IndexStatus:
        run = self._runs.get(collection)
        if run is None or not run.is_going:
            self._runs[collection] = _Run(repo)
            self._background[collection] = asyncio.create_task(self._index_in_background(collection, repo, follow))
        return await self.status(collection)

    async def _index_in_background(self, collection: str, repo: Path, follow: Source) -> None:
        try:
            await self.index(collection, repo, follow=follow)
        except DevToolsError as error:
            log.warning("Indexing %s failed: %s", repo, error)
        except Exception:
            log.exception("Indexing %s failed", repo)

    async def forget(self, collection: str) -> None:
        """Remove a collection, all its chunks, and its documents for good. Raises `NotFound` when there is none."""
        async with self._locks[collection]:
            if self.get_manifest(collection).follows == "documents":
                await self.get_documents().forget(collection)
            await self.engine.delete(collection)
            self.manifests.remove(collection)
            self.histories.forget(collection)
            self._runs.pop(collection, None)
            self.owed.settle(collection)

    async def aclose(self) -> None:
        """End background runs; the next run completes them."""
        await self.owed.aclose()
        running = [*self._watchers.values(), *self._background.values()]
        for task in running:
            task.cancel()
        await asyncio.gather(*running, return_exceptions=True)
        if self._filling is not None:
            await self._filling.aclose()

    @asynccontextmanager
    async def hold(self, collection: str) -> AsyncGenerator[None]:
        """Nobody indexes the collection meanwhile; it is searched all along."""
        async with self._locks[collection]:
            yield

    @contextmanager
    def refuse_new(self) -> Generator[None]:
        """No collection may be indexed for the first time meanwhile: it would be lost with the generation."""
        self._is_restoring = True
        try:
            yield
        finally:
            self._is_restoring = False

    def note_failure(self, collection: str, repo: Path, error: str) -> None:
        """Why a collection could not be brought up to date before an indexing run could even begin."""
        self._runs[collection] = _Run(repo, is_going=False, error=error)
        self.changes.tell(collection)

    def fill(self, collection: str) -> None:
        """Give chunks their vectors in the background."""
        if self._filling is not None:
            self._filling.start(collection)


def _name_repo(repo: Path) -> str:
    """Empty for a collection of documents, which is of no repository."""
    return "" if repo == Path() else str(repo)
