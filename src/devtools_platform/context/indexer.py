"""One indexing run: from a repository's HEAD and the last manifest to a manifest that is true of that commit.

Searchable all along: new files appear while the run goes on, changed ones answer from their old text until
their new one is stored. What a killed run left is completed by the next one; nothing is stored twice.
"""

import asyncio
import time
from contextlib import aclosing
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path

from prometheus_client import Counter

from devtools_platform.context import git
from devtools_platform.context.chunking import chunk_file
from devtools_platform.context.interfaces import ChunkEngine, Progress
from devtools_platform.context.manifest import Manifest, ManifestStore
from devtools_platform.context.plan import Plan, make_plan
from devtools_platform.context.types import Chunk

INDEXED_FILES = Counter("devtools_context_indexed_files_total", "Files cut and stored")
INDEXED_CHUNKS = Counter("devtools_context_indexed_chunks_total", "Chunks stored")

BATCH_CHUNKS = 200
SAVE_SECONDS = 2.0
"""How often a run writes down what it has done."""


@dataclass
class Indexer:
    """What a run works with, and how far it is."""

    engine: ChunkEngine
    manifests: ManifestStore
    before: Manifest
    plan: Plan
    progress: Progress
    done: set[str] = field(default_factory=set[str])
    skipped: dict[str, str] = field(default_factory=dict[str, str])

    async def run(self, commit: str) -> Manifest:
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
            chunks=0,
            indexed_at=datetime.now(UTC),
        )
        self._save(finished)  # from here on the gone files are not answered any more
        if plan.gone:
            await self.engine.delete(finished.collection, plan.gone)
        await self.engine.flush()
        chunks = await self.engine.count(finished.collection)
        return self._save(replace(finished, pending=[], chunks=chunks))

    async def _store_files(self) -> None:
        batch: dict[str, list[Chunk]] = {}
        saved = time.monotonic()
        async with aclosing(git.read_blobs(self.before.repo, self.plan.todo)) as contents:
            async for blob, content in contents:
                batch[blob] = await self._cut(self.plan.homes[blob], content)
                if sum(map(len, batch.values())) >= BATCH_CHUNKS:
                    await self._store(batch)
                    batch = {}
                    if time.monotonic() - saved > SAVE_SECONDS:
                        self._save_halfway()
                        saved = time.monotonic()
        if batch:
            await self._store(batch)

    async def _cut(self, path: str, content: bytes) -> list[Chunk]:
        cut = await asyncio.to_thread(chunk_file, path, content)
        if cut.skipped:
            self.skipped[path] = cut.skipped
        return cut.chunks

    async def _store(self, batch: dict[str, list[Chunk]]) -> None:
        await self.engine.put(self.before.collection, batch)
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
        self.manifests.save(manifest)
        return manifest


async def index_head(
    engine: ChunkEngine, manifests: ManifestStore, collection: str, repo: Path, progress: Progress
) -> Manifest:
    """Make `collection` true of the commit at HEAD of `repo`, touching only what changed since the last time.

    Raises `NotARepository`, `ProgramFailed` (git) and `Unavailable` (engine).
    """
    commit = await git.find_head(repo)
    entries = await git.list_tree(repo, commit)
    before = manifests.load(collection)
    if before is None or await engine.count(collection) < before.chunks:  # the engine has lost what we hold true
        await engine.delete(collection)
        before = Manifest(collection=collection, repo=repo)
    before = replace(before, repo=repo)
    plan = await asyncio.to_thread(make_plan, before, entries)
    return await Indexer(engine, manifests, before, plan, progress).run(commit)
