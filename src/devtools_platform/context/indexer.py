"""One indexing run: from a repository's HEAD and the last manifest to a manifest that is true of that commit.

Searchable all along: new files appear while the run goes on, changed ones answer from their old text until
their new one is stored. What a killed run left is completed by the next one; nothing is stored twice.
"""

import asyncio
import time
from collections.abc import AsyncGenerator, AsyncIterable, Collection, Mapping
from contextlib import aclosing
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path

from prometheus_client import Counter

from devtools_platform.context import git
from devtools_platform.context.chunking import find_skipped_path
from devtools_platform.context.cutter import Cutter, cut_files
from devtools_platform.context.documents import render
from devtools_platform.context.git import TreeEntry
from devtools_platform.context.interfaces import ChunkEngine, DocumentStore, Progress
from devtools_platform.context.manifest import Manifest, ManifestStore, carry_paths
from devtools_platform.context.plan import Plan, make_partial_plan, make_plan
from devtools_platform.context.types import Chunk
from devtools_platform.context.worktree import (
    IgnoreRules,
    Stamp,
    get_stamp,
    list_files,
    make_blob_id,
    read_contents,
    read_file,
)
from devtools_platform.core.errors import NotARepository

INDEXED_FILES = Counter("devtools_context_indexed_files_total", "Files cut and stored")
INDEXED_CHUNKS = Counter("devtools_context_indexed_chunks_total", "Chunks stored")

BATCH_BYTES = 200_000
FEW_FILES = 20
"""A run this small starts no process and does not flush: a saved file is searchable at once."""
SAVE_SECONDS = 2.0
"""How often a run writes down what it has done."""

Chunks = dict[str, list[Chunk]]
"""By blob."""


@dataclass
class Indexer:
    """What a run works with, and how far it is."""

    engine: ChunkEngine
    manifests: ManifestStore
    before: Manifest
    plan: Plan
    progress: Progress
    contents: AsyncGenerator[tuple[str, bytes]]
    """The content of every blob of the plan's `todo`."""
    stamps: Mapping[str, Stamp] = field(default_factory=dict[str, Stamp])
    """Of the files on disk as they were read: true of the index when it holds what was read, and not before."""
    touched: Collection[str] | None = None
    """The only paths that may differ from `before`, when they are few and known."""
    done: set[str] = field(default_factory=set[str])
    skipped: dict[str, str] = field(default_factory=dict[str, str])

    async def run(self, commit: str | None) -> Manifest:
        plan = self.plan
        self._save(replace(self.before, pending=plan.pending, chunks=0))
        self.progress(0, len(plan.todo))
        await self._store_files()
        finished = replace(
            self.before,
            commit=commit,
            files=plan.files,
            skipped={**plan.skipped, **self.skipped},
            pending=plan.gone,
            stamps=dict(self.stamps),
            chunks=0,
            indexed_at=datetime.now(UTC),
        )
        self._save(finished)  # from here on the gone files are not answered any more
        if plan.gone:
            await self.engine.delete(finished.collection, plan.gone)
        if len(plan.todo) > FEW_FILES:
            await self.engine.flush()
        chunks = await self.engine.count(finished.collection)
        return self._save(replace(finished, pending=[], chunks=chunks))

    async def _store_files(self) -> None:
        saved = time.monotonic()
        async with aclosing(self._cut_files()) as cuts:
            async for batch in cuts:
                await self.engine.put(self.before.collection, batch)
                self._note(batch)
                if time.monotonic() - saved > SAVE_SECONDS:
                    self._save_halfway()
                    saved = time.monotonic()

    async def _cut_files(self) -> AsyncGenerator[Chunks]:
        """The chunks of some blobs at a time; the next are cut while these are stored."""
        cutting: asyncio.Task[Chunks] | None = None
        try:
            async with aclosing(self.contents) as contents, Cutter() as cutter:
                async for files in _gather(contents):
                    before, cutting = cutting, asyncio.create_task(self._cut(files, cutter))
                    if before is not None:
                        yield await before
                if cutting is not None:
                    yield await cutting
        finally:
            if cutting is not None:
                cutting.cancel()

    async def _cut(self, files: Mapping[str, bytes], cutter: Cutter) -> Chunks:
        named = [(self.plan.homes[blob], content) for blob, content in files.items()]
        if len(self.plan.todo) > FEW_FILES:
            cut = await cutter.cut(named)
        else:
            cut = await asyncio.to_thread(cut_files, named)
        self.skipped |= {path: file.skipped for (path, _), file in zip(named, cut, strict=True) if file.skipped}
        return {blob: file.chunks for blob, file in zip(files, cut, strict=True)}

    def _note(self, batch: Chunks) -> None:
        self.done |= batch.keys()
        self.progress(len(self.done), len(self.plan.todo))
        INDEXED_FILES.inc(len(batch))
        INDEXED_CHUNKS.inc(sum(map(len, batch.values())))

    def _save_halfway(self) -> None:
        """The paths whose blobs are stored already answer with them; the rest stays pending."""
        stored = {path: blob for path, blob in self.plan.files.items() if blob in self.done}
        self._save(
            replace(
                self.before,
                files={**self.before.files, **stored},
                skipped={**self.before.skipped, **self.skipped},
                pending=[blob for blob in self.plan.pending if blob not in self.done],
                chunks=0,
            )
        )

    def _save(self, manifest: Manifest) -> Manifest:
        if self.touched is not None:
            carry_paths(self.before, manifest, self.touched)
        self.manifests.save(manifest)
        return manifest


