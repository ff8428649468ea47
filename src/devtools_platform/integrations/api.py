"""The webhook receiver: the one door of a stack that strangers may knock at. A raw ASGI app on a port of its own.

A request is bounded in size and time, its signature is checked over the raw bytes, then it is stored and
acknowledged. Nothing is worked here. Whatever is not in order changes nothing and is counted.
"""

import asyncio
import json
import logging
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from html import escape
from typing import Any, cast
from urllib.parse import parse_qs

from prometheus_client import Counter, Histogram
from starlette.types import Receive, Scope, Send

from devtools_platform import __version__
from devtools_platform.core.errors import DevToolsError
from devtools_platform.integrations import signatures
from devtools_platform.integrations.inbox import Intake
from devtools_platform.integrations.types import Delivery

log = logging.getLogger(__name__)

ACCEPTED = Counter("devtools_webhooks_accepted_total", "Webhooks that were stored", ["service"])
REFUSED = Counter("devtools_webhooks_refused_total", "Webhooks that changed nothing", ["service", "why"])
LATENCY = Histogram("devtools_webhook_duration_seconds", "From a webhook's first byte to its answer", ["service"])

MAX_BODY_BYTES = 5 * 2**20
"""GitHub caps its payloads at 25 MB, Linear at 5 MiB; what we act on is far smaller than either."""
READ_S = 10.0
"""Longest time a body may take to come in. Both services give up on us after about as long."""
READING_AT_ONCE = 32
MAX_ID_CHARS = 200

Callback = Callable[[Mapping[str, str]], Awaitable[str]]
"""Ends an OAuth sign-in: query parameters in, what to tell the person out."""


class _Refusal(Exception):
    def __init__(self, status: int, why: str) -> None:
        super().__init__(why)
        self.status = status
        self.why = why


