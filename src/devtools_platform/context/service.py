"""Code context: keeps the index of a repository's HEAD true, and finds in it what a question is about.

Leaves an indexing run to `indexer.py`, orders answers with `ranking.py`, and stores chunks in whatever
`ChunkEngine` it was given; what is indexed is written in manifests. Above it are the HTTP routes and the
agents' tools.
"""

import asyncio
import logging
import time
from collections import OrderedDict, defaultdict
from collections.abc import AsyncGenerator, Collection, Generator, Mapping
from contextlib import aclosing, asynccontextmanager, contextmanager
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from prometheus_client import Counter, Gauge, Histogram

from devtools_platform.context import git, symbols, worktree
from devtools_platform.context.access import make_not_found
from devtools_platform.context.chunking import find_skipped_path
from devtools_platform.context.documents import render
from devtools_platform.context.filling import Filling
from devtools_platform.context.indexer import find_commit, index_documents, index_files, index_head, update_files
from devtools_platform.context.interfaces import ChunkEngine, DocumentStore, Embedder, Progress
from devtools_platform.context.manifest import Manifest, ManifestStore
from devtools_platform.context.navigation import MAX_LINES, choose_files, cut_lines, find_symbol_at, make_map
from devtools_platform.context.ranking import Ranked, fit, rank
from devtools_platform.context.types import Candidate, Freshness, Hit, IndexStatus, Lines, Source, Symbol
from devtools_platform.context.vectors import VectorCache
from devtools_platform.context.watching import Watcher, needs_full_scan
from devtools_platform.core.errors import BadInput, DevToolsError, NotFound, Unavailable

log = logging.getLogger(__name__)

INDEXES_FAILING = Gauge("devtools_context_indexes_failing", "Collections whose last indexing ended in an error")
LAST_INDEX = Gauge("devtools_context_last_index_timestamp_seconds", "When a collection was last brought up to date")
QUERIES = Counter("devtools_context_queries_total", "Searches answered")
QUERY_SECONDS = Histogram(
    "devtools_context_query_duration_seconds",
    "Time of a search",
    buckets=(0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.25, 0.5, 1, 2.5),
)

WORDS_ONLY = Counter("devtools_context_words_only_queries_total", "Searches that had to do without the embedder")

CANDIDATES = 50
KEPT_QUERIES = 1_000
SYMBOL_TOKENS = 4_000
RELATED_TOKENS = 4_000
MAP_TOKENS_PER_FILE = 10
"""What the shortest line of a map takes."""
MAX_QUERY_CHARS = 2_000
MAX_LIMIT = 50


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


