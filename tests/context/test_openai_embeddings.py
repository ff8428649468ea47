"""Vectors from an endpoint, against a fake one that is held to the published contract where that is at hand."""

import asyncio
import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx2
import jsonschema
import pytest

from devtools_platform.app.embedder import choose_embedder
from devtools_platform.app.search_engine import choose_engine
from devtools_platform.config import Settings
from devtools_platform.context.adapters import openai_embeddings
from devtools_platform.context.adapters.edge import EdgeEngine
from devtools_platform.context.adapters.openai_embeddings import EndpointEmbedder
from devtools_platform.context.service import ContextService
from devtools_platform.core.errors import BadInput, Unavailable

CONTRACT = Path(__file__).parents[3] / "shared" / "contracts" / "digitalocean.openapi.json"
"""Official; beside the repository and no part of it."""
SIZE = 16


class FakeEndpoint:
    """Letters counted into vectors; keeps what it was asked, and fails as it is told."""

    def __init__(self) -> None:
        self.requests: list[dict[str, Any]] = []
        self.failures: list[httpx2.Response | Exception] = []
        self.size = SIZE

    async def __call__(self, request: httpx2.Request) -> httpx2.Response:
        assert (request.method, request.url.path) == ("POST", "/v1/embeddings")
        body = json.loads(request.content)
        self.requests.append(body)
        if self.failures:
            failure = self.failures.pop(0)
            if isinstance(failure, Exception):
                raise failure
            return failure
        if request.headers.get("authorization") != "Bearer right":
            return httpx2.Response(401, json={"id": "unauthorized", "message": "Unable to authenticate you"})
        data = [
            {"object": "embedding", "index": number, "embedding": self.count(text)}
            for number, text in enumerate(body["input"])
        ]
        usage = {"prompt_tokens": 1, "total_tokens": 1}
        answer = {"object": "list", "data": data[::-1], "model": body["model"], "usage": usage}
        return httpx2.Response(200, json=answer)

    def count(self, text: str) -> list[float]:
        return [1.0 + text.count(chr(97 + letter)) for letter in range(self.size)]


@pytest.fixture
def endpoint() -> FakeEndpoint:
    return FakeEndpoint()


Make = Callable[..., EndpointEmbedder]


@pytest.fixture
def make(endpoint: FakeEndpoint) -> Make:
    def make_embedder(key: str | None = "right") -> EndpointEmbedder:
        transport = httpx2.MockTransport(endpoint)
        return EndpointEmbedder("http://e/v1/", "code-model", SIZE, key, transport=transport, first_wait_s=0.001)

    return make_embedder


async def test_texts_become_unit_vectors_in_their_order(make: Make, endpoint: FakeEndpoint):
    first, second = await make().embed(["aaaa", "b"])
    assert math.isclose(math.hypot(*first), 1.0)
    assert first[0] == max(first)
    assert second[1] == max(second)
    assert endpoint.requests == [{"model": "code-model", "input": ["aaaa", "b"], "encoding_format": "float"}]


async def test_what_is_sent_and_read_is_what_the_contract_says(make: Make, endpoint: FakeEndpoint):
    if not CONTRACT.exists():
        pytest.skip("the official contracts are not beside the repository")
    contract = json.loads(CONTRACT.read_bytes())
    await make().embed(["a", "b"])
    answer = await endpoint(httpx2.Request("POST", "http://e/v1/embeddings", json=endpoint.requests[0],
                                           headers={"authorization": "Bearer right"}))  # fmt: skip
    for name, value in (("embeddings_request", endpoint.requests[0]), ("embeddings_response", answer.json())):
        schema = {"$ref": f"#/components/schemas/{name}", "components": contract["components"]}
        jsonschema.Draft4Validator(schema).validate(value)