@dataclass
class Receiver:
    """The ASGI app. A service without a secret has no door at all."""

    intake: Intake
    wake: Callable[[], None]
    github_secrets: Sequence[str] = ()
    linear_secrets: Sequence[str] = ()
    on_linear_sign_in: Callback | None = None
    read_s: float = READ_S
    clock: Callable[[], float] = time.time
    _reading: asyncio.Semaphore = field(default_factory=lambda: asyncio.Semaphore(READING_AT_ONCE))

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await _live(receive, send)
        elif scope["type"] == "http":
            await self._answer(scope, receive, send)

    async def _answer(self, scope: Scope, receive: Receive, send: Send) -> None:
        method, path = scope["method"], scope["path"]
        if (method, path) == ("GET", "/health"):
            await _reply(send, 200, {"service": "webhooks", "version": __version__, "ok": True})
        elif (method, path) == ("GET", "/oauth/linear") and self.on_linear_sign_in is not None:
            await self._sign_in(scope, send, self.on_linear_sign_in)
        elif path == "/webhooks/github" and self.github_secrets:
            await self._take(scope, receive, send, "github", self._read_github)
        elif path == "/webhooks/linear" and self.linear_secrets:
            await self._take(scope, receive, send, "linear", self._read_linear)
        else:
            REFUSED.labels("unknown", "no_such_door").inc()
            await _reply(send, 404, {"code": "not_found", "message": "Nothing is here.", "hint": ""})

    async def _take(
        self,
        scope: Scope,
        receive: Receive,
        send: Send,
        service: str,
        read: Callable[[bytes, Mapping[str, str]], Delivery],
    ) -> None:
        began = time.perf_counter()
        try:
            headers = _headers(scope)
            delivery = read(await self._body(scope["method"], headers, receive), headers)
            is_new = await self.intake.put(delivery)
        except _Refusal as refusal:
            REFUSED.labels(service, refusal.why).inc()
            await _reply(send, refusal.status, {"code": "refused", "message": refusal.why, "hint": ""})
            return
        except DevToolsError as error:  # not stored, so not acknowledged: the sender delivers it again
            log.warning("a webhook could not be stored: %s", error)
            await _reply(send, 503, {"code": error.code, "message": "Not now.", "hint": ""})
            return
        if is_new:
            ACCEPTED.labels(service).inc()
            self.wake()
        else:
            REFUSED.labels(service, "repeated").inc()
        await _reply(send, 202, {"is_new": is_new})
        LATENCY.labels(service).observe(time.perf_counter() - began)

    async def _body(self, method: str, headers: Mapping[str, str], receive: Receive) -> bytes:
        if method != "POST":
            raise _Refusal(405, "method")
        length = headers.get("content-length", "0")
        if not length.isdigit() or int(length) > MAX_BODY_BYTES:
            raise _Refusal(413, "too_large")
        body = bytearray()
        try:
            async with asyncio.timeout(self.read_s), self._reading:
                while True:
                    message = await receive()
                    if message["type"] == "http.disconnect":
                        raise _Refusal(400, "gone")
                    body += message.get("body", b"")
                    if len(body) > MAX_BODY_BYTES:
                        raise _Refusal(413, "too_large")
                    if not message.get("more_body", False):
                        return bytes(body)
        except TimeoutError:
            raise _Refusal(408, "too_slow") from None

    def _read_github(self, body: bytes, headers: Mapping[str, str]) -> Delivery:
        signature = headers.get("x-hub-signature-256", "")
        if not signature:
            raise _Refusal(401, "unsigned")
        if not signatures.is_from_github(self.github_secrets, body, signature):
            raise _Refusal(401, "wrong_signature")
        id_, event = headers.get("x-github-delivery", ""), headers.get("x-github-event", "")
        if not 0 < len(id_) <= MAX_ID_CHARS or not 0 < len(event) <= MAX_ID_CHARS:
            raise _Refusal(400, "malformed")
        _parse(body)
        return Delivery("github", id_, signatures.digest(body), event, body.decode())

    def _read_linear(self, body: bytes, headers: Mapping[str, str]) -> Delivery:
        signature = headers.get("linear-signature", "")
        if not signature:
            raise _Refusal(401, "unsigned")
        if not signatures.is_from_linear(self.linear_secrets, body, signature):
            raise _Refusal(401, "wrong_signature")
        payload = _parse(body)
        if not signatures.is_fresh(payload, self.clock()):
            raise _Refusal(401, "replayed")
        digest, event = signatures.digest(body), payload.get("type")
        if not isinstance(event, str):
            raise _Refusal(400, "malformed")
        # A delivery that Linear repeats comes with a new time, so a new body: its own id is what it is known by.
        return Delivery("linear", headers.get("linear-delivery", "")[:MAX_ID_CHARS] or digest, digest, event,
                        body.decode())  # fmt: skip

    async def _sign_in(self, scope: Scope, send: Send, callback: Callback) -> None:
        query = {key: values[0] for key, values in parse_qs(scope["query_string"].decode("latin-1")).items()}
        try:
            status, text = 200, await callback(query)
        except DevToolsError as error:
            status, text = error.status, f"{error} {error.hint}"
        await _reply_page(send, status, text)


def _headers(scope: Scope) -> dict[str, str]:
    return {key.decode("latin-1"): value.decode("latin-1") for key, value in scope["headers"]}


def _parse(body: bytes) -> Mapping[str, object]:
    try:
        value = json.loads(body)
    except (ValueError, RecursionError):
        raise _Refusal(400, "malformed") from None
    if not isinstance(value, dict):
        raise _Refusal(400, "malformed")
    return cast("Mapping[str, object]", value)


async def _reply(send: Send, status: int, body: Mapping[str, Any]) -> None:
    text = json.dumps(body).encode()
    headers = [(b"content-type", b"application/json"), (b"content-length", str(len(text)).encode())]
    if status in {408, 413}:
        headers.append((b"connection", b"close"))  # what is left of the body is not read
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": text})


async def _reply_page(send: Send, status: int, text: str) -> None:
    """For a person, whose browser came here. The address holds a code: it is kept nowhere and told to nobody."""
    page = f'<!doctype html><html lang="en"><meta charset="utf-8"><title>Dev-Tools</title><p>{escape(text)}</p></html>'
    body = page.encode()
    headers = [
        (b"content-type", b"text/html; charset=utf-8"),
        (b"content-length", b"%d" % len(body)),
        (b"content-security-policy", b"default-src 'none'; frame-ancestors 'none'"),
        (b"referrer-policy", b"no-referrer"),
        (b"cache-control", b"no-store"),
    ]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})


async def _live(receive: Receive, send: Send) -> None:
    while (await receive())["type"] != "lifespan.shutdown":
        await send({"type": "lifespan.startup.complete"})
    await send({"type": "lifespan.shutdown.complete"})
