"""Snapshots of a context service: taken while it answers, brought back into a generation that is built aside."""

import asyncio
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path

from devtools_platform.context.service import ContextService
from devtools_platform.context.snapshot import Draft, Snapshot, build_generation, save_collection
from devtools_platform.core.errors import BadInput


@dataclass(frozen=True)
class Saved:
    """What is in a snapshot."""

    file: str
    collections: list[str]
    chunks: int
    bytes: int


class Custody:
    def __init__(self, service: ContextService) -> None:
        self.service = service

    async def save(self, file: Path) -> Saved:
        """Write all indexes of repositories to a file; an older snapshot there is replaced. Raises `BadInput`."""
        draft = await asyncio.to_thread(Draft, _absolute(file))
        try:
            names: list[str] = []
            chunks = 0
            for name in self.service.manifests.list_names():
                async with self.service.hold(name):
                    manifest = self.service.manifests.load(name)
                    if manifest is None or manifest.follows == "documents":
                        continue
                    engine, cache, embedder = self.service.engine, self.service.vectors, self.service.embedder
                    chunks += await save_collection(draft, engine, cache, embedder, manifest)
                    names.append(name)
            size = await asyncio.to_thread(draft.finish)
        except BaseException:
            draft.discard()
            raise
        return Saved(str(file), names, chunks, size)

    async def restore(self, file: Path) -> Saved:
        """Put a snapshot in the place of all that is indexed. Searches are answered from before until it is done.

        Raises `BadInput` for a file that is no snapshot; then nothing is changed.
        """
        snapshot = await asyncio.to_thread(Snapshot, _absolute(file))
        service = self.service
        wanted = [manifest.collection for manifest in snapshot.manifests]
        async with AsyncExitStack() as held:
            for name in sorted({*wanted, *service.manifests.list_names()}):
                await held.enter_async_context(service.hold(name))
            held.enter_context(service.refuse_new())
            generation = service.engine.aside()
            try:
                chunks = await build_generation(snapshot, generation, service.vectors)
            except BaseException:
                await generation.aclose()
                raise
            before = service.manifests.distrust()
            await service.engine.take_over(generation)
            for name in before:
                service.manifests.remove(name)
            for manifest in snapshot.manifests:
                service.manifests.save(manifest)
        await service.resume_all()
        for name in wanted:
            service.fill(name)
        return Saved(str(file), wanted, chunks, await asyncio.to_thread(lambda: file.stat().st_size))


def _absolute(file: Path) -> Path:
    if not file.is_absolute():
        raise BadInput(f"{str(file)!r} is not an absolute path.", hint="Give the path from the root folder.")
    return file