@pytest.mark.parametrize(
    "failure",
    [
        httpx2.Response(429, headers={"retry-after": "0"}),
        httpx2.Response(503),
        httpx2.ConnectError("refused"),
        httpx2.ReadTimeout("slow"),
    ],
)
async def test_a_bad_moment_is_waited_out_and_a_long_one_is_said(
    make: Make, endpoint: FakeEndpoint, failure: httpx2.Response | Exception
):
    endpoint.failures = [failure] * 3
    assert len(await make().embed(["a"])) == 1
    endpoint.failures = [failure] * 4
    with pytest.raises(Unavailable, match="after 4 tries"):
        await make().embed(["a"])
    assert len(endpoint.requests) == 8


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        (httpx2.Response(404, json={"message": "no model ghp_" + "a" * 36}), "refuses with 404"),
        (httpx2.Response(200, text="<html>"), "does not answer as an embeddings endpoint"),
        (httpx2.Response(200, json={"data": []}), "gave 0 vectors of no numbers, not 1 of 16"),
        (httpx2.Response(200, json={"data": [{"index": 0, "embedding": [1.0]}]}), "1 vectors of 1 numbers"),
        (httpx2.Response(200, json={"data": [{"index": 0, "embedding": [0.0] * SIZE}]}), "without a direction"),
        (httpx2.Response(200, json={"data": [{"index": 0, "embedding": ["x"] * SIZE}]}), "does not answer as"),
        (httpx2.Response(200, content=b" " * 3_000), "more than 2000 bytes"),
    ],
)
async def test_an_answer_that_cannot_be_used_is_named_at_once(
    make: Make, endpoint: FakeEndpoint, answer: httpx2.Response, said: str, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(openai_embeddings, "MAX_ANSWER_BYTES", 2_000)
    endpoint.failures = [answer]
    with pytest.raises(Unavailable, match=said) as caught:
        await make().embed(["a"])
    assert len(endpoint.requests) == 1
    assert "ghp_" not in str(caught.value)


async def test_after_a_failed_question_the_next_does_not_wait(
    make: Make, endpoint: FakeEndpoint, monkeypatch: pytest.MonkeyPatch
):
    embedder = make()
    endpoint.failures = [httpx2.Response(503)]
    for _ in range(3):
        with pytest.raises(Unavailable):
            await embedder.embed_query("a")
    assert len(endpoint.requests) == 1
    monkeypatch.setattr(openai_embeddings, "QUIET_S", 0.0)
    soon = make()
    endpoint.failures = [httpx2.Response(503)]
    with pytest.raises(Unavailable):
        await soon.embed_query("a")
    assert len(await soon.embed_query("a")) == SIZE


async def test_a_wrong_key_leaves_search_by_words_and_stands_in_the_status(
    make: Make, tmp_path: Path, commit: Any, monkeypatch: pytest.MonkeyPatch
):
    commit(tmp_path / "repo", {"a.py": "def open_door(): ...\n"})
    engine = EdgeEngine(tmp_path / "edge", vector_size=SIZE)
    service = ContextService(engine, tmp_path / "m" / "m", make("wrong"))
    await service.index("shop", tmp_path / "repo")
    await service.wait_for_vectors()
    status = await service.status("shop")
    assert status.without_vector == 1
    assert "refuses with 401" in str(status.embedding_error)
    assert [hit.name for hit in await service.search("shop", "door")] == ["open_door"]
    await service.aclose()

    right = ContextService(engine, tmp_path / "m" / "m", make())
    await right.index("shop", tmp_path / "repo")
    await right.wait_for_vectors()
    status = await right.status("shop")
    assert (status.without_vector, status.embedding_error) == (0, None)
    await right.aclose()
    await engine.aclose()


async def test_what_an_endpoint_owes_is_asked_for_again_by_itself(
    make: Make, endpoint: FakeEndpoint, tmp_path: Path, commit: Any, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr("devtools_platform.context.filling.REFILL_S", 0.01)
    commit(tmp_path / "repo", {"a.py": "def open_door(): ...\n"})
    engine = EdgeEngine(tmp_path / "edge", vector_size=SIZE)
    service = ContextService(engine, tmp_path / "m" / "m", make())
    endpoint.failures = [httpx2.Response(404)]
    await service.index("shop", tmp_path / "repo")
    async with asyncio.timeout(10):
        while (await service.status("shop")).without_vector:  # noqa: ASYNC110 - it tells nobody
            await asyncio.sleep(0.01)
    await service.aclose()
    await engine.aclose()


async def test_half_an_endpoint_is_refused_and_models_do_not_share_an_index(tmp_path: Path):
    def tell(_: str, __: str) -> None: ...

    with pytest.raises(BadInput, match="needs an endpoint"):
        choose_embedder(Settings(embeddings="endpoint", embedding_model="m"), tell)
    folders: set[Path] = set()
    for model in ("one", "two"):
        whole = Settings(
            embeddings="endpoint", embedding_base_url="http://e/v1", embedding_model=model, embedding_size=8
        )
        engine = choose_engine(whole, tmp_path, choose_embedder(whole, tell), tell)
        assert isinstance(engine, EdgeEngine)
        assert engine.vector_size == 8
        folders.add(engine.directory)
    assert len(folders) == 2
