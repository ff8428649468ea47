"""A child process and its pipes, framed in lines. What it prints is hostile: a line is bounded, an endless one ends it.

The child is in a process group of its own and ends with us. What it prints on standard error is kept in its log.
"""

import asyncio
import contextlib
import os
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import psutil

from devtools_platform.gateway.upstreams.link import LinkDown
from devtools_platform.kit.process import Child, bound_log, die_with_parent

READ_BYTES = 1 << 16
CROWDED = 8
"""Calls at once from which on a child's answers are collected for a moment."""
REST_S_A_CALL = 0.001 / CROWDED
"""The moment, for each call that waits: a child that answers fewer than 8 a millisecond still has work at its end."""
LONGEST_REST_S = 0.004
STOP_TIMEOUT_S = 2.0
ENDLESS_LINE_BYTES = 500_000_000
MAX_WRITE_BACKLOG = 8_000_000


@dataclass(frozen=True)
class Command:
    """How to start a server. `env` is all it sees of an environment."""

    argv: Sequence[str]
    env: Mapping[str, str]
    log_file: Path
    cwd: Path | None = None


class Lines(Protocol):
    """Who gets what the child prints."""

    @property
    def waiting(self) -> int:
        """How many answers the child owes."""
        ...

    def received(self, line: bytes) -> None:
        """One line, without its end."""
        ...

    def oversized(self, head: bytes, tail: bytes) -> None:
        """A line longer than allowed was thrown away but for its two ends."""
        ...

    def ended(self, reason: str) -> None:
        """The child is gone, or must go."""
        ...


class Pipes:
    """A child and its two pipes, framed in lines, which the link gets one by one."""

    def __init__(self, command: Command, max_bytes: int, link: Lines) -> None:
        self.link = link
        self.max_bytes = max_bytes
        bound_log(command.log_file)
        descriptor = os.open(command.log_file, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
        start = os.fstat(descriptor).st_size
        try:
            process = subprocess.Popen(  # the kernel watches the thread that starts it: ours
                list(command.argv),
                env=dict(command.env),
                cwd=command.cwd,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=descriptor,
                start_new_session=True,
                preexec_fn=die_with_parent(),  # noqa: PLW1509 - one system call, bound beforehand
            )
        except (OSError, subprocess.SubprocessError) as error:
            raise LinkDown(f"{command.argv[0]!r} cannot be started: {error}.") from None
        finally:
            os.close(descriptor)
        self.child = Child(process, command.log_file, start)
        self._buffer = bytearray()
        self._skipping = 0
        self._head = b""
        self._out = bytearray()
        self.loop = asyncio.get_running_loop()
        assert process.stdin is not None  # noqa: S101 - asked for above
        assert process.stdout is not None  # noqa: S101 - asked for above
        self._stdin, self._stdout = process.stdin.fileno(), process.stdout.fileno()
        for descriptor in (self._stdin, self._stdout):
            os.set_blocking(descriptor, False)
        self.loop.add_reader(self._stdout, self._read)
        self._is_open = True
        self._is_writer = False
        self._rest: asyncio.TimerHandle | None = None

    def write(self, line: bytes, *, is_alone: bool = False) -> None:
        """Queue one message; one that is alone leaves at once.

        Raises `LinkDown` when the child does not take what it is sent.
        """
        if not self._is_open:
            raise LinkDown("Its process has ended.", is_final=True)
        if len(self._out) > MAX_WRITE_BACKLOG:
            raise LinkDown("It does not read what it is sent.")
        was_empty = not self._out
        # Within valid JSON a raw newline can only be white space; on this wire it would end the message.
        self._out += line.replace(b"\n", b" ").replace(b"\r", b" ") + b"\n"
        if was_empty and is_alone:
            self._flush()
        elif was_empty:  # calls that come together leave together, and wake the child once
            self.loop.call_soon(self._flush)

    def _flush(self) -> None:
        if not self._is_open:
            return
        try:
            while self._out:
                del self._out[: os.write(self._stdin, bytes(self._out[:READ_BYTES]))]
        except BlockingIOError:
            self.loop.add_writer(self._stdin, self._flush)
            self._is_writer = True
            return
        except OSError:
            self._out.clear()
        if self._is_writer:
            self.loop.remove_writer(self._stdin)
            self._is_writer = False

    def _read(self) -> None:
        """What has arrived. While many calls wait and little comes, it is looked for by time instead: to be woken
        for each answer costs more than to take it, and the calls behind it wait for the child anyway."""
        try:
            chunk = os.read(self._stdout, READ_BYTES)
        except BlockingIOError:
            self._wait_for_more()
            return
        except OSError:
            chunk = b""
        is_crowded = self.link.waiting >= CROWDED
        self._take(chunk)
        if self._is_open and is_crowded and 0 < len(chunk) < READ_BYTES:
            self._rest_a_moment()
        else:
            self._wait_for_more()

    def _rest_a_moment(self) -> None:
        if self._rest is None:
            self.loop.remove_reader(self._stdout)
        self._rest = self.loop.call_later(min(LONGEST_REST_S, REST_S_A_CALL * self.link.waiting), self._read)

    def _wait_for_more(self) -> None:
        if self._rest is not None and self._is_open:
            self._rest = None
            self.loop.add_reader(self._stdout, self._read)

    def _take(self, chunk: bytes) -> None:
        if not chunk:
            self.link.ended("Its process has ended.")
            return
        start = 0
        while (end := chunk.find(b"\n", start)) >= 0:
            self._line(chunk[start:end])
            start = end + 1
            if not self._is_open:
                return
        self._grow(chunk[start:])

    def _line(self, rest: bytes) -> None:
        if self._skipping:
            tail = bytes(self._buffer[-200:]) + rest
            self._skipping = 0
            self._buffer.clear()
            self.link.oversized(self._head, tail[-200:])
            return
        line = bytes(self._buffer) + rest if self._buffer else rest
        self._buffer.clear()
        if len(line) > self.max_bytes:
            self.link.oversized(line[:300], line[-200:])
        elif line.strip():
            self.link.received(line)

    def _grow(self, rest: bytes) -> None:
        self._buffer += rest
        if self._skipping:
            self._skipping += len(rest)
            del self._buffer[:-200]
        elif len(self._buffer) > self.max_bytes:
            self._head, self._skipping = bytes(self._buffer[:300]), len(self._buffer)
            del self._buffer[:-200]
        if self._skipping > ENDLESS_LINE_BYTES:
            self.link.ended("It printed a line without an end.")

    def shut(self) -> None:
        """Close our ends; nothing is read or written any more."""
        if not self._is_open:
            return
        self._is_open = False
        if self._rest is not None:
            self._rest.cancel()
        self.loop.remove_reader(self._stdout)
        self.loop.remove_writer(self._stdin)
        for pipe in (self.child.process.stdin, self.child.process.stdout):
            if pipe is not None:
                with contextlib.suppress(OSError):
                    pipe.close()

    async def stop(self) -> None:
        """End the child and everything it started, also what has left its process group."""
        descendants: list[psutil.Process] = []
        with contextlib.suppress(psutil.Error):
            descendants = psutil.Process(self.child.pid).children(recursive=True)
        self.shut()
        await self.child.stop(STOP_TIMEOUT_S)
        for process in descendants:
            with contextlib.suppress(psutil.Error):
                process.kill()
