"""Which folder an index has: vectors of two models never meet in one."""

from contextlib import AsyncExitStack
from pathlib import Path

import sqlalchemy as sa

from devtools_platform.app.search_engine import choose_engine, open_service
from devtools_platform.config import Settings
from devtools_platform.context.adapters.edge import EdgeEngine
from devtools_platform.context.adapters.minilm import MiniLm


def tell(_: str, __: str) -> None: ...


def find_folder(place: Path, model: MiniLm | None) -> Path:
    engine = choose_engine(Settings(), place, model, tell)
    assert isinstance(engine, EdgeEngine)
    return engine.directory


def test_the_tuned_model_and_the_package_s_do_not_share_an_index(tmp_path: Path):
    tuned = find_folder(tmp_path, MiniLm())
    assert tuned != find_folder(tmp_path, MiniLm(knows_code=False))
    assert tuned == find_folder(tmp_path, None), "what was indexed by words only is given vectors later, in its place"


async def test_an_index_with_vectors_that_no_release_makes_any_more_leaves_the_disk(
    tmp_path: Path, postgres_database: sa.Engine
):
    old, kept = tmp_path / "edge-384" / "segments", tmp_path / "manifests" / "shop.json"
    for file in (old / "0", kept):
        file.parent.mkdir(parents=True)
        file.write_text("{}")
    async with AsyncExitStack() as cleanup:
        await open_service(Settings(embeddings="none"), tmp_path, postgres_database, tell, cleanup)
        assert not old.parent.exists()
        assert kept.exists()
