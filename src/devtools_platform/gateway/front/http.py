"""HTTP as the front door needs it: headers that may not disagree, bodies of bounded size, answers in one piece."""

import asyncio
from collections.abc import Mapping
from functools import lru_cache
from urllib.parse import urlsplit

from msgspec import Raw
from starlette.types import Receive, Send

from devtools_platform.core.errors import TooLarge
from devtools_platform.gateway.mcp.messages import HEADER_MISMATCH, HTTP_STATUS, REFUSED, RpcError, read_object

MAX_BODY_BYTES = 4_000_000
BODY_TIMEOUT_S = 30.0
ONCE = frozenset({b"mcp-protocol-version", b"mcp-method", b"mcp-name", b"authorization", b"host", b"mcp-session-id"})
"""Headers that decide something."""


def read_headers(pairs: list[tuple[bytes, bytes]]) -> dict[bytes, bytes]:
    """Raises `RpcError` when a header that decides something comes twice: two readers would see two requests."""
    headers: dict[bytes, bytes] = {}
    for name, value in pairs:
        if name in headers and name in ONCE:
            raise RpcError(HEADER_MISMATCH, f"The header {name.decode('latin-1')} comes more than once.")
        headers[name] = value
    return headers


async def read_body(headers: Mapping[bytes, bytes], receive: Receive) -> bytes:
    length = headers.get(b"content-length", b"0")
    if not length.isdigit() or int(length) > MAX_BODY_BYTES:
        raise TooLarge(f"A request body is at most {MAX_BODY_BYTES} bytes.", hint="Send less.")
    message = await receive()
    if message["type"] == "http.request" and not message.get("more_body"):
        return message.get("body", b"")
    parts, size = [message.get("body", b"")], 0
    async with asyncio.timeout(BODY_TIMEOUT_S):
        while message.get("more_body"):
            message = await receive()
            parts.append(message.get("body", b""))
            size += len(parts[-1])
            if size > MAX_BODY_BYTES:
                raise TooLarge(f"A request body is at most {MAX_BODY_BYTES} bytes.", hint="Send less.")
    return b"".join(parts)


async def respond(send: Send, status: int, body: bytes, extra: list[tuple[bytes, bytes]] | None = None) -> None:
    headers = [(b"content-length", b"%d" % len(body)), *(extra or [])]
    if body:
        headers.append((b"content-type", b"application/json"))
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})


def status_of(error: RpcError) -> int:
    if error.code == REFUSED:
        return 403
    return HTTP_STATUS.get(error.code, 200)


def status_in(message: bytes) -> int:
    """The HTTP status of a whole answer to a stateless client."""
    if b'"error":{' not in message[:120]:
        return 200
    error = read_object(read_object(Raw(message)).get("error"))
    code = bytes(error.get("code", b"0"))
    return status_of(RpcError(int(code) if code.lstrip(b"-").isdigit() else 0, ""))


@lru_cache(maxsize=256)
def host_of(url: str) -> str:
    try:
        return (urlsplit(url).hostname or "").lower()
    except ValueError:
        return ""
