"""A TCP link between two programs that can become slow or break, as networks do."""

import asyncio
import socket
import threading
from contextlib import suppress
from typing import Literal, Self
from urllib.parse import urlsplit


class SlowLink:
    """Forwards to `target`. A context manager; `base_url` is valid inside."""

    def __init__(self, target: str) -> None:
        self._host, self._port = str(urlsplit(target).hostname), int(urlsplit(target).port or 80)
        self._path = urlsplit(target).path
        self.mode: Literal["fine", "slow", "away"] = "fine"
        self.refused = 0
        """Connections that found nobody, or lost who was there."""
        self._socket = socket.socket()
        self._socket.bind(("127.0.0.1", 0))
        self._socket.listen()
        self._loop = asyncio.new_event_loop()
        self._forwarding: set[asyncio.Task[None] | None] = set()
        """Held here: the loop itself holds a task by a weak reference, and one that waits for both ends may be lost."""

    @property
    def base_url(self) -> str:
        return f"http://127.0.0.1:{self._socket.getsockname()[1]}{self._path}"

    def __enter__(self) -> Self:
        self._thread = threading.Thread(target=self._loop.run_until_complete, args=(self._serve(),))
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join(10)
        self._loop.close()

    async def _serve(self) -> None:
        self._stop = asyncio.Event()
        async with await asyncio.start_server(self._forward, sock=self._socket) as server:
            await self._stop.wait()
            server.close()
            others = asyncio.all_tasks() - {asyncio.current_task()}
            for task in others:
                task.cancel()
            await asyncio.gather(*others, return_exceptions=True)

    async def _forward(self, near: asyncio.StreamReader, near_out: asyncio.StreamWriter) -> None:
        far_out: asyncio.StreamWriter | None = None
        self._forwarding.add(task := asyncio.current_task())
        try:
            if self.mode != "away":
                far, far_out = await asyncio.open_connection(self._host, self._port)
                await asyncio.gather(self._pump(near, far_out), self._pump(far, near_out))
            else:
                self.refused += 1
        except (OSError, ConnectionError):
            self.refused += 1
        finally:
            self._forwarding.discard(task)
            for writer in (near_out, far_out):
                if writer is not None:
                    writer.transport.abort()

    async def _pump(self, source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
        while content := await source.read(65_536):
            if self.mode == "away":
                raise ConnectionResetError
            if self.mode == "slow":  # 300 ms there, 300 ms back, in packets that come one by one
                await asyncio.sleep(0.3)
                for start in range(0, len(content), 1024):
                    sink.write(content[start : start + 1024])
                    await sink.drain()
                    await asyncio.sleep(0.01)
            else:
                sink.write(content)
                await sink.drain()
        with suppress(OSError):
            sink.write_eof()
