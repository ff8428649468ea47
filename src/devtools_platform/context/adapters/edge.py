"""The chunk engine on embedded Qdrant, seen from the service: starts the engine's process and speaks to it.

Requests are JSON lines, many at a time, matched to answers by id. A process that dies is started again once
per request and the request repeated, which every operation allows. What dies twice is `Unavailable`.
"""

import asyncio
import itertools
import json
import logging
import sys
from asyncio.subprocess import PIPE, Process
from collections import deque
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any

import devtools_platform
from devtools_platform.context.query import DENSE, quantise
from devtools_platform.context.types import Candidate, Chunk
from devtools_platform.core.errors import Unavailable

log = logging.getLogger(__name__)

MAX_LINE = 64_000_000
"""Bytes of one message. A batch or an answer is a few hundred kilobytes; more is a fault, not a load."""
CLOSE_SECONDS = 10.0
_MODULE = "devtools_platform.context.adapters.edge_child"
_HINT = "See the context service's log; if the index is damaged, remove its folder and index again."


class EdgeEngine:
    """`ChunkEngine` in a child process that owns `directory`."""

    def __init__(self, directory: Path, *, vector_size: int = 384, timeout_s: float = 60.0) -> None:
        """`vector_size` is that of the embedder; a directory made for another size is not opened."""
        self.directory = directory
        self.vector_size = vector_size
        self.timeout_s = timeout_s
        self._child: _Child | None = None
        self._starting = asyncio.Lock()
        self._is_closed = False

    @property
    def pid(self) -> int | None:
        """The engine's process, if one runs."""
        return self._child.process.pid if self._child and self._child.is_alive else None

    async def put(self, collection: str, files: Mapping[str, Sequence[Chunk]]) -> None:
        message = {blob: [asdict(chunk) for chunk in chunks] for blob, chunks in files.items()}
        await self._call("put", collection=collection, files=message)

    async def delete(self, collection: str, blobs: Sequence[str] | None = None) -> None:
        await self._call("delete", collection=collection, blobs=blobs if blobs is None else list(blobs))

    async def search(
        self,
        collection: str,
        query: str,
        *,
        limit: int,
        vector: Sequence[float] | None = None,
        blobs: Sequence[str] | None = None,
    ) -> list[Candidate]:
        found = await self._call(
            "search",
            collection=collection,
            query=query.encode(errors="replace").decode(),  # JSON can carry half a character, the engine cannot
            vector=vector if vector is None else quantise(vector),
            limit=limit,
            blobs=blobs if blobs is None else list(blobs),
        )
        return [_read_candidate(item) for item in found]

    async def get_texts(self, ids: Sequence[str]) -> dict[str, str]:
        return await self._call("get_texts", ids=list(ids))

    async def list_without_vector(self, collection: str, limit: int) -> list[tuple[str, Chunk]]:
        found = await self._call("list_without_vector", collection=collection, limit=limit)
        return [(item["id"], _read_chunk(item["chunk"])[1]) for item in found]

    async def set_vectors(self, vectors: Mapping[str, Sequence[float]]) -> None:
        await self._call("set_vectors", vectors={id_: quantise(vector) for id_, vector in vectors.items()})

    async def count(self, collection: str | None = None, *, without_vector: bool = False) -> int:
        return await self._call("count", collection=collection, lacks=DENSE if without_vector else None)

    async def flush(self) -> None:
        await self._call("flush")

    async def aclose(self) -> None:
        async with self._starting:
            self._is_closed = True
            if self._child:
                await self._child.close()
                self._child = None

    async def _call(self, op: str, **arguments: Any) -> Any:
        try:
            return await self._ask_once(op, arguments)
        except _ChildDied as death:
            log.warning("The search engine ended and is started again: %s", death)
        try:
            return await self._ask_once(op, arguments)
        except _ChildDied as death:
            raise Unavailable(f"The search engine ended twice during {op!r}: {death}", hint=_HINT) from None

    async def _ask_once(self, op: str, arguments: Mapping[str, Any]) -> Any:
        child = await self._get_child()
        try:
            return await asyncio.wait_for(child.ask(op, arguments), self.timeout_s)
        except TimeoutError:
            await child.close(patiently=False)
            raise Unavailable(f"The search engine did not answer {op!r} in {self.timeout_s} s.", hint=_HINT) from None

    async def _get_child(self) -> "_Child":
        async with self._starting:
            if self._is_closed:
                raise Unavailable("The search engine is closed.", hint="Start the stack: `dev-tools up`.")
            if self._child and not self._child.is_alive:
                await self._child.close()
                self._child = None
            if self._child is None:
                self._child = await _Child.start(self.directory, self.vector_size)
            return self._child


