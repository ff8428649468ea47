"""A process of the service's own, seen from the service: asked many things at a time, answered by number.

`pipe.py` is its other end. A child that dies fails what it was asked with `ChildDied`; starting another one is
up to the caller, who knows whether a request may be repeated.
"""

import asyncio
import itertools
import logging
import sys
from asyncio.subprocess import PIPE, Process
from collections import deque
from contextlib import suppress
from pathlib import Path
from typing import Any

import msgspec

import devtools_platform
from devtools_platform.context.pipe import LENGTH, MAX_BYTES

log = logging.getLogger(__name__)

CLOSE_SECONDS = 10.0


class ChildDied(Exception):
    """The process ended before it answered; says how, and its last words."""


class ChildRefused(Exception):
    """The process answered with an error."""


class _Answer(msgspec.Struct, array_like=True):
    number: int
    error: str | None
    result: msgspec.Raw


class Child:
    """One process and the requests it has not answered yet."""

    def __init__(self, process: Process) -> None:
        assert process.stdin  # noqa: S101 - opened as pipes, all three
        assert process.stdout  # noqa: S101
        assert process.stderr  # noqa: S101
        self.process = process
        self.stdin, self.stdout, self.stderr = process.stdin, process.stdout, process.stderr
        self.numbers = itertools.count(1)
        self.waiting: dict[int, asyncio.Future[bytes]] = {}
        self.words: deque[str] = deque(maxlen=20)
        self.is_alive = True
        self.log_reader = asyncio.create_task(self._read_log())
        self.reader = asyncio.create_task(self._read_answers())

    @classmethod
    async def start(cls, module: str, *arguments: str) -> "Child":
        """`python -m module arguments`, with this package to import from and nothing of our environment."""
        package_root = str(Path(devtools_platform.__file__).parent.parent)
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", module, *arguments),
            stdin=PIPE,
            stdout=PIPE,
            stderr=PIPE,
            env={"PYTHONPATH": package_root, "LC_ALL": "C.UTF-8"},
            start_new_session=True,  # a Ctrl-C in the terminal is the parent's to handle
        )
        return cls(process)

    async def ask(self, operation: str, **arguments: Any) -> bytes:
        """The result as msgpack. Raises `ChildDied`, `ChildRefused`, and `ValueError` for a request too long."""
        number = next(self.numbers)
        body = msgspec.msgpack.encode((number, operation, arguments))
        if len(body) > MAX_BYTES:
            raise ValueError(f"A request of {len(body)} bytes is longer than {MAX_BYTES}.")
        if not self.is_alive:
            raise ChildDied(self.last_words())
        answer = self.waiting[number] = asyncio.get_running_loop().create_future()
        try:
            # A process that is gone is noticed by the reader, which then ends this wait.
            with suppress(ConnectionError):
                if not self.stdin.is_closing():
                    self.stdin.write(LENGTH.pack(len(body)) + body)
                    await self.stdin.drain()
            return await answer
        finally:
            del self.waiting[number]

    async def _read_answers(self) -> None:
        """Deliver answers until there are no more, then tell who still waits why there will be none."""
        try:
            while True:
                (length,) = LENGTH.unpack(await self.stdout.readexactly(LENGTH.size))
                self._deliver(msgspec.msgpack.decode(await self.stdout.readexactly(length), type=_Answer))
        except asyncio.IncompleteReadError:
            pass
        except msgspec.DecodeError:  # the stream cannot be trusted any more
            log.exception("A process of ours answered what is not an answer")
            self.process.kill()
        self.is_alive = False
        await self.log_reader
        await self.process.wait()
        for answer in self.waiting.values():
            if not answer.done():
                answer.set_exception(ChildDied(self.last_words()))

    def _deliver(self, message: _Answer) -> None:
        answer = self.waiting.get(message.number)
        if answer is None or answer.done():  # its caller stopped waiting
            return
        if message.error is None:
            answer.set_result(bytes(message.result))
        else:
            answer.set_exception(ChildRefused(message.error))

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
