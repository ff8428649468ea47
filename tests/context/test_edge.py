"""The engine in its own process: what it stores, and what happens when somebody dies."""

import asyncio
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from devtools_platform.context.adapters.edge import EdgeEngine
from devtools_platform.context.types import Chunk
from devtools_platform.core.errors import Unavailable

PARENT = """
import asyncio, sys
from pathlib import Path
from devtools_platform.context.adapters.edge import EdgeEngine

async def main():
    engine = EdgeEngine(Path(sys.argv[1]))
    await engine.count()
    print(engine.pid, flush=True)
    await asyncio.Event().wait()

asyncio.run(main())
"""


def chunk(name: str, text: str = "return value") -> Chunk:
    return Chunk("a.py", 1, 2, "function", name, text)


async def test_putting_a_blob_again_replaces_its_chunks(engine: EdgeEngine):
    await engine.put("c", {"b1": [chunk("one"), chunk("two"), chunk("three")], "b2": [chunk("other")]})
    await engine.put("c", {"b1": [chunk("new")]})
    assert await engine.count("c") == 2
    assert [c.chunk.name for c in await engine.search("c", "new", limit=5)] == ["new"]


async def test_collections_do_not_see_each_other(engine: EdgeEngine):
    await engine.put("c1", {"b": [chunk("parse_header")]})
    await engine.put("c2", {"b": [chunk("parse_header")]})
    await engine.delete("c1")
    assert await engine.search("c1", "parse header", limit=5) == []
    assert len(await engine.search("c2", "parse header", limit=5)) == 1
    assert await engine.count() == 1


async def test_other_collections_do_not_change_the_scores(engine: EdgeEngine):
    await engine.put("c1", {"b": [chunk("parse_header"), chunk("parse_body"), chunk("close")]})
    before = {c.chunk.name: c.text_score for c in await engine.search("c1", "parse header", limit=5)}
    await engine.put("c2", {"b": [chunk(f"header_{i}") for i in range(100)]})
    after = {c.chunk.name: c.text_score for c in await engine.search("c1", "parse header", limit=5)}
    assert after == before


async def test_identifiers_are_found_by_their_words_and_word_forms(engine: EdgeEngine):
    await engine.put("c", {"b": [chunk("loadUserSettings"), chunk("close_socket")]})
    assert [c.chunk.name for c in await engine.search("c", "loading user setting", limit=5)] == ["loadUserSettings"]


async def test_a_search_can_be_held_to_some_blobs(engine: EdgeEngine):
    await engine.put("c", {"b1": [chunk("parse_a")], "b2": [chunk("parse_b")]})
    assert [c.blob for c in await engine.search("c", "parse", limit=5, blobs=["b2"])] == ["b2"]


async def test_odd_queries_find_nothing_and_break_nothing(engine: EdgeEngine):
    await engine.put("c", {"b": [chunk("parse"), Chunk("a", 1, 1, "text", "", "")]})
    for query in ("the", "§§§", "\ud800", "\0", "x" * 100_000):
        assert await engine.search("c", query, limit=5) == []
    assert await engine.count("c") == 2


async def test_a_killed_engine_is_started_again_and_has_lost_nothing(engine: EdgeEngine):
    await engine.put("c", {"b": [chunk("kept")]})
    first = engine.pid
    assert first
    os.kill(first, signal.SIGKILL)
    assert await engine.count("c") == 1
    assert engine.pid != first


async def test_requests_in_flight_survive_a_killed_engine(engine: EdgeEngine):
    await engine.count()
    assert engine.pid
    files = [{f"b{i}": [chunk(f"f{i}_{j}") for j in range(50)]} for i in range(20)]
    puts = [asyncio.create_task(engine.put("c", file)) for file in files]
    await asyncio.wait(puts, return_when=asyncio.FIRST_COMPLETED)
    os.kill(engine.pid, signal.SIGKILL)
    assert not all(put.done() for put in puts)
    await asyncio.gather(*puts)
    assert await engine.count("c") == 1000


async def test_an_engine_that_cannot_start_is_unavailable_and_says_why(tmp_path: Path):
    (tmp_path / "engine").mkdir()
    (tmp_path / "engine" / "edge_config.json").write_text("not a shard")
    broken = EdgeEngine(tmp_path / "engine")
    with pytest.raises(Unavailable, match=r"ended twice during 'count'.*Exception"):
        await broken.count()
    await broken.aclose()


async def test_a_closed_engine_stays_closed(engine: EdgeEngine):
    await engine.count()
    await engine.aclose()
    with pytest.raises(Unavailable, match="closed"):
        await engine.count()
    assert engine.pid is None


def test_the_engine_ends_when_its_parent_is_killed(tmp_path: Path):
    root = Path(sys.modules["devtools_platform"].__file__ or "").parent.parent
    command = [sys.executable, "-c", PARENT, str(tmp_path / "engine")]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env={"PYTHONPATH": str(root)}) as parent:
        assert parent.stdout
        engine = psutil.Process(int(parent.stdout.readline()))
        parent.kill()
    assert wait_for_end(engine)


def wait_for_end(process: psutil.Process) -> bool:
    try:
        process.wait(timeout=5)
    except psutil.TimeoutExpired:
        return False
    return True


async def test_the_event_loop_stays_free_while_the_engine_works(engine: EdgeEngine):
    work = asyncio.create_task(engine.put("c", {"b": [chunk(f"f{i}", "word " * 500) for i in range(2000)]}))
    longest, last = 0.0, time.monotonic()
    while not work.done():
        await asyncio.sleep(0.001)
        longest, last = max(longest, time.monotonic() - last), time.monotonic()
    await work
    assert longest < 0.5


async def test_a_question_is_answered_while_much_is_stored(engine: EdgeEngine):
    await engine.put("c", {"a": [chunk("parse_header")]})
    work = asyncio.create_task(engine.put("c", {"b": [chunk(f"f{i}") for i in range(2000)]}))
    assert [c.chunk.name for c in await engine.search("c", "parse header", limit=5)] == ["parse_header"]
    assert not work.done()
    await work
    assert await engine.count("c") == 2001
