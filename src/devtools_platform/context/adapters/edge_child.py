"""The process that owns the search engine's directory: `python -m ...edge_child DIR`.

The engine is Qdrant's own, embedded. It has a process of its own because every call into it holds the GIL and
its directory admits one process. A point's chunk is one field of JSON beside its text: the engine takes a field
at a time, and slowly. Points are content-addressed, so a request repeated after a crash overwrites and never doubles.
"""

import gc
import os
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec
import qdrant_edge as qdrant

from devtools_platform.context.pipe import serve
from devtools_platform.context.query import (
    AVERAGE_TOKENS,
    DENSE,
    NAME,
    TEXT,
    Found,
    Nearest,
    Scored,
    Search,
    Where,
    Words,
    cosine_of,
    gather,
    make_point_id,
    make_texts,
)
from devtools_platform.context.types import make_header
from devtools_platform.kit.memory import give_back_memory

_LOCK_SECONDS = 10.0
"""How long to wait for a predecessor that is still closing."""
_UPDATES_PER_FLUSH = 64
_ABOUT = ["about", "blob"]
_MOST_COLLECTIONS = 100_000
_KEPT_ABOUT = 50_000
"""What is said about a chunk takes 300 bytes here, and reading it from the engine half the time of a search."""

_LEXICAL = qdrant.Bm25(
    qdrant.Bm25Config(tokenizer=qdrant.TokenizerType.Code, language="english", avg_len=AVERAGE_TOKENS)
)


class Engine:
    """One shard for all collections; `collection` is a field of every point."""

    def __init__(self, directory: Path, vector_size: int) -> None:
        self.shard = _open(directory, vector_size)
        self.updates = 0
        self.collections = self._list_collections()
        self.about: dict[str, tuple[str, str]] = {}

    def put(self, collection: str, chunks: Sequence[tuple[str, int, dict[str, Any]]]) -> None:
        """Chunks by blob and number in it."""
        self.collections.add(collection)
        points: list[qdrant.Point] = []
        for blob, ordinal, chunk in chunks:
            id_, about = make_point_id(collection, blob, ordinal), _describe(chunk)
            points.append(_make_point(id_, {"collection": collection, "blob": blob, "about": about}, chunk))
            self._keep(id_, blob, about)
        self._update(qdrant.UpdateOperation.upsert_points(points))

    def delete(self, collection: str, blobs: Sequence[str] | None) -> None:
        self._update(
            qdrant.UpdateOperation.delete_points_by_filter(_select(Where(collection, blobs)) or qdrant.Filter())
        )
        if blobs is None:
            self.collections.discard(collection)

    def search(
        self, collection: str, query: str, vector: list[int] | None, limit: int, blobs: Sequence[str] | None
    ) -> list[tuple[Any, ...]]:
        words = _LEXICAL.embed_query(query)
        search = Search((words.indices, words.values), vector, limit, Where(collection, blobs))
        talk = gather(search)
        answers: list[list[Scored]] | None = None
        while True:
            try:
                asked = talk.send(answers) if answers is not None else next(talk)
            except StopIteration as end:
                return self._describe(end.value)
            answers = self._ask(asked)

    def _describe(self, found: Found) -> list[tuple[Any, ...]]:
        """(id, blob, chunk, scores) of each point; what is known already is not read again."""
        missing: list[Any] = [id_ for id_ in found if id_ not in self.about]
        for point in self.shard.retrieve(missing, with_payload=_ABOUT, with_vector=False) if missing else []:
            payload = point.payload or {}
            self._keep(str(point.id), payload["blob"], payload["about"])
        return [
            (id_, *self.about[id_], scores[TEXT], scores[NAME], scores[DENSE])
            for id_, scores in found.items()
            if id_ in self.about
        ]

    def _keep(self, id_: str, blob: str, about: str) -> None:
        self.about[id_] = sys.intern(blob), about
        if len(self.about) > _KEPT_ABOUT:
            del self.about[next(iter(self.about))]

    def _list_collections(self) -> set[str]:
        found = self.shard.facet(qdrant.FacetRequest("collection", limit=_MOST_COLLECTIONS, exact=True))
        return {str(hit.value) for hit in found.hits}

    def _is_alone(self, collection: str | None) -> bool:
        """Whether no other collection has points: then its own statistics are those of all, and need no filter."""
        return collection is None or self.collections <= {collection}

    def _ask(self, questions: Sequence[Nearest]) -> list[list[Scored]]:
        answers = self.shard.query_batch(
            qdrant.QueryBatchRequest([self._translate(question) for question in questions])
        )
        return [
            [Scored(str(point.id), _read_score(question, point.score)) for point in points]
            for question, points in zip(questions, answers, strict=True)
        ]

    def _translate(self, question: Nearest) -> qdrant.QueryRequest:
        # A word is rare or common within its collection: other repositories must not change the ranking.
        collection, where = question.where.collection, question.where
        corpus = None
        if self._is_alone(collection):
            where = replace(where, collection=None)
        else:
            corpus = qdrant.IdfParams(corpus=_select(Where(collection)))
        return qdrant.QueryRequest(
            limit=question.limit,
            query=qdrant.Query.Nearest(_translate(question.vector), using=question.field),
            filter=_select(where),
            with_payload=False,
            params=None if question.field == DENSE else qdrant.SearchParams(idf=corpus),
        )

    def get_texts(self, ids: list[str]) -> dict[str, str]:
        points = self.shard.retrieve(list(ids), with_payload=["text"], with_vector=False)
        return {str(point.id): (point.payload or {})["text"] for point in points}

    def list_chunks(
        self, collection: str, limit: int, after: str | None
    ) -> tuple[list[tuple[str, str, str, str]], str | None]:
        where = _select(Where(collection))
        asked = qdrant.ScrollRequest(offset=after, limit=limit, filter=where, with_payload=True)
        points, following = self.shard.scroll(asked)
        found = [(str(point.id), point.payload or {}) for point in points]
        rows = [(id_, payload["blob"], payload["about"], payload["text"]) for id_, payload in found]
        return rows, None if following is None else str(following)

    def list_without_vector(self, collection: str, limit: int) -> list[tuple[str, str, str]]:
        where = _select(Where(collection, lacks=DENSE))
        points, _ = self.shard.scroll(qdrant.ScrollRequest(limit=limit, filter=where, with_payload=True))
        found = [(str(point.id), point.payload or {}) for point in points]
        return [(id_, payload["about"], payload["text"]) for id_, payload in found]

    def set_vectors(self, vectors: Mapping[str, list[int]]) -> None:
        """A point that is gone meanwhile is left out: the engine refuses what it does not know."""
        known = {str(point.id) for point in self.shard.retrieve(list(vectors), with_payload=False, with_vector=False)}
        update = [
            qdrant.PointVectors(id_, {DENSE: _translate(vector)}) for id_, vector in vectors.items() if id_ in known
        ]
        if update:
            self._update(qdrant.UpdateOperation.update_vectors(update))

    def count(self, collection: str | None, lacks: str | None) -> int:
        where = _select(Where(collection, lacks=lacks))
        return self.shard.count(qdrant.CountRequest(filter=where, exact=True))

    def flush(self) -> None:
        self.shard.flush()
        give_back_memory()
        self.updates = 0

    def _update(self, operation: qdrant.UpdateOperation) -> None:
        """Apply; now and then flush, or the write-ahead log and the next start grow without end."""
        self.shard.update(operation)
        self.updates += 1
        if self.updates >= _UPDATES_PER_FLUSH:
            self.flush()


