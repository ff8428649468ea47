"""Child processes on any event loop, started without copying this process.

uvloop forks for each: a stack of 250 MB spends 5 ms of CPU on that, and its loop, with every request on it, stands
still for 10 (measured). The standard library lets the kernel share the memory until the program begins: 0.6 ms of CPU,
and a stop of 1 to 3 ms. A task of six agents starts a hundred programs. Decision 113.
"""

import asyncio
import os
import signal
import subprocess
import threading
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from subprocess import DEVNULL, PIPE
from typing import IO, Self

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

    async def connect(self) -> Self:
        """Its pipes become streams."""
        if self._process.stdin is not None:
            protocol = asyncio.StreamReaderProtocol(asyncio.StreamReader())
            transport, _ = await self._loop.connect_write_pipe(lambda: protocol, self._process.stdin)
            self._transports.append(transport)
            self.stdin = asyncio.StreamWriter(transport, protocol, None, self._loop)
        self.stdout = await self._read_from(self._process.stdout)
        self.stderr = await self._read_from(self._process.stderr)
        return self

    async def _read_from(self, pipe: IO[bytes] | None) -> asyncio.StreamReader | None:
        if pipe is None:
            return None
        reader = asyncio.StreamReader()
        transport, _ = await self._loop.connect_read_pipe(lambda: _Reading(reader), pipe)
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
        """False: the pipe is closed at its end. A pipe of asyncio's is anyway, one of uvloop's would stay."""
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
    process = subprocess.Popen(  # noqa: ASYNC220 - see above
        [str(part) for part in command],
        bufsize=0,
        cwd=cwd,
        env=env,
        stdin=stdin,
        stdout=stdout,
        stderr=stderr,
        pass_fds=tuple(pass_fds),
        start_new_session=start_new_session,
    )
    child = Child(process)
    try:
        return await child.connect()
    except BaseException:
        child.kill()
        child.close()
        raise


async def _read_all(stream: asyncio.StreamReader | None) -> bytes:
    return b"" if stream is None else await stream.read()