class ContextService:
    """One per engine. Close the service first, then the engine."""

    def __init__(
        self,
        engine: ChunkEngine,
        manifest_dir: Path,
        embedder: Embedder | None = None,
        documents: DocumentStore | None = None,
    ) -> None:
        """Without an embedder search goes by words only, and says so; without a store there are no documents."""
        self.engine = engine
        self.embedder = embedder
        self.documents = documents
        self.manifests = ManifestStore(manifest_dir)
        self.vectors = VectorCache(manifest_dir.parent / "vectors.sqlite")
        self.changes = Changes()
        self._stale = worktree.Staleness()
        self._query_vectors: OrderedDict[str, list[float]] = OrderedDict()
        self._runs: dict[str, _Run] = {}
        self._locks: defaultdict[str, asyncio.Lock] = defaultdict(asyncio.Lock)
        self._background: dict[str, asyncio.Task[None]] = {}
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

        One that is paused is left as it is: its status says so.
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
                raise
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
            await bring_up(self.engine, self.manifests, collection, repo, note)

    def get_documents(self) -> DocumentStore:
        """Raises `Unavailable` where there is no store."""
        if self.documents is None:
            raise Unavailable(
                "This context service has no store for documents.", hint="Start the stack: `dev-tools up`."
            )
        return self.documents

    async def watch(self, collection: str, root: Path) -> IndexStatus:
        """Follow the files under `root`: what is saved is searchable within a moment, until `unwatch`."""
        if collection not in self._watchers:
            ready = asyncio.Event()
            watcher = Watcher(root, lambda paths: self.refresh(collection, paths), ready)
            self._watchers[collection] = asyncio.create_task(watcher.run())
            await ready.wait()
        status = await self.index(collection, root, follow="files")
        self.manifests.save(replace(self._get_manifest(collection), is_watched=True))
        return status

    async def pause(self, collection: str) -> IndexStatus:
        """Stop indexing and embedding it until `resume`, over restarts too; what is stored is searched all along.

        Returns when the run that goes on has stopped, within a batch. Raises `NotFound`.
        """
        await self.status(collection)
        self._pausing.add(collection)
        try:
            async with self._locks[collection]:
                self.manifests.save(replace(self._get_manifest(collection), is_paused=True))
        finally:
            self._pausing.discard(collection)
        self.changes.tell(collection)
        return await self.status(collection)

    async def resume(self, collection: str) -> IndexStatus:
        """Go on where `pause` stopped, in the background. Raises `NotFound`."""
        async with self._locks[collection]:
            manifest = replace(self._get_manifest(collection), is_paused=False)
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
            self.manifests.save(replace(self._get_manifest(collection), is_watched=False))

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
        before = self._get_manifest(collection)
        if before.is_paused:
            return
        if needs_full_scan(before, paths):
            await self.index(collection, before.repo, follow="files")
            return
        async with self._locks[collection]:
            await update_files(self.engine, self.manifests, self._get_manifest(collection), paths)
        self.fill(collection)

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

    async def search(
        self,
        collection: str,
        query: str,
        limit: int = 8,
        token_budget: int = 2000,
        path_glob: str | None = None,
    ) -> list[Hit]:
        """The best chunks for a question, best first, with about `token_budget` tokens of text together.

        `path_glob` is a file, a folder, or a pattern such as `src/**/*.py`. Raises `NotFound` for a
        collection that was never indexed, `BadInput` for an empty or endless query.
        """
        _check_query(query, limit, token_budget)
        started = time.perf_counter()
        manifest = self._get_manifest(collection)
        blobs = _match_blobs(manifest, path_glob) if path_glob else None
        found: list[Candidate] = []
        if blobs != []:
            vector = await self._embed_query(query)
            found = await self.engine.search(collection, query, limit=CANDIDATES, vector=vector, blobs=blobs)
        placed = [moved for candidate in found if (moved := _place(candidate, manifest, path_glob))]
        best = rank(query, placed, limit)
        paths = {item.chunk.path for item in best}
        with_texts, stale, sources = await asyncio.gather(
            self._add_texts(best), self._look(manifest, paths), self._find_sources(manifest, paths)
        )
        fitting = fit(with_texts, limit=limit, token_budget=token_budget)
        hits = [_make_hit(ranked, manifest.commit, stale, sources) for ranked in fitting]
        QUERIES.inc()
        QUERY_SECONDS.observe(time.perf_counter() - started)
        return hits

    async def _look(self, manifest: Manifest, paths: Collection[str]) -> Mapping[str, bool | None]:
        return {} if manifest.follows == "documents" else await self._stale.look(manifest, paths)

    async def _find_sources(self, manifest: Manifest, paths: Collection[str]) -> dict[str, Mapping[str, Any]]:
        if manifest.follows != "documents" or not paths:
            return {}
        infos = await self.get_documents().list_infos(manifest.collection, sorted(paths))
        return {info.id: info.source for info in infos}

    async def _add_texts(self, ranked: list[Ranked]) -> list[Ranked]:
        texts = await self.engine.get_texts([item.id for item in ranked]) if ranked else {}
        return [replace(item, chunk=replace(item.chunk, text=texts[item.id])) for item in ranked if item.id in texts]

    async def _embed_query(self, query: str) -> list[float] | None:
        """None without an embedder, or with one that fails: search then goes by words, counted."""
        if self.embedder is None:
            return None
        if query not in self._query_vectors:
            try:
                self._query_vectors[query] = await self.embedder.embed_query(query)
            except Unavailable as error:
                log.warning("Searching by words only: %s", error)
                WORDS_ONLY.inc()
                return None
            if len(self._query_vectors) > KEPT_QUERIES:
                self._query_vectors.popitem(last=False)
        return self._query_vectors[query]

    async def outline(self, collection: str, path: str) -> list[Symbol]:
        """The definitions of one file, as of the indexed commit. Raises `NotFound` for a file not in it."""
        manifest = self._get_manifest(collection)
        content = await self._read(manifest, path)
        return await asyncio.to_thread(symbols.outline, path, content.decode(errors="replace"))

    async def symbol(self, collection: str, name: str, limit: int = 20) -> list[Hit]:
        """Where `name` is defined, alone or qualified; [] when nowhere. Raises `NotFound` as `search` does."""
        hits = await self.search(collection, name, min(MAX_LIMIT, limit), SYMBOL_TOKENS)
        wanted = name.lower().strip(".")
        return [hit for hit in hits if wanted in {hit.name.lower(), hit.name.lower().rpartition(".")[2]}]

    async def related(self, collection: str, path: str, line: int, limit: int = 8) -> list[Hit]:
        """What belongs to the definition at a line: what uses it, tests it, or is like it."""
        manifest = self._get_manifest(collection)
        content = await self._read(manifest, path)
        text = content.decode(errors="replace")
        found = find_symbol_at(await asyncio.to_thread(symbols.outline, path, text), line)
        first, last = (found.start_line, found.end_line) if found else (max(1, line - 10), line + 10)
        lines = cut_lines(path, content, first, min(last, first + MAX_LINES - 1))
        query = f"{found.name if found else ''} {path} {lines.text}"[:MAX_QUERY_CHARS]
        hits = await self.search(collection, query, min(MAX_LIMIT, limit + 4), RELATED_TOKENS)
        return [hit for hit in hits if hit.path != path or hit.end_line < first or hit.start_line > last][:limit]

    async def read_range(self, collection: str, path: str, first: int, last: int) -> Lines:
        """Lines of a file, at most 400, secrets masked. Raises `NotFound` and `BadInput`."""
        return cut_lines(path, await self._read(self._get_manifest(collection), path), first, last)

    async def repo_map(self, collection: str, token_budget: int = 1000, path_glob: str | None = None) -> str:
        """The repository in a page: a line for each of its most telling files with the names they define."""
        manifest = self._get_manifest(collection)
        paths = [path for path in manifest.files if path_glob is None or _matches(path, path_glob)]
        chosen = choose_files(paths)[: 1 + token_budget // MAP_TOKENS_PER_FILE]
        outlines = [(path, await self.outline(collection, path)) for path in chosen]
        return make_map(outlines, token_budget)

    async def freshness(self, collection: str) -> Freshness:
        """Compares the index with HEAD, or with the files on disk, whichever it follows."""
        manifest = self._get_manifest(collection)
        head = None if manifest.follows == "documents" else await find_commit(manifest.repo)
        if manifest.follows == "documents":
            entries = await self.get_documents().list_entries(collection)
        elif manifest.follows == "files":
            known = {path: (manifest.files.get(path, ""), stamp) for path, stamp in manifest.stamps.items()}
            rules = worktree.IgnoreRules(manifest.repo)
            entries, _ = await asyncio.to_thread(worktree.list_files, manifest.repo, known, rules)
        else:
            entries = await git.list_tree(manifest.repo, head) if head else []
        now = {entry.path: entry.blob for entry in entries if not find_skipped_path(entry.path, entry.size)}
        changed = sorted(path for path in {*now, *manifest.files} if now.get(path) != manifest.files.get(path))
        return Freshness(manifest.commit, head, not changed, changed[:100], len(changed))

    async def _read(self, manifest: Manifest, path: str) -> bytes:
        """A file as it was indexed; one that follows files may have changed since, then as it is now."""
        blob = manifest.files.get(path)
        content = None
        if blob is not None and manifest.follows == "documents":
            document = await self.get_documents().read(manifest.collection, path)
            content = None if document is None else render(document)
        elif blob is not None and manifest.follows == "files":
            content = await asyncio.to_thread(worktree.read_file, manifest.repo, path)
        elif blob is not None:
            async with aclosing(git.read_blobs(manifest.repo, [blob])) as contents:
                _, content = await anext(contents)
        if content is None:
            raise NotFound(
                f"No indexed file {path!r} in collection {manifest.collection!r}.",
                hint="Give a file's path from the top folder of the repository.",
            )
        return content

    async def forget(self, collection: str) -> None:
        """Remove a collection, all its chunks, and its documents for good. Raises `NotFound` when there is none."""
        async with self._locks[collection]:
            if self._get_manifest(collection).follows == "documents":
                await self.get_documents().forget(collection)
            await self.engine.delete(collection)
            self.manifests.remove(collection)
            self._runs.pop(collection, None)

    async def aclose(self) -> None:
        """End background runs; the next run completes them."""
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

    def has(self, collection: str) -> bool:
        """Whether something is searchable under that name."""
        return self.manifests.load(collection) is not None

    def _get_manifest(self, collection: str) -> Manifest:
        manifest = self.manifests.load(collection)
        if manifest is None:
            raise make_not_found(collection)
        return manifest


def _check_query(query: str, limit: int, token_budget: int) -> None:
    if not query.strip() or len(query) > MAX_QUERY_CHARS:
        raise BadInput(
            f"A query has 1 to {MAX_QUERY_CHARS} characters, this one has {len(query.strip())}.",
            hint="Ask with a few words or the name of a function.",
        )
    if not 1 <= limit <= MAX_LIMIT or token_budget < 1:
        raise BadInput(
            f"A limit of {limit} results and {token_budget} tokens: 1 to {MAX_LIMIT}, and 1 or more.",
            hint="Leave both out for the defaults.",
        )


def _match_blobs(manifest: Manifest, glob: str) -> list[str]:
    return sorted({blob for path, blob in manifest.files.items() if _matches(path, glob)})


def _matches(path: str, glob: str) -> bool:
    """Whether a path is the file, lies in the folder, or fits the pattern. `**/` may stand for no folder."""
    plain = glob.removeprefix("./").rstrip("/")
    return (
        path == plain
        or path.startswith(plain + "/")
        or fnmatchcase(path, plain)
        or fnmatchcase(path, plain.replace("**/", ""))
    )


def _place(candidate: Candidate, manifest: Manifest, glob: str | None) -> Candidate | None:
    """The candidate under a path its blob has now; None for what the index no longer holds."""
    paths = manifest.paths.get(candidate.blob, [])
    fitting = [path for path in paths if glob is None or _matches(path, glob)]
    if not fitting:
        return None
    if fitting[0] == candidate.chunk.path:
        return candidate
    return replace(candidate, chunk=replace(candidate.chunk, path=fitting[0]))


def _name_repo(repo: Path) -> str:
    """Empty for a collection of documents, which is of no repository."""
    return "" if repo == Path() else str(repo)


def _make_hit(
    ranked: Ranked,
    commit: str | None,
    stale: Mapping[str, bool | None],
    sources: Mapping[str, Mapping[str, Any]],
) -> Hit:
    chunk = ranked.chunk
    return Hit(
        path=chunk.path,
        start_line=chunk.start_line,
        end_line=chunk.end_line,
        name=chunk.name,
        kind=chunk.kind,
        score=round(ranked.score, 4),
        why=ranked.why,
        text=chunk.text,
        commit=commit,
        is_stale=stale.get(chunk.path),
        source=sources.get(chunk.path),
    )
