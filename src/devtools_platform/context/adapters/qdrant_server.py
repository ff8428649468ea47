"""`ChunkEngine` on a Qdrant server, cloud or cluster (1.20 or newer), through `qdrant-client`.

Needs the extra `qdrant`. The same points and questions as the embedded engine's: words are weighed by the same
tokenizer on this side, so that both rank alike. One server collection holds ours, told apart by a field.
"""

import asyncio
import re
import secrets
from collections.abc import Generator, Mapping, Sequence
from dataclasses import asdict, fields
from http import HTTPStatus
from typing import Any

import qdrant_edge

from devtools_platform.context.interfaces import ChunkEngine, EngineAway
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
    quantise,
)
from devtools_platform.context.types import Candidate, Chunk
from devtools_platform.core.errors import Unavailable

COLLECTION = "devtools-context"
ANSWER_S = 10
"""How long the server may take for a question, which takes it milliseconds. Whole seconds: the client's own rule."""
WRITE_S = 60
"""For what is written: many chunks at a time, on a disk that others use."""
_HINT = "See that QDRANT_URL and QDRANT_API_KEY are right and that the server is 1.20 or newer."
_AWAY_HINT = (
    "It is tried again by itself. See that QDRANT_URL is right and the server runs: `docker compose ps qdrant`."
)


