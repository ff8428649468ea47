"""Child processes on any event loop, started without copying this process.

uvloop forks for each: a stack of 250 MB spends 5 ms of CPU on that, and its loop, with every request on it, stands
still for 10 (measured). The standard library lets the kernel share the memory until the program begins: 0.6 ms of CPU,
and a stop of 1 to 3 ms. A task of six agents starts a hundred programs. Decision 113.
"""

import asyncio
import os
import signal
import socket
import subprocess
import threading
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from subprocess import DEVNULL, PIPE
from typing import Self

__all__ = ["DEVNULL", "PIPE", "Child", "start_child"]


class Child:
    """A running program: what of `asyncio.subprocess.Process` is used here, by the same names."""

    def __init__(self, process: subprocess.Popen[bytes]) -> None:
        self.pid = process.pid
        self.stdin: asyncio.StreamWriter | None = None
        self.stdout: asyncio.StreamReader | None = None
        self.stderr: asyncio.StreamReader | None = None
        self._process = process
        self._loop = asyncio.get_running_loop()
        self._ended: asyncio.Future[int] = self._loop.create_future()
        self._transports: list[asyncio.BaseTransport] = []
        self._watch()

    @property
    def returncode(self) -> int | None:
        """None until it has ended; below 0 is the signal that ended it. Until then its id is nobody else's."""
        return self._process.returncode

    async def wait(self) -> int:
        """Until it has ended, whoever else still holds its pipes."""
        return await asyncio.shield(self._ended)

    async def communicate(self) -> tuple[bytes, bytes]:
        """What it prints until it ends; nothing more is written to it."""
        if self.stdin is not None:
            self.stdin.close()
        printed = await asyncio.gather(*(_read_all(stream) for stream in (self.stdout, self.stderr)))
        await self.wait()
        return printed[0], printed[1]

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)

    def send_signal(self, number: signal.Signals) -> None:
        """Nothing, if it has ended."""
        with suppress(ProcessLookupError):
            self._process.send_signal(number)

    def close(self) -> None:
        """Its pipes, also where a process that it left behind holds the other end."""
        for transport in self._transports:
            transport.close()

    async def connect(
        self, stdin: socket.socket | None, stdout: socket.socket | None, stderr: socket.socket | None
    ) -> Self:
        """Our ends of what it reads and writes become streams."""
        if stdin is not None:
            protocol = asyncio.StreamReaderProtocol(asyncio.StreamReader())
            transport, _ = await self._loop.connect_write_pipe(lambda: protocol, stdin)
            self._transports.append(transport)
            self.stdin = asyncio.StreamWriter(transport, protocol, None, self._loop)
        self.stdout = await self._read_from(stdout)
        self.stderr = await self._read_from(stderr)
        return self

    async def _read_from(self, end: socket.socket | None) -> asyncio.StreamReader | None:
        if end is None:
            return None
        reader = asyncio.StreamReader()
        transport, _ = await self._loop.connect_read_pipe(lambda: _Reading(reader), end)
        self._transports.append(transport)
        return reader

    def _watch(self) -> None:
        try:
            descriptor = os.pidfd_open(self.pid)
        except (AttributeError, OSError):  # another system than Linux, or a container that forbids it
            threading.Thread(target=self._wait_in_thread, name=f"child-{self.pid}", daemon=True).start()
            return
        self._loop.add_reader(descriptor, self._end, descriptor)

    def _wait_in_thread(self) -> None:
        self._process.wait()
        with suppress(RuntimeError):  # the loop is gone, and whoever waited with it
            self._loop.call_soon_threadsafe(self._end)

    def _end(self, descriptor: int | None = None) -> None:
        code = self._process.poll()
        if descriptor is not None:
            self._loop.remove_reader(descriptor)
            os.close(descriptor)
        if self._ended.done():
            return
        if code is None:
            self._ended.set_exception(ChildProcessError(f"Somebody else took the exit code of process {self.pid}."))
        else:
            self._ended.set_result(code)


class _Reading(asyncio.StreamReaderProtocol):
    def eof_received(self) -> bool:
        """False: it is closed at its end. On asyncio's loop it is anyway, on uvloop it would stay."""
        super().eof_received()
        return False


async def start_child(
    *command: str | Path,
    cwd: Path | None = None,
    env: Mapping[str, str] | None = None,
    stdin: int = DEVNULL,
    stdout: int = DEVNULL,
    stderr: int = DEVNULL,
    pass_fds: Sequence[int] = (),
    start_new_session: bool = False,
) -> Child:
    """Start a program; `PIPE`s become streams. Raises `OSError` for a program that cannot be started."""
    # Sockets, as asyncio's own: uvloop would close a pipe's descriptor twice, and the second time it may be another's.
    pairs = [socket.socketpair() if given == PIPE else None for given in (stdin, stdout, stderr)]
    try:
        theirs = [
            pair[1].fileno() if pair else given for pair, given in zip(pairs, (stdin, stdout, stderr), strict=True)
        ]
        process = subprocess.Popen(  # noqa: ASYNC220 - see above
            [str(part) for part in command],
            cwd=cwd,
            env=env,
            stdin=theirs[0],
            stdout=theirs[1],
            stderr=theirs[2],
            pass_fds=tuple(pass_fds),
            start_new_session=start_new_session,
        )
    except BaseException:
        _close([pair[0] for pair in pairs if pair])
        raise
    finally:
        _close([pair[1] for pair in pairs if pair])
    child, ours = Child(process), [pair[0] if pair else None for pair in pairs]
    try:
        return await child.connect(*ours)
    except BaseException:
        child.kill()
        child.close()
        _close([end for end in ours if end])
        raise


def _close(ends: Iterable[socket.socket]) -> None:
    for end in ends:
        end.close()


async def _read_all(stream: asyncio.StreamReader | None) -> bytes:
    return b"" if stream is None else await stream.read()
