"""What every engine does alike: the embedded one, the client's own memory, and a server: a stand-in (what it stands for
says `fakes.qdrant_server`), and a real one where QDRANT_URL names it."""

import asyncio
import hashlib
import os
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
from qdrant_client import AsyncQdrantClient

from devtools_platform.context.adapters.edge import EdgeEngine
from devtools_platform.context.adapters.qdrant_server import QdrantEngine
from devtools_platform.context.interfaces import ChunkEngine
from devtools_platform.context.types import Chunk
from devtools_platform.core.errors import Unavailable
from fakes.qdrant_server import QdrantServer

pytestmark = [
    pytest.mark.filterwarnings("ignore:Payload indexes have no effect in the local Qdrant"),
    pytest.mark.filterwarnings("ignore:Api key is used with an insecure connection"),
]
URL = os.environ.get("QDRANT_URL")


@pytest.fixture(scope="module")
def stand_in(tmp_path_factory: pytest.TempPathFactory) -> Iterator[QdrantServer]:
    with QdrantServer(tmp_path_factory.mktemp("qdrant"), api_key="k") as server:
        yield server


@pytest.fixture(params=["edge", "memory", "stand-in", *(["server"] if URL else [])])
async def each(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[ChunkEngine]:
    if request.param == "edge":
        made: ChunkEngine = EdgeEngine(tmp_path / "engine")
    elif request.param == "memory":
        made = QdrantEngine(AsyncQdrantClient(":memory:"))
    elif request.param == "stand-in":
        server: QdrantServer = request.getfixturevalue("stand_in")
        made = QdrantEngine.connect(server.url, server.api_key, collection=f"test-{tmp_path.name}")
    else:
        made = QdrantEngine.connect(URL or "", os.environ.get("QDRANT_API_KEY"))
        made.collection = f"test-{tmp_path.name}"
    yield made
    if isinstance(made, QdrantEngine) and (place := await made.find_place()):
        await made.client.delete_collection(place)
    await made.aclose()


def chunk(name: str, text: str = "return value") -> Chunk:
    return Chunk("a.py", 1, 2, "function", name, text)


def direction(name: str) -> list[float]:
    """A unit vector of its own for each name."""
    signs = [1 if byte & 1 else -1 for byte in hashlib.sha512(name.encode()).digest() * 6]
    return [sign / 384**0.5 for sign in signs]


async def test_putting_a_blob_again_replaces_its_chunks(each: ChunkEngine):
    await each.put("c", {"b1": [chunk("one"), chunk("two"), chunk("three")], "b2": [chunk("other")]})
    await each.put("c", {"b1": [chunk("new")]})
    await each.put("c", {"b1": [chunk("new")]})
    assert await each.count("c") == 2
    assert [c.chunk.name for c in await each.search("c", "new", limit=5)] == ["new"]


async def test_collections_do_not_see_each_other(each: ChunkEngine):
    await each.put("c1", {"b": [chunk("parse_header")]})
    await each.put("c2", {"b": [chunk("parse_header")]})
    await each.delete("c1")
    assert await each.search("c1", "parse header", limit=5) == []
    assert len(await each.search("c2", "parse header", limit=5)) == 1
    assert (await each.count(), await each.count("c1")) == (1, 0)


async def test_words_names_and_meaning_are_scored_for_every_candidate(each: ChunkEngine):
    chunks = [chunk("parseHeader", "split the line"), chunk("close_socket", "shut it"), chunk("other", "a header")]
    await each.put("c", {"b1": chunks[:2], "b2": chunks[2:]})
    waiting = dict(await each.list_without_vector("c", 10))
    assert sorted(found.name for found in waiting.values()) == ["close_socket", "other", "parseHeader"]
    await each.set_vectors({id_: direction(found.name) for id_, found in waiting.items()})
    assert await each.count("c", without_vector=True) == 0
    found = await each.search("c", "parsing headers", limit=5, vector=direction("close_socket"))
    by_name = {candidate.chunk.name: candidate for candidate in found}
    assert by_name["parseHeader"].text_score > by_name["other"].text_score > 0
    assert by_name["parseHeader"].name_score > 0 == by_name["close_socket"].text_score
    assert by_name["close_socket"].dense_score == pytest.approx(1.0, abs=0.02)
    assert by_name["parseHeader"].dense_score == pytest.approx(0.0, abs=0.2)
    assert by_name["other"].blob == "b2"
    texts = await each.get_texts([by_name["other"].id])
    assert texts == {by_name["other"].id: "a header"}


async def test_a_search_can_be_held_to_some_blobs(each: ChunkEngine):
    await each.put("c", {"b1": [chunk("parse_a")], "b2": [chunk("parse_b")]})
    assert [c.blob for c in await each.search("c", "parse", limit=5, blobs=["b2"])] == ["b2"]


async def test_odd_requests_break_nothing(each: ChunkEngine):
    await each.put("c", {"b": [chunk("parse"), Chunk("a", 1, 1, "text", "", "")]})
    for query in ("the", "§§§", "\ud800", "\0"):
        assert await each.search("c", query, limit=5) == []
    await each.put("c", {})
    await each.set_vectors({"6f2b1a9e-5c0d-4d0a-9c39-0d4f0f6f7a12": direction("x")})
    await each.delete("c", ["nothing"])
    await each.flush()
    assert await each.count("c") == 2
    assert await each.get_texts([]) == {}


async def test_both_engines_rank_alike(tmp_path: Path):
    words = ["load", "parse", "user", "token", "config", "header", "cache", "file", "read", "send"]
    chunks = [chunk(f"{a}_{b}", f"{b} the {c}") for a in words for b in words for c in words[:3]]
    answers: list[list[tuple[str, float]]] = []
    for made in (EdgeEngine(tmp_path / "engine"), QdrantEngine(AsyncQdrantClient(":memory:"))):
        await made.put("c", {"b": chunks})
        await made.set_vectors({id_: direction(c.name) for id_, c in await made.list_without_vector("c", 1000)})
        found = await made.search("c", "parse the user header", limit=20, vector=direction("load_cache"))
        answers.append(sorted((c.id, round(c.text_score, 2), round(c.dense_score or 0, 2)) for c in found))
        await made.aclose()
    shared = {row for row in answers[0] if row in answers[1]}
    assert len(shared) > 0.8 * len(answers[0])


async def test_a_server_that_does_not_answer_is_unavailable_and_says_what_to_look_at():
    engine = QdrantEngine.connect("http://127.0.0.1:9", None)
    with pytest.raises(Unavailable, match="did not count") as caught:
        await engine.count()
    assert "QDRANT_URL" in caught.value.hint
    await engine.aclose()


async def test_all_chunks_are_listed_page_by_page(each: ChunkEngine):
    names = {f"name_{number}" for number in range(7)}
    await each.put("c", {name: [chunk(name)] for name in names})
    await each.put("other", {"b": [chunk("foreign")]})
    listed: list[str] = []
    after: str | None = None
    for _ in range(4):
        found, after = await each.list_chunks("c", 2, after)
        assert all(c == chunk(blob) for _, blob, c in found)
        listed += [blob for _, blob, _ in found]
    assert (sorted(listed), after) == (sorted(names), None)


async def test_a_generation_is_built_aside_and_takes_over(each: ChunkEngine):
    await each.put("c", {"old": [chunk("old_name")], "both": [chunk("both_names")]})
    abandoned = each.aside()
    await abandoned.put("c", {"x": [chunk("abandoned")]})
    await abandoned.aclose()

    generation = each.aside()
    await generation.put("c", {"new": [chunk("new_name")], "both": [chunk("both_names")]})
    assert {c.blob for c in await each.search("c", "name names", limit=9)} == {"old", "both"}, "the old one answers"
    await each.take_over(generation)
    assert {c.blob for c in await each.search("c", "name names", limit=9)} == {"new", "both"}
    await each.put("c", {"more": [chunk("more_name")]})
    assert await each.count() == 3
    if isinstance(each, QdrantEngine):
        kept = [found.name for found in (await each.client.get_collections()).collections]
        assert kept == [await each.find_place()], "nothing else is left on the server"


async def test_questions_in_flight_outlive_the_change_of_generations(tmp_path: Path):
    engine = EdgeEngine(tmp_path / "engine")
    await engine.put("c", {"b": [chunk("name")]})
    generation = engine.aside()
    await generation.put("c", {"b": [chunk("name")]})

    async def ask() -> int:
        return len(await engine.search("c", "name", limit=5))

    asking = [asyncio.create_task(ask()) for _ in range(20)]
    await engine.take_over(generation)
    asking += [asyncio.create_task(ask()) for _ in range(20)]
    assert await asyncio.gather(*asking) == [1] * 40
    await engine.aclose()


async def test_a_generation_that_was_ready_when_the_process_was_killed_is_taken_at_the_next_start(tmp_path: Path):
    for number, name in ((1, "engine"), (2, "engine.ready")):
        part = EdgeEngine(tmp_path / name)
        await part.put("c", {f"b{n}": [chunk(f"name_{n}")] for n in range(number)})
        await part.aclose()
    engine = EdgeEngine(tmp_path / "engine")
    assert await engine.count() == 2
    assert [path.name for path in tmp_path.iterdir()] == ["engine"]  # noqa: ASYNC240
    await engine.aclose()