class QdrantEngine:
    """`client` is an `AsyncQdrantClient`, closed by `aclose`."""

    def __init__(self, client: Any, *, vector_size: int = 384, collection: str = COLLECTION) -> None:
        self.client = client
        self.vector_size = vector_size
        self.collection = f"{collection}-{vector_size}"
        """An alias: the collection it stands for is the present generation."""
        self.aside_of: str | None = None
        """The alias that the collection may stand under later; None for the engine that answers."""
        self._lexical = qdrant_edge.Bm25(
            qdrant_edge.Bm25Config(tokenizer=qdrant_edge.TokenizerType.Code, language="english", avg_len=AVERAGE_TOKENS)
        )
        self._preparing: asyncio.Task[None] | None = None
        self._is_prepared = False

    @classmethod
    def connect(
        cls,
        url: str,
        api_key: str | None,
        *,
        vector_size: int = 384,
        collection: str = COLLECTION,
        answer_s: int = ANSWER_S,
    ) -> "QdrantEngine":
        """Asks nothing yet. Raises `Unavailable` when the extra `qdrant` is not installed."""
        try:
            from qdrant_client import AsyncQdrantClient
        except ImportError as error:
            hint = "Install it with `pip install 'devtools-platform[qdrant]'`."
            raise Unavailable(f"The client of the Qdrant server is not installed: {error}.", hint=hint) from None
        client = AsyncQdrantClient(url=url, api_key=api_key, timeout=answer_s, check_compatibility=False)
        return cls(client, vector_size=vector_size, collection=collection)

    async def put(self, collection: str, files: Mapping[str, Sequence[Chunk]]) -> None:
        await self.delete(collection, list(files))
        points = await asyncio.to_thread(self._make_points, collection, files)
        if points:
            await self._call("upsert", points=points, wait=True, timeout=WRITE_S)

    async def delete(self, collection: str, blobs: Sequence[str] | None = None) -> None:
        selector = _models().FilterSelector(filter=_select(Where(collection, blobs)))
        await self._call("delete", points_selector=selector, wait=True, timeout=WRITE_S)

    async def search(
        self,
        collection: str,
        query: str,
        *,
        limit: int,
        vector: Sequence[float] | None = None,
        blobs: Sequence[str] | None = None,
    ) -> list[Candidate]:
        words = self._lexical.embed_query(query.encode(errors="replace").decode())
        meaning = None if vector is None else quantise(vector)
        search = Search((words.indices, words.values), meaning, limit, Where(collection, blobs))
        found = await self._converse(gather(search))
        points = await self._retrieve(list(found), ["path", "start_line", "end_line", "kind", "name", "blob"])
        return [
            Candidate(
                point.payload["blob"],
                _read_chunk(point.payload),
                found[str(point.id)][TEXT],
                found[str(point.id)][NAME],
                found[str(point.id)][DENSE],
                str(point.id),
            )
            for point in points
        ]

    async def get_texts(self, ids: Sequence[str]) -> dict[str, str]:
        return {str(point.id): point.payload["text"] for point in await self._retrieve(ids, ["text"])}

    async def list_chunks(
        self, collection: str, limit: int, after: str | None = None
    ) -> tuple[list[tuple[str, str, Chunk]], str | None]:
        where = _select(Where(collection))
        points, following = await self._call(
            "scroll", scroll_filter=where, limit=limit, offset=after, with_payload=True
        )
        found = [(str(point.id), point.payload["blob"], _read_chunk(point.payload)) for point in points]
        return found, None if following is None else str(following)

    async def list_without_vector(self, collection: str, limit: int) -> list[tuple[str, Chunk]]:
        where = _select(Where(collection, lacks=DENSE))
        points, _ = await self._call("scroll", scroll_filter=where, limit=limit, with_payload=True)
        return [(str(point.id), _read_chunk(point.payload)) for point in points]

    async def set_vectors(self, vectors: Mapping[str, Sequence[float]]) -> None:
        known = {str(point.id) for point in await self._retrieve(list(vectors), ["blob"])}
        points = [
            _models().PointVectors(id=id_, vector={DENSE: [float(value) for value in quantise(vector)]})
            for id_, vector in vectors.items()
            if id_ in known
        ]
        if points:
            await self._call("update_vectors", points=points, wait=True, timeout=WRITE_S)

    async def count(self, collection: str | None = None, *, without_vector: bool = False) -> int:
        where = _select(Where(collection, lacks=DENSE if without_vector else None))
        return int((await self._call("count", count_filter=where, exact=True)).count)

    def aside(self) -> "QdrantEngine":
        generation = QdrantEngine(self.client, vector_size=self.vector_size)
        generation.collection, generation.aside_of = self._name_generation(), self.collection
        return generation

    async def take_over(self, generation: ChunkEngine) -> None:
        assert isinstance(generation, QdrantEngine)  # noqa: S101 - from `aside`
        await generation.count()  # an empty one is made, too
        await self.count()
        try:
            before = await self.find_place()
            await self._point_at(generation.collection, before)
            if before is not None:
                await self.client.delete_collection(before)
        except Exception as error:  # the client raises what its transport does
            raise _explain("take the new generation", error) from error

    async def _point_at(self, place: str, before: str | None) -> None:
        """Let the name we use stand for another collection, in one step."""
        models = _models()
        create = models.CreateAlias(collection_name=place, alias_name=self.collection)
        operations: list[Any] = [models.CreateAliasOperation(create_alias=create)]
        if before is not None:
            delete = models.DeleteAlias(alias_name=self.collection)
            operations.insert(0, models.DeleteAliasOperation(delete_alias=delete))
        await self.client.update_collection_aliases(change_aliases_operations=operations)

    async def find_place(self) -> str | None:
        """The collection that the name we use stands for; None before the first use."""
        aliases = (await self.client.get_aliases()).aliases
        return next((a.collection_name for a in aliases if a.alias_name == self.collection), None)

    def _name_generation(self) -> str:
        return f"{self.collection}-{secrets.token_hex(4)}"

    async def flush(self) -> None:
        """The server writes by itself."""

    async def aclose(self) -> None:
        if self._preparing is not None:
            self._preparing.cancel()
            await asyncio.gather(self._preparing, return_exceptions=True)
        if self.aside_of is None:
            await self.client.close()

    async def _converse(self, talk: Generator[list[Nearest], list[list[Scored]], Found]) -> Found:
        try:
            asked = next(talk)
            while True:
                asked = talk.send([await self._ask(question) for question in asked])
        except StopIteration as end:
            return end.value

    async def _ask(self, question: Nearest) -> list[Scored]:
        models = _models()
        is_dense = question.field == DENSE
        corpus = models.IdfCorpusParams(corpus=_select(Where(question.where.collection)))
        answer = await self._call(
            "query_points",
            query=_translate(question.vector),
            using=question.field,
            query_filter=_select(question.where),
            search_params=None if is_dense else models.SearchParams(idf=corpus),
            limit=question.limit,
            with_payload=False,
        )
        size = len(question.vector)
        return [
            Scored(str(point.id), cosine_of(point.score, size) if is_dense else point.score) for point in answer.points
        ]

    async def _retrieve(self, ids: Sequence[str], fields: list[str]) -> list[Any]:
        return await self._call("retrieve", ids=list(ids), with_payload=fields) if ids else []

    async def _call(self, method: str, **arguments: Any) -> Any:
        try:
            await self._prepare()
            return await getattr(self.client, method)(collection_name=self.collection, **arguments)
        except Exception as error:  # the client raises what its transport does
            if _status_of(error) == HTTPStatus.NOT_FOUND and self.aside_of is None:
                self._is_prepared = False  # it came back without its data: the collection is made anew
            raise _explain(method, error) from error

    async def _prepare(self) -> None:
        """Make the server's collection once; whoever asks meanwhile waits for the same attempt, not for one each."""
        if self._is_prepared:
            return
        if self._preparing is None or self._preparing.done():
            self._preparing = asyncio.create_task(self._make_collection())
            self._preparing.add_done_callback(lambda done: done.cancelled() or done.exception())
        await asyncio.shield(self._preparing)

    async def _make_collection(self) -> None:
        """With the same vectors as the embedded engine's."""
        if self.aside_of is not None:
            await self._remove_abandoned(self.aside_of)
            await self._create(self.collection)
        elif await self.find_place() is None:
            place = self._name_generation()
            await self._create(place)
            await self._point_at(place, None)
        self._is_prepared = True

    async def _create(self, place: str) -> None:
        models = _models()
        words = models.SparseVectorParams(modifier=models.Modifier.IDF)
        meaning = models.VectorParams(
            size=self.vector_size, distance=models.Distance.EUCLID, datatype=models.Datatype.UINT8
        )
        await self.client.create_collection(
            place, vectors_config={DENSE: meaning}, sparse_vectors_config={TEXT: words, NAME: words}
        )
        tenant = models.KeywordIndexParams(type=models.KeywordIndexType.KEYWORD, is_tenant=True)
        await self.client.create_payload_index(place, "collection", field_schema=tenant)
        await self.client.create_payload_index(place, "blob", field_schema="keyword")

    async def _remove_abandoned(self, alias: str) -> None:
        """Generations that were begun and never took over."""
        used = {found.collection_name for found in (await self.client.get_aliases()).aliases}
        ours = re.compile(re.escape(alias) + "-[0-9a-f]{8}")
        for found in (await self.client.get_collections()).collections:
            if ours.fullmatch(found.name) and found.name not in used:
                await self.client.delete_collection(found.name)

    def _make_points(self, collection: str, files: Mapping[str, Sequence[Chunk]]) -> list[Any]:
        return [
            self._make_point(collection, blob, ordinal, chunk)
            for blob, chunks in files.items()
            for ordinal, chunk in enumerate(chunks)
        ]

    def _make_point(self, collection: str, blob: str, ordinal: int, chunk: Chunk) -> Any:
        texts = make_texts(chunk.header, chunk.text, chunk.name)
        embedded = {field: self._lexical.embed_document(text) for field, text in texts.items()}
        vectors = {field: _translate((v.indices, v.values)) for field, v in embedded.items() if v.indices}
        id_ = make_point_id(collection, blob, ordinal)
        payload = {"collection": collection, "blob": blob, **asdict(chunk)}
        return _models().PointStruct(id=id_, vector=vectors, payload=payload)