class _ChildDied(Exception):
    """The process ended before it answered."""


class _Child:
    """One engine process and the requests it has not answered yet."""

    def __init__(self, process: Process) -> None:
        assert process.stdin  # noqa: S101 - opened as pipes, all three
        assert process.stdout  # noqa: S101
        assert process.stderr  # noqa: S101
        self.process = process
        self.stdin, self.stdout, self.stderr = process.stdin, process.stdout, process.stderr
        self.ids = itertools.count(1)
        self.waiting: dict[int, asyncio.Future[Any]] = {}
        self.words: deque[str] = deque(maxlen=20)
        self.is_alive = True
        self.log_reader = asyncio.create_task(self._read_log())
        self.reader = asyncio.create_task(self._read_answers())

    @classmethod
    async def start(cls, directory: Path, vector_size: int) -> "_Child":
        package_root = str(Path(devtools_platform.__file__).parent.parent)
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", _MODULE, str(directory), str(vector_size)),
            stdin=PIPE,
            stdout=PIPE,
            stderr=PIPE,
            env={"PYTHONPATH": package_root, "LC_ALL": "C.UTF-8"},
            limit=MAX_LINE,
            start_new_session=True,  # a Ctrl-C in the terminal is the parent's to handle
        )
        return cls(process)

    async def ask(self, op: str, arguments: Mapping[str, Any]) -> Any:
        number = next(self.ids)
        line = json.dumps({"id": number, "op": op, **arguments}).encode() + b"\n"
        if len(line) > MAX_LINE:
            raise ValueError(f"A request of {len(line)} bytes is longer than {MAX_LINE}.")
        if not self.is_alive:
            raise _ChildDied(self.last_words())
        answer = self.waiting[number] = asyncio.get_running_loop().create_future()
        try:
            # A process that is gone is noticed by the reader, which then ends this wait.
            with suppress(ConnectionError):
                self.stdin.write(line)
                await self.stdin.drain()
            return await answer
        finally:
            del self.waiting[number]

    async def _read_answers(self) -> None:
        """Deliver answers until there are no more, then tell who still waits why there will be none."""
        try:
            async for line in self.stdout:
                self._deliver(json.loads(line))
        except ValueError:  # too long or not JSON: the stream cannot be trusted any more
            log.exception("The search engine answered what is not an answer")
            self.process.kill()
        self.is_alive = False
        await self.log_reader
        await self.process.wait()
        for answer in self.waiting.values():
            if not answer.done():
                answer.set_exception(_ChildDied(self.last_words()))

    def _deliver(self, message: Mapping[str, Any]) -> None:
        answer = self.waiting.get(message["id"])
        if answer is None or answer.done():  # its caller stopped waiting
            return
        if "error" in message:
            answer.set_exception(Unavailable(f"The search engine refused: {message['error']}", hint=_HINT))
        else:
            answer.set_result(message["result"])

    async def _read_log(self) -> None:
        async for line in self.stderr:
            self.words.append(line.decode(errors="replace").rstrip())

    def last_words(self) -> str:
        """How the process ended, and the end of what it wrote to its log."""
        return f"exit status {self.process.returncode}, {self.words[-1] if self.words else 'without a word'}"

    async def close(self, *, patiently: bool = True) -> None:
        """End the process: closing its input lets it finish. After `CLOSE_SECONDS`, or at once, kill it."""
        self.stdin.close()
        if not patiently and self.process.returncode is None:
            self.process.kill()
        try:
            await asyncio.wait_for(self.process.wait(), CLOSE_SECONDS)
        except TimeoutError:
            self.process.kill()
            await self.process.wait()
        await self.reader


def _read_candidate(item: Mapping[str, Any]) -> Candidate:
    blob, chunk = _read_chunk(item["chunk"])
    return Candidate(blob, chunk, item["text"], item["name"], item["dense"], item["id"])


def _read_chunk(payload: Mapping[str, Any]) -> tuple[str, Chunk]:
    fields: dict[str, Any] = {"text": "", "header": "", **payload}
    blob = fields.pop("blob")
    del fields["collection"]
    return blob, Chunk(**fields)
