"""Cutting in a process of its own: the same pieces, and no file that takes the others with it."""

import os
import signal

import pytest

from devtools_platform.context import cutter as cutting
from devtools_platform.context.chunking import chunk_file
from devtools_platform.context.cutter import Cutter

FILES = [
    ("a.py", b"def one(value):\n    return value\n"),
    ("notes.md", b"no heading here, only words\n"),
    ("b.go", b"package b\n\nfunc Two() int { return 2 }\n"),
    ("bad.py", b"def \xff\xfe(:\n\n\n"),
]


async def test_the_process_cuts_as_the_function_does():
    async with Cutter() as cutter:
        cut = await cutter.cut(FILES)
    assert cut == [chunk_file(path, content) for path, content in FILES]
    assert [len(file.chunks) > 0 for file in cut] == [True, True, True, True]


async def test_a_file_that_takes_too_long_is_named_and_the_next_are_cut():
    async with Cutter(file_seconds=0.0) as cutter:
        slow = await cutter.cut(FILES[:2])
        assert [file.skipped for file in slow] == ["could not be cut within 0 s"] * 2
        cutter.file_seconds = 20.0
        assert (await cutter.cut(FILES[:1]))[0].chunks[0].name == "one"


async def test_a_killed_process_is_replaced():
    async with Cutter() as cutter:
        await cutter.cut(FILES[:1])
        child = cutter._child
        assert child
        os.kill(child.process.pid, signal.SIGKILL)
        await child.process.wait()
        assert [len(file.chunks) > 0 for file in await cutter.cut(FILES)] == [True, True, True, True]


def test_a_file_we_fail_at_does_not_stop_the_others(monkeypatch: pytest.MonkeyPatch):
    def fail_at_a(path: str, content: bytes) -> object:
        if path == "a.py":
            raise RecursionError
        return chunk_file(path, content)

    monkeypatch.setattr(cutting, "chunk_file", fail_at_a)
    first, second = cutting.cut_files(FILES[:2])
    assert first.skipped == "could not be cut: RecursionError"
    assert second.chunks
