"""The whole index in one file, and back: for backup, for another machine, for another engine.

The file is an SQLite database of manifests, chunks and vectors, in words of no engine. It is brought back into a new
generation that is built aside while the old one answers, and takes its place at the end. Documents are not in it: the
state database has them, and an index of documents is made from there.
"""

import asyncio
import os
import sqlite3
from array import array
from collections.abc import Generator, Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path

import msgspec
from pydantic import TypeAdapter, ValidationError

from devtools_platform.context.chunking import FORMAT
from devtools_platform.context.interfaces import ChunkEngine, Embedder
from devtools_platform.context.manifest import Manifest
from devtools_platform.context.types import Chunk
from devtools_platform.context.vectors import VectorCache, make_keys
from devtools_platform.core.errors import BadInput

SNAPSHOT_FORMAT = 1
PAGE = 500
_SCHEMA = """
CREATE TABLE about (format INTEGER, chunk_format INTEGER);
CREATE TABLE manifests (collection TEXT PRIMARY KEY, manifest BLOB) WITHOUT ROWID;
CREATE TABLE chunks (collection TEXT, blob TEXT, line INTEGER, chunk BLOB);
CREATE TABLE vectors (key TEXT PRIMARY KEY, vector BLOB) WITHOUT ROWID;
"""
_MANIFEST = TypeAdapter(Manifest)
_HINT = "Give a file that `dev-tools context snapshot` has written."


class Draft:
    """A snapshot that is being written: under its name only once it is whole."""

    def __init__(self, file: Path) -> None:
        """Raises `BadInput` for a place that cannot be written, or that holds something else."""
        self.file = file
        self._draft = file.with_name(file.name + ".new")
        if file.exists():
            with _opened(file):
                pass  # a snapshot: it may be replaced
        try:
            self._draft.unlink(missing_ok=True)
            os.close(os.open(self._draft, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600))
        except OSError as error:
            raise BadInput(f"{str(file)!r} cannot be written: {error.strerror}.") from None
        with self._db() as db:
            db.executescript(_SCHEMA)
            db.execute("INSERT INTO about VALUES (?, ?)", (SNAPSHOT_FORMAT, FORMAT))

    def add_manifest(self, manifest: Manifest) -> None:
        with self._db() as db:
            db.execute("INSERT INTO manifests VALUES (?, ?)", (manifest.collection, _MANIFEST.dump_json(manifest)))

    def add_chunks(self, collection: str, chunks: Sequence[tuple[str, Chunk]]) -> None:
        rows = [(collection, blob, chunk.start_line, msgspec.msgpack.encode(chunk)) for blob, chunk in chunks]
        with self._db() as db:
            db.executemany("INSERT INTO chunks VALUES (?, ?, ?, ?)", rows)

    def add_vectors(self, vectors: dict[str, list[float]]) -> None:
        rows = [(key, array("f", vector).tobytes()) for key, vector in vectors.items()]
        with self._db() as db:
            db.executemany("INSERT OR IGNORE INTO vectors VALUES (?, ?)", rows)

    def finish(self) -> int:
        """Put it in its place; returns its size in bytes."""
        with self._draft.open("rb") as file:
            os.fsync(file.fileno())
        self._draft.replace(self.file)
        return self.file.stat().st_size

    def discard(self) -> None:
        self._draft.unlink(missing_ok=True)

    @contextmanager
    def _db(self) -> Generator[sqlite3.Connection]:
        with closing(sqlite3.connect(self._draft)) as db, db:
            yield db


class Snapshot:
    """A snapshot that is there. Raises `BadInput` for a file that is none, or of another format."""

    def __init__(self, file: Path) -> None:
        self.file = file
        with _opened(file) as db:
            rows: list[bytes] = [row[0] for row in db.execute("SELECT manifest FROM manifests ORDER BY collection")]
        try:
            self.manifests = [_MANIFEST.validate_json(row) for row in rows]
        except ValidationError as error:
            raise BadInput(f"{str(file)!r} holds a manifest that cannot be read: {error}.", hint=_HINT) from None

    def pages_of_chunks(self, collection: str) -> Iterator[dict[str, list[Chunk]]]:
        """Some whole blobs at a time, their chunks in order."""
        query = "SELECT blob, chunk FROM chunks WHERE collection = ? ORDER BY blob, line"
        page: dict[str, list[Chunk]] = {}
        with _opened(self.file) as db:
            for blob, chunk in db.execute(query, (collection,)):
                if blob not in page and sum(map(len, page.values())) >= PAGE:
                    yield page
                    page = {}
                page.setdefault(blob, []).append(msgspec.msgpack.decode(chunk, type=Chunk))
        if page:
            yield page

    def pages_of_vectors(self) -> Iterator[dict[str, list[float]]]:
        with _opened(self.file) as db:
            found = db.execute("SELECT key, vector FROM vectors")
            while rows := found.fetchmany(PAGE):
                yield {key: list(array("f", vector)) for key, vector in rows}


@contextmanager
def _opened(file: Path) -> Generator[sqlite3.Connection]:
    try:
        with closing(sqlite3.connect(f"file:{file}?mode=ro", uri=True)) as db:
            found = db.execute("SELECT format, chunk_format FROM about").fetchone()
            if tuple(found or ()) != (SNAPSHOT_FORMAT, FORMAT):
                raise BadInput(
                    f"{str(file)!r} has the format {found}, this release reads {(SNAPSHOT_FORMAT, FORMAT)}.",
                    hint="Index the repositories again.",
                )
            yield db
    except sqlite3.Error as error:
        raise BadInput(f"{str(file)!r} is not a snapshot: {error}.", hint=_HINT) from None


async def save_collection(
    draft: Draft, engine: ChunkEngine, cache: VectorCache, embedder: Embedder | None, manifest: Manifest
) -> int:
    """A collection as it is now, which nobody may index meanwhile; returns how many chunks it has."""
    await asyncio.to_thread(draft.add_manifest, manifest)
    after: str | None = None
    count = 0
    while True:
        found, after = await engine.list_chunks(manifest.collection, PAGE, after)
        count += len(found)
        await asyncio.to_thread(draft.add_chunks, manifest.collection, [(blob, chunk) for _, blob, chunk in found])
        if embedder is not None and found:
            keys = set(make_keys(embedder, [chunk for _, _, chunk in found]))
            known = await asyncio.to_thread(cache.load, sorted(keys))
            await asyncio.to_thread(draft.add_vectors, known)
        if after is None:
            return count


async def build_generation(snapshot: Snapshot, engine: ChunkEngine, cache: VectorCache) -> int:
    """Everything of a snapshot into an empty engine; returns how many chunks that is."""
    count = 0
    for manifest in snapshot.manifests:
        for page in snapshot.pages_of_chunks(manifest.collection):  # read here: a page takes a millisecond
            await engine.put(manifest.collection, page)
            count += sum(map(len, page.values()))
    for vectors in snapshot.pages_of_vectors():
        await asyncio.to_thread(cache.save, vectors)
    await engine.flush()
    return count
