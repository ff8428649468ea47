"""Code context: keeps the index of a repository's HEAD true, and finds in it what a question is about.

Leaves an indexing run to `indexer.py`, orders answers with `ranking.py`, and stores chunks in whatever
`ChunkEngine` it was given; what is indexed is written in manifests. Above it are the HTTP routes and the
agents' tools.
"""

import asyncio
import hashlib
import logging
import re
import time
from collections import defaultdict
from contextlib import aclosing
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from pathlib import Path

from prometheus_client import Counter, Histogram

from devtools_platform.context import git, symbols
from devtools_platform.context.indexer import index_head
from devtools_platform.context.interfaces import ChunkEngine, Progress
from devtools_platform.context.manifest import Manifest, ManifestStore
from devtools_platform.context.ranking import Ranked, fit, rank
from devtools_platform.context.types import Candidate, Hit, IndexStatus, Symbol
from devtools_platform.core.errors import BadInput, DevToolsError, NotFound

log = logging.getLogger(__name__)

QUERIES = Counter("devtools_context_queries_total", "Searches answered")
QUERY_SECONDS = Histogram(
    "devtools_context_query_duration_seconds",
    "Time of a search",
    buckets=(0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.25, 0.5, 1, 2.5),
)

CANDIDATES = 60
MAX_QUERY_CHARS = 2_000
MAX_LIMIT = 50


def name_collection(repo: Path) -> str:
    """The stable name of a repository's collection: readable, and one per resolved path."""
    path = repo.resolve()
    readable = re.sub(r"[^a-z0-9]+", "-", path.name.lower()).strip("-")[:40] or "repo"
    return f"{readable}-{hashlib.sha256(str(path).encode()).hexdigest()[:10]}"


@dataclass
class _Run:
    """An indexing run of this process: going on, or the last one."""

    repo: Path
    is_going: bool = True
    done: int | None = None
    total: int | None = None
    error: str | None = None


class ContextService:
    """One per engine. Close the service first, then the engine."""

    def __init__(self, engine: ChunkEngine, manifest_dir: Path) -> None:
        self.engine = engine
        self.manifests = ManifestStore(manifest_dir)
        self._runs: dict[str, _Run] = {}
        self._locks: defaultdict[str, asyncio.Lock] = defaultdict(asyncio.Lock)
        self._background: dict[str, asyncio.Task[None]] = {}

    def collections(self) -> list[str]:
        """Every collection that is indexed, or is being indexed for the first time."""
        going = {name for name, run in self._runs.items() if run.is_going}
        return sorted({*self.manifests.list_names(), *going})

    async def status(self, collection: str) -> IndexStatus:
        """Raises `NotFound` for a collection nobody ever asked to index."""
        run = self._runs.get(collection)
        manifest = self.manifests.load(collection)
        if manifest is None and run is None:
            raise _make_not_found(collection)
        return IndexStatus(
            collection=collection,
            repo=str(manifest.repo if manifest else run.repo if run else ""),
            commit=manifest.commit if manifest else None,
            files=len(manifest.files) if manifest else 0,
            chunks=await self.engine.count(collection),
            indexed_at=manifest.indexed_at if manifest else None,
            is_indexing=run is not None and run.is_going,
            files_done=run.done if run else None,
            files_total=run.total if run else None,
            error=run.error if run else None,
            skipped=sorted(manifest.skipped.items()) if manifest else [],
        )

    async def index(self, collection: str, repo: Path, progress: Progress | None = None) -> IndexStatus:
        """Make the collection true of HEAD; only files that changed since the last time are read.

        `repo` is absolute. Raises `NotARepository`, `ProgramFailed` (git) and `Unavailable` (engine).
        """
        self.manifests.load(collection)  # refuses a bad name before anything starts
        async with self._locks[collection]:
            run = self._runs[collection] = _Run(repo)

            def note(done: int, total: int) -> None:
                run.done, run.total = done, total
                if progress:
                    progress(done, total)

            try:
                await index_head(self.engine, self.manifests, collection, repo, note)
            except BaseException as error:
                run.error = str(error) or type(error).__name__
                raise
            finally:
                run.is_going = False
        return await self.status(collection)

    async def start_index(self, collection: str, repo: Path) -> IndexStatus:
        """The same in the background. A run that goes on already is left alone, and its status returned."""
        await git.find_head(repo)  # the caller hears at once that there is nothing to index
        run = self._runs.get(collection)
        if run is None or not run.is_going:
            self._runs[collection] = _Run(repo)
            self._background[collection] = asyncio.create_task(self._index_in_background(collection, repo))
        return await self.status(collection)

    async def _index_in_background(self, collection: str, repo: Path) -> None:
        try:
            await self.index(collection, repo)
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
            found = await self.engine.search(collection, query, limit=CANDIDATES, blobs=blobs)
        placed = [moved for candidate in found if (moved := _place(candidate, manifest, path_glob))]
        hits = [
            _make_hit(ranked, manifest.commit)
            for ranked in fit(rank(query, placed), limit=limit, token_budget=token_budget)
        ]
        QUERIES.inc()
        QUERY_SECONDS.observe(time.perf_counter() - started)
        return hits

    async def outline(self, collection: str, path: str) -> list[Symbol]:
        """The definitions of one file, as of the indexed commit. Raises `NotFound` for a file not in it."""
        manifest = self._get_manifest(collection)
        blob = manifest.files.get(path)
        if blob is None:
            raise NotFound(
                f"No indexed file {path!r} in collection {collection!r}.",
                hint="Give a file's path from the top folder of the repository.",
            )
        async with aclosing(git.read_blobs(manifest.repo, [blob])) as contents:
            _, content = await anext(contents)
        return await asyncio.to_thread(symbols.outline, path, content.decode(errors="replace"))

    async def forget(self, collection: str) -> None:
        """Remove a collection and all its chunks. Raises `NotFound` when there is none."""
        async with self._locks[collection]:
            self._get_manifest(collection)
            await self.engine.delete(collection)
            self.manifests.remove(collection)
            self._runs.pop(collection, None)

    async def aclose(self) -> None:
        """End background runs; the next run completes them."""
        for task in self._background.values():
            task.cancel()
        await asyncio.gather(*self._background.values(), return_exceptions=True)

    def _get_manifest(self, collection: str) -> Manifest:
        manifest = self.manifests.load(collection)
        if manifest is None:
            raise _make_not_found(collection)
        return manifest


def _make_not_found(collection: str) -> NotFound:
    return NotFound(
        f"Collection {collection!r} is not indexed.",
        hint="GET /collections lists what is; POST /collections with a repository's path indexes it.",
    )


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
    return replace(candidate, chunk=replace(candidate.chunk, path=fitting[0]))


def _make_hit(ranked: Ranked, commit: str | None) -> Hit:
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
    )
