"""Cutting many files in a process of its own: parsing holds the interpreter, and a service has to answer meanwhile.

The process has a low priority and ends with its run. A file that takes too long, or that kills it, is left out
and named; the rest goes on in a new process.
"""

import asyncio
import logging
import os
from collections.abc import Sequence
from typing import Self

import msgspec

from devtools_platform.context.child import Child, ChildDied
from devtools_platform.context.chunking import ChunkedFile, chunk_file
from devtools_platform.context.pipe import serve

log = logging.getLogger(__name__)

FILE_SECONDS = 20.0
"""A megabyte of ordinary code takes half a second on a busy machine."""
_NICE = 10

File = tuple[str, bytes]
"""A path and its content."""


class Cutter:
    """`async with Cutter() as cutter`: the process starts with the first files."""

    def __init__(self, file_seconds: float = FILE_SECONDS) -> None:
        self.file_seconds = file_seconds
        self._child: Child | None = None

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        if self._child is not None:
            await self._child.close(patiently=False)

    async def cut(self, files: Sequence[File]) -> list[ChunkedFile]:
        """Each file's pieces, in the same order."""
        cut = await self._ask(files)
        if cut is not None:
            return cut
        if len(files) == 1:
            return [ChunkedFile([], f"could not be cut within {self.file_seconds:g} s")]
        return [(await self.cut([file]))[0] for file in files]

    async def _ask(self, files: Sequence[File]) -> list[ChunkedFile] | None:
        """None when one of the files took too long, or was the end of the process."""
        if self._child is None:
            self._child = await Child.start(__name__)
        try:
            answer = await asyncio.wait_for(self._child.ask("cut", files=files), self.file_seconds)
        except (ChildDied, TimeoutError):
            await self._child.close(patiently=False)
            self._child = None
            return None
        return msgspec.msgpack.decode(answer, type=list[ChunkedFile])


def cut_files(files: Sequence[File]) -> list[ChunkedFile]:
    """Each file's pieces. One that we fail at is named and the others go on: one bad file must stop no index."""
    return [_cut_one(path, content) for path, content in files]


def _cut_one(path: str, content: bytes) -> ChunkedFile:
    try:
        return chunk_file(path, content)
    except Exception as error:
        log.exception("%s could not be cut", path)
        return ChunkedFile([], f"could not be cut: {type(error).__name__}")


def main() -> None:
    os.nice(_NICE)
    serve({"cut": cut_files})


if __name__ == "__main__":
    main()