def _open(directory: Path, vector_size: int) -> qdrant.EdgeShard:
    if not directory.exists():
        _create(directory, vector_size)
    deadline = time.monotonic() + _LOCK_SECONDS
    while True:
        try:
            return qdrant.EdgeShard.load(str(directory))
        except Exception as error:
            if "WouldBlock" not in str(error) or time.monotonic() > deadline:
                raise
            time.sleep(0.05)


def _create(directory: Path, vector_size: int) -> None:
    """Make the shard beside its place and move it there: a half-made one is never met."""
    directory.parent.mkdir(parents=True, exist_ok=True)
    draft = directory.with_name(f"{directory.name}.{os.getpid()}.new")
    words = {name: qdrant.EdgeSparseVectorParams(modifier=qdrant.Modifier.Idf) for name in (TEXT, NAME)}
    meaning = qdrant.EdgeVectorParams(vector_size, qdrant.Distance.Euclid, datatype=qdrant.VectorStorageDatatype.Uint8)
    shard = qdrant.EdgeShard.create(str(draft), qdrant.EdgeConfig(vectors={DENSE: meaning}, sparse_vectors=words))
    for field in ("collection", "blob"):
        index = qdrant.KeywordIndexParams(is_tenant=field == "collection")
        shard.update(qdrant.UpdateOperation.create_field_index(field, index))
    shard.close()
    draft.rename(directory)


def _describe(chunk: dict[str, Any]) -> str:
    """A chunk without its text, as JSON."""
    return msgspec.json.encode({name: value for name, value in chunk.items() if name != "text"}).decode()


def _make_point(id_: str, fields: Mapping[str, str], chunk: dict[str, Any]) -> qdrant.Point:
    texts = make_texts(make_header(chunk["path"], chunk["kind"], chunk["name"]), chunk["text"], chunk["name"])
    embedded = {field: _LEXICAL.embed_document(text) for field, text in texts.items()}
    vectors: dict[str, qdrant.NamedVector] = {field: v for field, v in embedded.items() if v.indices}
    return qdrant.Point(id_, vectors, {**fields, "text": chunk["text"]})


def _read_score(question: Nearest, score: float) -> float:
    return cosine_of(score, len(question.vector)) if question.field == DENSE else score


def _translate(vector: Words | list[int]) -> Any:
    return qdrant.SparseVector(*vector) if isinstance(vector, tuple) else [float(value) for value in vector]


def _select(where: Where) -> qdrant.Filter | None:
    must: list[Any] = []
    if where.collection is not None:
        must.append(qdrant.FieldCondition("collection", match=qdrant.MatchValue(where.collection)))
    if where.blobs is not None:
        must.append(qdrant.FieldCondition("blob", match=qdrant.MatchAny(list(where.blobs))))
    if where.ids is not None:
        must.append(qdrant.HasIdCondition(set(where.ids)))
    lacking: list[Any] = [qdrant.HasVectorCondition(where.lacks)] if where.lacks else []
    return qdrant.Filter(must=must, must_not=lacking) if must or lacking else None


def main() -> None:
    gc.freeze()
    engine = Engine(Path(sys.argv[1]), int(sys.argv[2]))
    operations = (
        *("put", "delete", "search", "get_texts", "list_chunks", "list_without_vector", "set_vectors"),
        *("count", "flush"),
    )
    try:
        serve({name: getattr(engine, name) for name in operations})
    finally:
        engine.shard.close()


if __name__ == "__main__":
    main()