def _explain(deed: str, error: Exception) -> Unavailable:
    from httpx import TransportError  # what the client is made with

    source = getattr(error, "source", error)
    message = f"The Qdrant server did not {deed}: {str(source) or type(source).__name__}"
    if isinstance(source, TransportError) or (_status_of(error) or 0) >= HTTPStatus.INTERNAL_SERVER_ERROR:
        return EngineAway(message, hint=_AWAY_HINT)
    return Unavailable(message, hint=_HINT)


def _status_of(error: Exception) -> int | None:
    """Of the server's answer; None where there was none."""
    return getattr(error, "status_code", None)


def _models() -> Any:
    from qdrant_client import models

    return models


def _translate(vector: Words | list[int]) -> Any:
    if isinstance(vector, tuple):
        return _models().SparseVector(indices=vector[0], values=vector[1])
    return [float(value) for value in vector]


def _select(where: Where) -> Any:
    models = _models()
    must: list[Any] = []
    if where.collection is not None:
        match = models.MatchValue(value=where.collection)
        must.append(models.FieldCondition(key="collection", match=match))
    if where.blobs is not None:
        must.append(models.FieldCondition(key="blob", match=models.MatchAny(any=list(where.blobs))))
    if where.ids is not None:
        must.append(models.HasIdCondition(has_id=list(where.ids)))
    lacking = [models.HasVectorCondition(has_vector=where.lacks)] if where.lacks else []
    return models.Filter(must=must, must_not=lacking)


def _read_chunk(payload: Mapping[str, Any]) -> Chunk:
    return Chunk(**{field.name: payload[field.name] for field in fields(Chunk) if field.name in payload})
