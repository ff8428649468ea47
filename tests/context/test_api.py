"""The service over HTTP, through ASGI."""

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
from httpx2 import ASGITransport, AsyncClient

from devtools_platform.context.adapters.edge import EdgeEngine
from devtools_platform.context.api import build_api
from devtools_platform.context.service import ContextService

Commit = Callable[[Path, Mapping[str, str | bytes | None]], str]
TOKEN = "secret-token"


@pytest.fixture
async def client(service: ContextService) -> AsyncIterator[AsyncClient]:
    transport = ASGITransport(build_api(service, TOKEN))
    headers = {"Authorization": f"Bearer {TOKEN}"}
    async with AsyncClient(transport=transport, base_url="http://context", headers=headers) as http:
        yield http


@pytest.fixture
async def name(client: AsyncClient, tmp_path: Path, commit: Commit) -> str:
    """A collection made over HTTP, indexed to the end."""
    commit(tmp_path / "repo", {"a.py": "def parse_header(line):\n    return line\n"})
    response = await client.post("/collections", json={"repo": str(tmp_path / "repo")})
    assert response.status_code == 202
    collection: str = response.json()["collection"]
    async with asyncio.timeout(10):
        while (await client.get(f"/collections/{collection}")).json()["is_indexing"]:  # noqa: ASYNC110 - over HTTP
            await asyncio.sleep(0.01)
    return collection


async def test_a_repository_is_indexed_searched_and_forgotten(client: AsyncClient, name: str):
    assert (await client.get("/collections")).json() == [name]
    status = (await client.get(f"/collections/{name}")).json()
    assert (status["files"], status["chunks"], status["error"], status["skipped"]) == (1, 1, None, {})
    found = await client.get(f"/collections/{name}/search", params={"q": "parse headers", "limit": 3})
    assert [(h["path"], h["name"], h["commit"]) for h in found.json()] == [("a.py", "parse_header", status["commit"])]
    outline = await client.get(f"/collections/{name}/outline", params={"path": "a.py"})
    assert outline.json()[0]["end_line"] == 2
    assert (await client.delete(f"/collections/{name}")).status_code == 204
    assert (await client.get("/collections")).json() == []


@pytest.mark.parametrize("path", ["/collections", "/collections/x", "/collections/x/search?q=a"])
async def test_nothing_is_told_without_the_token(client: AsyncClient, path: str):
    for header in ("", "Bearer wrong"):
        response = await client.get(path, headers={"Authorization": header})
        assert (response.status_code, response.json()["code"]) == (401, "unauthorized")


@pytest.mark.parametrize(
    "path", ["/collections/none", "/collections/none/search?q=a", "/collections/none/outline?path=a"]
)
async def test_an_unknown_collection_is_404(client: AsyncClient, path: str):
    response = await client.get(path)
    assert (response.status_code, response.json()["code"]) == (404, "not_found")
    assert "context index" in response.json()["hint"]


async def test_an_unknown_file_is_404(client: AsyncClient, name: str):
    response = await client.get(f"/collections/{name}/outline", params={"path": "b.py"})
    assert (response.status_code, response.json()["code"]) == (404, "not_found")


async def test_a_bad_search_is_422(client: AsyncClient, name: str):
    for query in ("", "?q=", "?q=a&limit=0", "?q=a&limit=51", "?q=" + "a" * 2001, "?q=%20"):
        response = await client.get(f"/collections/{name}/search{query}")
        assert (response.status_code, response.json()["code"]) == (422, "bad_input"), query


@pytest.mark.parametrize("body", [{}, {"repo": ""}, {"repo": "relative"}, {"repo": "/", "x": 1}, {"repo": "/nowhere"}])
async def test_what_is_no_repository_is_422(client: AsyncClient, body: dict[str, object]):
    response = await client.post("/collections", json=body)
    assert response.status_code == 422
    assert response.json()["code"] in {"bad_input", "not_a_repository"}


async def test_a_name_that_is_a_path_is_refused(client: AsyncClient):
    assert (await client.get("/collections/..%5Cetc")).status_code == 422


async def test_health_tells_of_the_engine_and_metrics_of_queries(client: AsyncClient, engine: EdgeEngine, name: str):
    await client.get(f"/collections/{name}/search", params={"q": "parse"})
    health = await client.get("/health", headers={"Authorization": ""})
    facts = health.json()
    assert (health.status_code, facts["ok"], facts["engine"], facts["collections"]) == (200, True, "alive", 1)
    metrics = (await client.get("/metrics")).text
    for metric in (
        "queries_total",
        "query_duration_seconds_count",
        "indexed_files_total",
        "indexed_chunks_total",
    ):
        assert f"devtools_context_{metric}" in metrics
    await engine.aclose()
    assert (await client.get("/health")).status_code == 503
    assert (await client.get(f"/collections/{name}/search", params={"q": "parse"})).status_code == 503


async def test_progress_is_told_until_the_run_has_ended(client: AsyncClient, name: str):
    events = (await client.get(f"/collections/{name}/events")).text
    assert events.startswith("event: status\r\ndata: {")
    assert '"is_indexing":false' in events
    assert (await client.get("/collections/none/events")).status_code == 404


async def test_a_repository_can_be_read_around_in(client: AsyncClient, name: str, tmp_path: Path, commit: Commit):
    async def get(what: str, **params: str | int) -> Any:
        response = await client.get(f"/collections/{name}/{what}", params=params)
        assert response.status_code == 200, response.text
        return response.json()

    token = "ghp_" + "a1B2" * 9
    using = f"def use_header(x):\n    return parse_header(x)\n\n\nKEY = '{token}'\n"
    commit(tmp_path / "repo", {"b.py": using, "tests/test_a.py": "def test_parse_header():\n    parse_header('x')\n"})
    assert (await get("freshness"))["changed"] == ["b.py", "tests/test_a.py"]
    async with asyncio.timeout(10):
        await client.post("/collections", json={"repo": str(tmp_path / "repo")})
        while (await client.get(f"/collections/{name}")).json()["is_indexing"]:  # noqa: ASYNC110 - over HTTP
            await asyncio.sleep(0.01)
    fresh = await get("freshness")
    assert (fresh["is_current"], fresh["commit"] == fresh["head"]) == (True, True)
    assert [hit["path"] for hit in await get("symbol", q="parse_header")] == ["a.py"]
    assert {hit["name"] for hit in await get("related", path="a.py", line=2)} == {"use_header", "test_parse_header"}
    assert (await get("lines", path="b.py", first=5, last=5))["text"] == "KEY = '***'"
    assert (await get("map"))["map"] == "a.py  parse_header:1\nb.py  use_header:1"
    (tmp_path / "repo/a.py").write_text("")
    assert [(hit["path"], hit["is_stale"]) for hit in await get("symbol", q="parse_header")] == [("a.py", True)]


async def test_a_watched_repository_is_made_over_http(client: AsyncClient, tmp_path: Path):
    (tmp_path / "plain").mkdir()
    response = await client.post("/collections", json={"repo": str(tmp_path / "plain"), "watch": True})
    collection = response.json()["collection"]
    async with asyncio.timeout(10):
        while not (status := (await client.get(f"/collections/{collection}")).json())["is_watched"]:  # noqa: ASYNC110
            await asyncio.sleep(0.01)
    assert status["error"] is None
