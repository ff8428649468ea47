"""What the indexes answer: where something is, what belongs to it, how a repository looks, how fresh all that is.

Asks whatever `ChunkEngine` it was given for candidates, orders them with `ranking.py`, and reads files as they were
indexed. What keeps the indexes true is `service.py`.
"""

import asyncio
import logging
import time
from array import array
from collections import OrderedDict
from collections.abc import Collection, Mapping, Sequence
from contextlib import aclosing
from dataclasses import replace
from fnmatch import fnmatchcase
from typing import Any

from prometheus_client import Counter, Histogram

from devtools_platform.context import git, symbols, worktree
from devtools_platform.context.access import make_not_found
from devtools_platform.context.chunking import find_skipped_path
from devtools_platform.context.documents import render
from devtools_platform.context.history import Histories
from devtools_platform.context.indexer import find_commit
from devtools_platform.context.interfaces import ChunkEngine, DocumentStore, Embedder
from devtools_platform.context.manifest import Manifest, ManifestStore
from devtools_platform.context.navigation import MAX_LINES, choose_files, cut_lines, find_symbol_at, make_map
from devtools_platform.context.ranking import Ranked, fit, rank
from devtools_platform.context.types import MAX_QUERY_CHARS, Candidate, Freshness, Hit, Lines, Symbol
from devtools_platform.core.errors import BadInput, NotFound, Unavailable

log = logging.getLogger(__name__)

QUERIES = Counter("devtools_context_queries_total", "Searches answered")
QUERY_SECONDS = Histogram(
    "devtools_context_query_duration_seconds",
    "Time of a search",
    buckets=(0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.25, 0.5, 1, 2.5),
)

WORDS_ONLY = Counter("devtools_context_words_only_queries_total", "Searches that had to do without the embedder")

CANDIDATES = 50
WORDS_ONLY_CANDIDATES = 100
"""Where there is no vector: about as many as words and vectors propose together."""
KEPT_QUERIES = 1_000
SYMBOL_TOKENS = 4_000
RELATED_TOKENS = 4_000
MAP_TOKENS_PER_FILE = 10
"""What the shortest line of a map takes."""
MAX_LIMIT = 50


class Questions:
    """To the indexes of one engine."""

    def __init__(
        self, engine: ChunkEngine, manifests: ManifestStore, embedder: Embedder | None, documents: DocumentStore | None
    ) -> None:
        """Without an embedder search goes by words only, and says so; without a store there are no documents."""
        self.engine = engine
        self.manifests = manifests
        self.embedder = embedder
        self.documents = documents
        self.histories = Histories()
        self._stale = worktree.Staleness()
        self._query_vectors: OrderedDict[str, array[float]] = OrderedDict()

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
        manifest = self.get_manifest(collection)
        blobs = _match_blobs(manifest, path_glob) if path_glob else None
        found: list[Candidate] = []
        if blobs != []:
            vector = await self._embed_query(query)
            asked = WORDS_ONLY_CANDIDATES if vector is None else CANDIDATES
            found = await self.engine.search(collection, query, limit=asked, vector=vector, blobs=blobs)
        placed = [moved for candidate in found if (moved := _place(candidate, manifest, path_glob))]
        best = rank(query, placed, limit, await self.histories.recall(manifest, query))
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

    async def _embed_query(self, query: str) -> Sequence[float] | None:
        """None without an embedder, or with one that fails: search then goes by words, counted."""
        if self.embedder is None:
            return None
        if query not in self._query_vectors:
            try:
                self._query_vectors[query] = array("f", await self.embedder.embed_query(query))
            except Unavailable as error:
                log.warning("Searching by words only: %s", error)
                WORDS_ONLY.inc()
                return None
            if len(self._query_vectors) > KEPT_QUERIES:
                self._query_vectors.popitem(last=False)
        return self._query_vectors[query]

    async def outline(self, collection: str, path: str) -> list[Symbol]:
        """The definitions of one file, as of the indexed commit. Raises `NotFound` for a file not in it."""
        manifest = self.get_manifest(collection)
        content = await self._read(manifest, path)
        return await asyncio.to_thread(symbols.outline, path, content.decode(errors="replace"))

    async def symbol(self, collection: str, name: str, limit: int = 20) -> list[Hit]:
        """Where `name` is defined, alone or qualified; [] when nowhere. Raises `NotFound` as `search` does."""
        hits = await self.search(collection, name, min(MAX_LIMIT, limit), SYMBOL_TOKENS)
        wanted = name.lower().strip(".")
        return [hit for hit in hits if wanted in {hit.name.lower(), hit.name.lower().rpartition(".")[2]}]

    async def related(self, collection: str, path: str, line: int, limit: int = 8) -> list[Hit]:
        """What belongs to the definition at a line: what uses it, tests it, or is like it."""
        manifest = self.get_manifest(collection)
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
        return cut_lines(path, await self._read(self.get_manifest(collection), path), first, last)

    async def repo_map(self, collection: str, token_budget: int = 1000, path_glob: str | None = None) -> str:
        """The repository in a page: a line for each of its most telling files with the names they define."""
        manifest = self.get_manifest(collection)
        paths = [path for path in manifest.files if path_glob is None or _matches(path, path_glob)]
        chosen = choose_files(paths)[: 1 + token_budget // MAP_TOKENS_PER_FILE]
        outlines = [(path, await self.outline(collection, path)) for path in chosen]
        return make_map(outlines, token_budget)

    async def freshness(self, collection: str) -> Freshness:
        """Compares the index with HEAD, or with the files on disk, whichever it follows."""
        manifest = self.get_manifest(collection)
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

    def get_documents(self) -> DocumentStore:
        """Raises `Unavailable` where there is no store."""
        if self.documents is None:
            raise Unavailable(
                "This context service has no store for documents.", hint="Start the stack: `dev-tools up`."
            )
        return self.documents

    def has(self, collection: str) -> bool:
        """Whether something is searchable under that name."""
        return self.manifests.load(collection) is not None

    def get_manifest(self, collection: str) -> Manifest:
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
