"""What is written to a connection at once leaves at once, and never without bound."""

import asyncio
from typing import Any, cast

import pytest

from devtools_platform.app.serving import JOINED_BYTES, JoinedWrites, Protocol, Serving, bind


class Wire:
    """Remembers each write, as a transport would send it."""

    def __init__(self) -> None:
        self.sent: list[bytes] = []
        self.is_closed = False

    def write(self, data: bytes) -> None:
        self.sent.append(data)

    def close(self) -> None:
        self.is_closed = True


async def test_writes_of_one_moment_are_one_and_a_close_loses_none() -> None:
    wire = Wire()
    joined = JoinedWrites(cast("asyncio.Transport", wire), asyncio.get_running_loop(), lambda: "soon")
    joined.write(b"head ")
    joined.write(b"body")
    assert wire.sent == []
    await asyncio.sleep(0)
    assert wire.sent == [b"head body"]
    joined.write(b"last words")
    joined.close()
    await asyncio.sleep(0)
    assert (wire.sent[1:], wire.is_closed) == ([b"last words"], True)


async def test_who_writes_without_a_pause_is_not_held_in_memory() -> None:
    wire = Wire()
    joined = JoinedWrites(cast("asyncio.Transport", wire), asyncio.get_running_loop(), lambda: "soon")
    for _ in range(10):
        joined.write(b"x" * (JOINED_BYTES // 2))
    assert sum(map(len, wire.sent)) >= 9 * (JOINED_BYTES // 2)


async def test_an_answer_of_a_known_length_leaves_without_a_turn_of_the_loop(monkeypatch: pytest.MonkeyPatch) -> None:
    wires: list[Wire] = []
    sent: list[int] = []
    go_on = asyncio.Event()

    async def app(scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "lifespan":
            while (message := await receive())["type"] != "lifespan.shutdown":
                await send({"type": f"{message['type']}.complete"})
            await send({"type": "lifespan.shutdown.complete"})
            return
        length = b"10" if scope["path"] == "/parts" else b"5"
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", length)]})
        if scope["path"] == "/parts":
            await send({"type": "http.response.body", "body": b"first", "more_body": True})
            sent.append(len(wires[0].sent))
            await go_on.wait()
            await send({"type": "http.response.body", "body": b"other", "more_body": True})
            await send({"type": "http.response.body", "body": b""})
        else:
            await send({"type": "http.response.body", "body": b"hello"})
        sent.append(len(wires[0].sent))

    class Watched(asyncio.Transport):
        def __init__(self, transport: asyncio.Transport) -> None:
            self.transport, self.wire = transport, Wire()
            wires.append(self.wire)

        def __getattribute__(self, name: str) -> Any:
            mine = name in {"write", "transport", "wire"}
            return object.__getattribute__(self, name) if mine else getattr(self.transport, name)

        def write(self, data: Any) -> None:
            self.wire.write(bytes(data))
            self.transport.write(data)

    made = Protocol.connection_made
    monkeypatch.setattr(Protocol, "connection_made", lambda self, transport: made(self, Watched(transport)))
    serving, sock = Serving(), bind("127.0.0.1", 0, "X")
    await serving.serve(app, sock)
    reader, writer = await asyncio.open_connection(*sock.getsockname())

    async def ask(method: bytes, path: bytes, until: bytes) -> bytes:
        writer.write(method + b" " + path + b" HTTP/1.1\r\nhost: here\r\n\r\n")
        async with asyncio.timeout(5):
            return await reader.readuntil(until)

    try:
        for _ in range(2):
            assert (await ask(b"GET", b"/", b"hello")).startswith(b"HTTP/1.1 200 OK\r\n")
        assert (await ask(b"HEAD", b"/", b"\r\n\r\n")).startswith(b"HTTP/1.1 200 OK\r\n")
        assert (await ask(b"GET", b"/parts", b"first")).startswith(b"HTTP/1.1 200 OK\r\n")
        go_on.set()
        async with asyncio.timeout(5):
            assert await reader.readexactly(5) == b"other"
    finally:
        writer.close()
        await serving.stop()
    assert [data[-5:] for data in wires[0].sent if data] == [
        b"hello",
        b"hello",
        wires[0].sent[2][-5:],
        b"first",
        b"other",
    ]
    assert sent[:4] == [1, 2, 3, 4], "it was not written when it was sent"
