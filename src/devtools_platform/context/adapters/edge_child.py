"""The process that owns the search engine's directory: `python -m ...edge_child DIR`.

The engine is Qdrant's own, embedded. It has a process of its own because every call into it holds the GIL and
its directory admits one process. It serves until its input ends: so it learns that its parent is gone.
One JSON line a request, `{"id", "op", ...}`, and one an answer, `{"id", "result"}` or `{"id", "error"}`.
Points are content-addressed, so a request repeated after a crash overwrites and never doubles.
"""

import json
import os
import sys
import time
import uuid
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, BinaryIO

import qdrant_edge as qdrant

_NAMESPACE = uuid.UUID("6f2b1a9e-5c0d-4d0a-9c39-0d4f0f6f7a11")
_AVERAGE_TOKENS = 90.0
"""BM25's mean document length; the chunks of four packages, headers included, measure 60 to 108 words."""
_LOCK_SECONDS = 10.0
"""How long to wait for a predecessor that is still closing."""
_UPDATES_PER_FLUSH = 64

_LEXICAL = qdrant.Bm25(
    qdrant.Bm25Config(tokenizer=qdrant.TokenizerType.Code, language="english", avg_len=_AVERAGE_TOKENS)
)


class Engine:
    """One shard for all collections; `collection` is a field of every point."""

    def __init__(self, directory: Path) -> None:
        self.shard = _open(directory)
        self.updates = 0
        self.operations: dict[str, Callable[..., Any]] = {
            "put": self.put,
            "delete": self.delete,
            "search": self.search,
            "count": self.count,
            "flush": self.flush,
        }

    def answer(self, request: Mapping[str, Any]) -> dict[str, Any]:
        arguments = {key: value for key, value in request.items() if key not in {"id", "op"}}
        try:
            return {"id": request["id"], "result": self.operations[request["op"]](**arguments)}
        except Exception as error:  # noqa: BLE001 - the engine raises bare Exception; the parent must hear of it
            return {"id": request["id"], "error": f"{type(error).__name__}: {error}"}

    def put(self, collection: str, files: Mapping[str, Sequence[dict[str, Any]]]) -> None:
        self.delete(collection, list(files))
        points = [
            _make_point(collection, blob, ordinal, chunk)
            for blob, chunks in files.items()
            for ordinal, chunk in enumerate(chunks)
        ]
        if points:
            self._update(qdrant.UpdateOperation.upsert_points(points))

    def delete(self, collection: str, blobs: Sequence[str] | None) -> None:
        self._update(qdrant.UpdateOperation.delete_points_by_filter(_select(collection, blobs)))

    def search(self, collection: str, query: str, limit: int, blobs: Sequence[str] | None) -> list[dict[str, Any]]:
        words = _LEXICAL.embed_query(query)
        if not words.indices:
            return []
        found: dict[str, dict[str, Any]] = {}
        for field in ("text", "name"):
            for point in self._ask(field, words, collection, limit, blobs):
                candidate = found.setdefault(str(point.id), {"chunk": point.payload, "text": 0.0, "name": 0.0})
                candidate[field] = point.score
        return list(found.values())

    def _ask(
        self, field: str, words: qdrant.SparseVector, collection: str, limit: int, blobs: Sequence[str] | None
    ) -> list[qdrant.ScoredPoint]:
        # A word is rare or common within its collection: other repositories must not change the ranking.
        corpus = qdrant.IdfParams(corpus=_select(collection, None))
        return self.shard.query(
            qdrant.QueryRequest(
                limit=limit,
                query=qdrant.Query.Nearest(words, using=field),
                filter=_select(collection, blobs),
                with_payload=True,
                params=qdrant.SearchParams(idf=corpus),
            )
        )

    def count(self, collection: str | None) -> int:
        where = _select(collection, None) if collection else None
        return self.shard.count(qdrant.CountRequest(filter=where, exact=True))

    def flush(self) -> None:
        self.shard.flush()
        self.updates = 0

    def _update(self, operation: qdrant.UpdateOperation) -> None:
        """Apply; now and then flush, or the write-ahead log and the next start grow without end."""
        self.shard.update(operation)
        self.updates += 1
        if self.updates >= _UPDATES_PER_FLUSH:
            self.flush()


def _open(directory: Path) -> qdrant.EdgeShard:
    if not directory.exists():
        _create(directory)
    deadline = time.monotonic() + _LOCK_SECONDS
    while True:
        try:
            return qdrant.EdgeShard.load(str(directory))
        except Exception as error:
            if "WouldBlock" not in str(error) or time.monotonic() > deadline:
                raise
            time.sleep(0.05)


def _create(directory: Path) -> None:
    """Make the shard beside its place and move it there: a half-made one is never met."""
    directory.parent.mkdir(parents=True, exist_ok=True)
    draft = directory.with_name(f"{directory.name}.{os.getpid()}.new")
    fields = {name: qdrant.EdgeSparseVectorParams(modifier=qdrant.Modifier.Idf) for name in ("text", "name")}
    shard = qdrant.EdgeShard.create(str(draft), qdrant.EdgeConfig(sparse_vectors=fields))
    for field in ("collection", "blob"):
        index = qdrant.KeywordIndexParams(is_tenant=field == "collection")
        shard.update(qdrant.UpdateOperation.create_field_index(field, index))
    shard.close()
    draft.rename(directory)


def _make_point(collection: str, blob: str, ordinal: int, chunk: dict[str, Any]) -> qdrant.Point:
    # Twice the header: names and path weigh double against the body.
    texts = {"text": f"{chunk['header']}\n{chunk['header']}\n{chunk['text']}", "name": chunk["name"]}
    embedded = {field: _LEXICAL.embed_document(text) for field, text in texts.items()}
    vectors: dict[str, qdrant.NamedVector] = {field: v for field, v in embedded.items() if v.indices}
    payload = {"collection": collection, "blob": blob, **chunk}
    return qdrant.Point(str(uuid.uuid5(_NAMESPACE, f"{collection}:{blob}:{ordinal}")), vectors, payload)


def _select(collection: str, blobs: Sequence[str] | None) -> qdrant.Filter:
    conditions: list[Any] = [qdrant.FieldCondition("collection", match=qdrant.MatchValue(collection))]
    if blobs is not None:
        conditions.append(qdrant.FieldCondition("blob", match=qdrant.MatchAny(list(blobs))))
    return qdrant.Filter(must=conditions)


def serve(engine: Engine, requests: Iterable[bytes], answers: BinaryIO) -> None:
    """Answer each request in turn until there are no more, or nobody reads the answers."""
    for line in requests:
        answers.write(json.dumps(engine.answer(json.loads(line))).encode() + b"\n")
        answers.flush()


def main() -> None:
    # Answers go to a private copy of stdout, so that nothing the engine prints can ever be taken for one.
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    engine = Engine(Path(sys.argv[1]))
    try:
        serve(engine, sys.stdin.buffer, answers)
    except BrokenPipeError:
        pass
    finally:
        engine.shard.close()


if __name__ == "__main__":
    main()
