"""A Qdrant server that is away, hangs, or lost its data: told at once, waited for, and nothing is lost.

The server is the stand-in of `fakes.qdrant_server`, in a process of its own that is really killed and stopped.
"""

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import AsyncExitStack
from pathlib import Path

import pytest
import sqlalchemy as sa
from httpx2 import ASGITransport, AsyncClient
from pydantic import SecretStr

from devtools_platform.app.search_engine import open_service
from devtools_platform.config import Settings
from devtools_platform.context.adapters.qdrant_server import QdrantEngine
from devtools_platform.context.api import build_api
from devtools_platform.context.interfaces import EngineAway
from devtools_platform.context.service import ContextService
from devtools_platform.core.errors import Unavailable
from fakes.qdrant_server import QdrantServer

pytestmark = pytest.mark.filterwarnings("ignore:Api key is used with an insecure connection")
Commit = Callable[[Path, Mapping[str, str | bytes | None]], str]
FILES = {
    f"f{n}.py": f"def open_door_{n}():\n    return {n}\n"
    + "".join(f"x{i} = {i}  # {'padding' * 9}\n" for i in range(200))
    for n in range(40)
}
"""Some hundred kilobytes: they are stored in more than one batch."""


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[QdrantServer]:
    with QdrantServer(tmp_path_factory.mktemp("qdrant"), api_key="k") as started:
        yield started


@pytest.fixture
async def service(server: QdrantServer, tmp_path: Path) -> AsyncIterator[ContextService]:
    engine = QdrantEngine.connect(server.url, "k", collection=f"test-{tmp_path.name}", answer_s=1)
    made = ContextService(engine, tmp_path / "data" / "manifests")
    made.owed.retry_s = 0.05
    yield made
    await made.aclose()
    await engine.aclose()


async def until_true(service: ContextService, collection: str, files: int) -> None:
    """Until the index has come to hold so many files by itself."""
    async with asyncio.timeout(20):
        while True:
            changed = service.changes.next(collection)
            manifest = service.manifests.load(collection)
            if manifest is not None and len(manifest.files) == files and not manifest.pending:
                return
            await changed.wait()


async def test_a_server_killed_in_the_middle_of_indexing_is_waited_for_and_nothing_is_lost(
    server: QdrantServer, service: ContextService, tmp_path: Path, commit: Commit
):
    repo, watched = tmp_path / "repo", tmp_path / "watched"
    commit(repo, FILES)
    watched.mkdir()
    (watched / "a.py").write_text("def first_word(): ...\n")
    await service.watch("watched", watched)

    def kill(done: int, total: int) -> None:
        if 0 < done < total:
            server.kill()

    with pytest.raises(EngineAway, match="did not") as caught:
        await service.index("shop", repo, kill)
    assert "by itself" in caught.value.hint
    with pytest.raises(EngineAway):
        await service.search("watched", "first word")
    assert (await service.outline("watched", "a.py"))[0].name == "first_word", "what needs no index is answered"
    (watched / "b.py").write_text("def second_word(): ...\n")
    others = [asyncio.create_task(until_true(service, *one)) for one in (("shop", 40), ("watched", 2))]

    await asyncio.to_thread(server.start)
    await asyncio.gather(*others)

    assert (await service.status("shop")).error is None
    assert [hit.path for hit in await service.search("shop", "open_door_31", limit=1)] == ["f31.py"]
    assert await service.engine.count("shop") == (await service.status("shop")).chunks
    assert [hit.path for hit in await service.search("watched", "second word", limit=1)] == ["b.py"]


async def test_a_server_that_hangs_is_given_up_in_time_and_health_says_so_at_once(
    server: QdrantServer, service: ContextService, tmp_path: Path, commit: Commit
):
    commit(tmp_path / "repo", {"a.py": "def open_door(): ...\n"})
    await service.index("shop", tmp_path / "repo")
    transport = ASGITransport(build_api(service, "t"))
    server.freeze()
    try:
        began = time.monotonic()
        async with AsyncClient(
            transport=transport, base_url="http://context", headers={"Authorization": "Bearer t"}
        ) as http:
            health, found = await asyncio.gather(
                http.get("/health"), http.get("/collections/shop/search", params={"q": "door"})
            )
            unknown = QdrantEngine.connect(server.url, "k", answer_s=1)
            counts = await asyncio.gather(*(unknown.count() for _ in range(5)), return_exceptions=True)
            await unknown.aclose()
        assert time.monotonic() - began < 4
        assert [type(count) for count in counts] == [EngineAway] * 5, "one attempt for all who wait"
        assert (health.status_code, health.json()["ok"]) == (503, False)
        assert (found.status_code, found.json()["code"]) == (503, "unavailable")
        assert "ReadTimeout" in found.json()["message"]
    finally:
        server.thaw()
    assert [hit.path for hit in await service.search("shop", "open door")] == ["a.py"]


async def test_a_server_that_came_back_without_its_data_is_filled_again_by_the_next_indexing(
    service: ContextService, tmp_path: Path, commit: Commit
):
    commit(tmp_path / "repo", {"a.py": "def open_door(): ...\n"})
    await service.index("shop", tmp_path / "repo")
    engine = service.engine
    assert isinstance(engine, QdrantEngine)
    await engine.client.delete_collection(await engine.find_place())
    with pytest.raises(Unavailable, match="Not found"):
        await service.search("shop", "open door")
    await service.index("shop", tmp_path / "repo")
    assert [hit.path for hit in await service.search("shop", "open door")] == ["a.py"]


async def test_a_service_starts_without_its_server_and_never_with_a_key_that_is_refused(
    server: QdrantServer, tmp_path: Path
):
    told: list[str] = []
    nowhere = Settings(qdrant_url="http://127.0.0.1:9", embeddings="none")
    async with AsyncExitStack() as cleanup:
        store = sa.create_engine("sqlite://")
        service = await open_service(nowhere, tmp_path, store, lambda _, text: told.append(text), cleanup)
        assert told[-1].startswith("no search until the index answers")
        assert await service.collections() == []
    refused = Settings(qdrant_url=server.url, qdrant_api_key=SecretStr("wrong"), embeddings="none")
    async with AsyncExitStack() as cleanup:
        with pytest.raises(Unavailable, match="401") as caught:
            await open_service(refused, tmp_path, store, lambda _, text: told.append(text), cleanup)
    assert "QDRANT_API_KEY" in caught.value.hint
