"""Snapshots: what is written comes back, on the same engine and on the other one, and nothing else is taken for one."""

import asyncio
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest
from httpx2 import ASGITransport, AsyncClient
from qdrant_client import AsyncQdrantClient

from context.test_vectors import Counting
from devtools_platform.context.adapters.edge import EdgeEngine
from devtools_platform.context.adapters.qdrant_server import QdrantEngine
from devtools_platform.context.api import build_api
from devtools_platform.context.custody import Custody
from devtools_platform.context.interfaces import ChunkEngine
from devtools_platform.context.service import ContextService
from devtools_platform.core.errors import BadInput, Unavailable

pytestmark = pytest.mark.filterwarnings("ignore:Payload indexes have no effect in the local Qdrant")
Commit = Callable[[Path, Mapping[str, str | bytes | None]], str]


async def find(service: ContextService, query: str) -> list[tuple[str, str, float]]:
    return [(hit.path, hit.text, hit.score) for hit in await service.search("shop", query)]


@pytest.mark.parametrize("target", ["edge", "memory"])
async def test_an_index_comes_back_elsewhere_without_its_repository_and_without_embedding(
    engine: EdgeEngine, tmp_path: Path, commit: Commit, target: str
):
    repo = tmp_path / "repo"
    commit(
        repo,
        {"a.py": "def open_door():\n    return 1\n\n\ndef shut_door():\n    return 2\n", "b.md": "# Doors\n\nOak.\n"},
    )
    first, model = ContextService(engine, tmp_path / "one" / "m", Counting()), Counting()
    await first.index("shop", repo)
    await first.wait_for_vectors()
    saved = await Custody(first).save(tmp_path / "index.snapshot")
    assert (saved.collections, saved.chunks, saved.bytes) == (["shop"], 3, (tmp_path / "index.snapshot").stat().st_size)
    before = await find(first, "open door")

    other: ChunkEngine = (
        EdgeEngine(tmp_path / "two") if target == "edge" else QdrantEngine(AsyncQdrantClient(":memory:"))
    )
    second = ContextService(other, tmp_path / "two-m" / "m", model)
    assert (await Custody(second).restore(tmp_path / "index.snapshot")).chunks == 3
    await second.wait_for_vectors()
    assert model.texts == [], "vectors came with it"
    status = await second.status("shop")
    assert (status.chunks, status.without_vector, status.files) == (3, 0, 2)
    after = await find(second, "open door")
    assert [hit[:2] for hit in after] == [hit[:2] for hit in before]
    assert [hit[2] for hit in after] == pytest.approx([hit[2] for hit in before], abs=0.01)

    commit(repo, {"c.py": "def new_door(): ...\n"})
    assert (await second.index("shop", repo)).chunks == 4, "and it goes on from there"
    for part in (first, second, other):
        await part.aclose()


async def test_a_restore_replaces_everything_and_is_searched_all_along(
    service: ContextService, tmp_path: Path, commit: Commit
):
    repo = tmp_path / "repo"
    commit(repo, {f"f{n}.py": f"def keep_{n}(): ...\n" for n in range(30)})
    await service.index("shop", repo)
    await Custody(service).save(tmp_path / "s")
    commit(repo, {"late.py": "def late_name(): ...\n"})
    await service.index("shop", repo)
    await service.index("extra", repo)

    restoring = asyncio.create_task(Custody(service).restore(tmp_path / "s"))
    answers = 0
    while not restoring.done():
        assert await service.search("shop", "keep 7")
        answers += 1
        await asyncio.sleep(0)
    await restoring
    assert answers > 1
    assert await service.collections() == ["shop"]
    assert [hit.path for hit in await service.search("shop", "late_name")] == []
    assert await service.engine.count() == 30


async def test_a_process_killed_while_generations_change_trusts_nothing_and_indexes_again(
    service: ContextService, tmp_path: Path, commit: Commit, monkeypatch: pytest.MonkeyPatch
):
    repo = tmp_path / "repo"
    commit(repo, {"a.py": "def open_door(): ...\n"})
    await service.index("shop", repo)
    await Custody(service).save(tmp_path / "s")
    commit(repo, {"b.py": "def shut_door(): ...\n"})
    await service.index("shop", repo)

    take_over = service.engine.take_over

    async def die(generation: ChunkEngine) -> None:
        await take_over(generation)
        raise RuntimeError("as if killed")

    monkeypatch.setattr(service.engine, "take_over", die)
    with pytest.raises(RuntimeError):
        await Custody(service).restore(tmp_path / "s")
    again = ContextService(service.engine, service.manifests.directory)
    assert await again.collections() == []
    assert (await again.index("shop", repo)).chunks == 2
    assert {hit.path for hit in await again.search("shop", "door")} == {"a.py", "b.py"}
    await again.aclose()


async def test_nothing_new_is_indexed_while_a_snapshot_comes_back(
    service: ContextService, tmp_path: Path, commit: Commit
):
    commit(tmp_path / "repo", {"a.py": "x = 1\n"})
    with service.refuse_new(), pytest.raises(Unavailable, match="being restored"):
        await service.index("shop", tmp_path / "repo")
    assert (await service.index("shop", tmp_path / "repo")).files == 1


async def test_what_is_no_snapshot_changes_nothing_and_is_not_written_over(
    service: ContextService, tmp_path: Path, commit: Commit
):
    commit(tmp_path / "repo", {"a.py": "def open_door(): ...\n"})
    await service.index("shop", tmp_path / "repo")
    other = tmp_path / "notes.txt"
    other.write_text("mine")
    custody = Custody(service)
    for call in (custody.restore(other), custody.save(other), custody.restore(tmp_path / "none")):
        with pytest.raises(BadInput, match="is not a snapshot"):
            await call
    for call in (custody.save(Path("a")), custody.save(tmp_path / "no" / "folder")):
        with pytest.raises(BadInput):
            await call
    assert other.read_text() == "mine"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["data", "notes.txt", "repo"]  # noqa: ASYNC240
    assert len(await service.search("shop", "open door")) == 1


async def test_a_snapshot_is_downloaded_with_the_stacks_own_token_only_and_leaves_nothing_behind(
    service: ContextService, tmp_path: Path, commit: Commit
):
    commit(tmp_path / "repo", {"a.py": "def open_door(): ...\n"})
    await service.index("shop", tmp_path / "repo")
    api = build_api(service, "t", lambda header: ["*"] if header == "Bearer reader" else None)
    async with AsyncClient(transport=ASGITransport(api), base_url="http://context") as http:
        refused = await http.post("/snapshots/download", headers={"Authorization": "Bearer reader"})
        sent = await http.post("/snapshots/download", headers={"Authorization": "Bearer t"})
    assert (refused.status_code, sent.status_code) == (403, 200)
    (tmp_path / "came").write_bytes(sent.content)
    assert not list(service.manifests.directory.parent.glob(".snapshot-*"))
    assert (await Custody(service).restore(tmp_path / "came")).chunks == 1
