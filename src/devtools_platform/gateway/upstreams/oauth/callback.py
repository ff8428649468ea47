"""Where the browser comes back to: a page on a loopback port that takes one answer and closes."""

import asyncio
from collections.abc import AsyncGenerator, Callable, Mapping
from contextlib import asynccontextmanager, suppress
from urllib.parse import parse_qsl, urlsplit

PATH = "/callback"
HOST = "127.0.0.1"
MAX_HEAD_BYTES = 16_384
READ_TIMEOUT_S = 5.0
Answer = Mapping[str, str]


@asynccontextmanager
async def listening(port: int, is_ours: Callable[[Answer], bool]) -> AsyncGenerator["asyncio.Future[Answer]"]:
    """A future of the first answer that is ours. Raises `OSError` when the port is taken."""
    answered: asyncio.Future[Answer] = asyncio.get_running_loop().create_future()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(OSError, ValueError, TimeoutError, asyncio.IncompleteReadError, asyncio.LimitOverrunError):
            async with asyncio.timeout(READ_TIMEOUT_S):
                head = await reader.readuntil(b"\r\n\r\n")
                answer = read_answer(head.split(b" ")[1].decode("latin-1")) if head.startswith(b"GET ") else None
                is_good = answer is not None and is_ours(answer)
                writer.write(_page(is_good=is_good))
                await writer.drain()
                if is_good and answer is not None and not answered.done():
                    answered.set_result(answer)
        writer.close()

    server = await asyncio.start_server(serve, HOST, port, limit=MAX_HEAD_BYTES)
    try:
        yield answered
    finally:
        server.close()
        answered.cancel()


def read_answer(url: str) -> Answer | None:
    """The parameters of the address a browser came back to. None when it is another page, or says a thing twice."""
    parts = urlsplit(url)
    pairs = parse_qsl(parts.query)
    if parts.path != PATH or len(dict(pairs)) != len(pairs):
        return None
    return dict(pairs)


def _page(*, is_good: bool) -> bytes:
    text = "Done. You can close this page and go back to your terminal." if is_good else "Nothing waits for this."
    body = text.encode()
    status = b"200 OK" if is_good else b"400 Bad Request"
    return (
        b"HTTP/1.1 %b\r\ncontent-type: text/plain; charset=utf-8\r\ncontent-length: %d\r\nconnection: close\r\n"
        b"cache-control: no-store\r\nreferrer-policy: no-referrer\r\n\r\n%b" % (status, len(body), body)
    )