async def _gather(contents: AsyncIterable[tuple[str, bytes]]) -> AsyncGenerator[dict[str, bytes]]:
    """Blobs in groups of about `BATCH_BYTES`."""
    group: dict[str, bytes] = {}
    async for blob, content in contents:
        group[blob] = content
        if sum(map(len, group.values())) >= BATCH_BYTES:
            yield group
            group = {}
    if group:
        yield group


async def index_head(
    engine: ChunkEngine, manifests: ManifestStore, collection: str, repo: Path, progress: Progress
) -> Manifest:
    """Make `collection` true of the commit at HEAD of `repo`, touching only what changed since the last time.

    Raises `NotARepository`, `ProgramFailed` (git) and `Unavailable` (engine).
    """
    return await index_commit(engine, manifests, collection, repo, await git.find_head(repo), progress)


async def index_commit(
    engine: ChunkEngine, manifests: ManifestStore, collection: str, repo: Path, commit: str, progress: Progress
) -> Manifest:
    """The same of any commit."""
    entries = await git.list_tree(repo, commit)
    before = replace(await _get_before(engine, manifests, collection, repo), follows="commit", stamps={})
    plan = await asyncio.to_thread(make_plan, before, entries)
    contents = git.read_blobs(repo, plan.todo)
    return await Indexer(engine, manifests, before, plan, progress, contents).run(commit)


async def index_files(
    engine: ChunkEngine, manifests: ManifestStore, collection: str, root: Path, progress: Progress
) -> Manifest:
    """Make `collection` true of the files on disk under `root`, which need not be a git repository.

    Raises `NotARepository` for what is no folder, and `Unavailable` (engine).
    """
    before = await _get_before(engine, manifests, collection, root)
    known = {path: (before.files.get(path, ""), stamp) for path, stamp in before.stamps.items()}
    entries, stamps = await asyncio.to_thread(list_files, root, known, IgnoreRules(root))
    unchanged = {path: stamp for path, stamp in stamps.items() if before.stamps.get(path) == stamp}
    before = replace(before, follows="files", stamps=unchanged)
    plan = await asyncio.to_thread(make_plan, before, entries)
    contents = read_contents(root, plan.homes, plan.todo)
    indexer = Indexer(engine, manifests, before, plan, progress, contents, stamps)
    return await indexer.run(await find_commit(root))


async def index_documents(
    engine: ChunkEngine, manifests: ManifestStore, store: DocumentStore, collection: str, progress: Progress
) -> Manifest:
    """Make `collection` true of its documents. Raises `Unavailable` (engine, store)."""
    before = replace(
        await _get_before(engine, manifests, collection, Path()), follows="documents", commit=None, stamps={}
    )
    plan = await asyncio.to_thread(make_plan, before, await store.list_entries(collection))
    contents = _read_documents(store, collection, plan)
    return await Indexer(engine, manifests, before, plan, progress, contents).run(None)


async def _read_documents(store: DocumentStore, collection: str, plan: Plan) -> AsyncGenerator[tuple[str, bytes]]:
    """(content id, content). One that was changed or forgotten meanwhile is left to the next look."""
    for blob in plan.todo:
        document = await store.read(collection, plan.homes[blob])
        if document is not None and make_blob_id(content := render(document)) == blob:
            yield blob, content


async def update_files(
    engine: ChunkEngine, manifests: ManifestStore, before: Manifest, paths: Collection[str]
) -> Manifest:
    """Bring a few files of an index that follows files up to date; `before` is its present manifest."""
    changed, removed, stamps = await asyncio.to_thread(_look_at, before.repo, paths, IgnoreRules(before.repo))
    kept = {path: stamp for path, stamp in before.stamps.items() if path not in paths}
    now = replace(before, stamps=kept)
    carry_paths(before, now, ())
    plan = make_partial_plan(now, changed, removed)
    contents = read_contents(now.repo, plan.homes, plan.todo)
    indexer = Indexer(engine, manifests, now, plan, lambda _, __: None, contents, kept | stamps, touched=paths)
    return await indexer.run(now.commit)


def _look_at(
    root: Path, paths: Collection[str], rules: IgnoreRules
) -> tuple[list[TreeEntry], list[str], dict[str, Stamp]]:
    changed: list[TreeEntry] = []
    removed: list[str] = []
    stamps: dict[str, Stamp] = {}
    for path in paths:
        stamp = None if rules.ignores(path) else get_stamp(root, path)
        is_read = stamp is not None and not find_skipped_path(path, stamp[0])
        content = read_file(root, path) if is_read else None
        if stamp is None or (is_read and content is None):
            removed.append(path)
        else:
            changed.append(TreeEntry(path, "" if content is None else make_blob_id(content), stamp[0]))
            stamps[path] = stamp
    return changed, removed, stamps


async def find_commit(root: Path) -> str | None:
    """The commit at HEAD, or None where there is none."""
    try:
        return await git.find_head(root)
    except NotARepository:
        return None


async def _get_before(engine: ChunkEngine, manifests: ManifestStore, collection: str, repo: Path) -> Manifest:
    """What the last run left, or an empty start when the engine has lost what we hold true."""
    before = manifests.load(collection)
    if before is None or await engine.count(collection) < before.chunks:
        await engine.delete(collection)
        return Manifest(collection=collection, repo=repo)
    return replace(before, repo=repo)
