"""What stands before every service: the token, a bound on what is sent, counts; and what each answers to anybody.

Raw ASGI, so that a service whose calls need no framework need not load one. The framework is `kit.http`'s.
"""

import hmac
import time
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

from prometheus_client import CONTENT_TYPE_LATEST, Counter, Histogram
from starlette.exceptions import HTTPException
from starlette.responses import JSONResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from devtools_platform import __version__
from devtools_platform.core.errors import DevToolsError
from devtools_platform.kit.metrics import render_metrics

MAX_BODY_BYTES = 1_000_000
OPEN_PATHS = frozenset({"/health", "/metrics"})

REQUESTS = Counter("devtools_http_requests_total", "HTTP requests", ["service", "method", "status"])
LATENCY = Histogram("devtools_http_request_duration_seconds", "HTTP request time", ["service"])

HealthCheck = Callable[[], Awaitable[Mapping[str, Any]]]
Admit = Callable[[str], bool]
"""Whether an Authorization header is let in that is not the service's own token: the routes say what it may do."""


async def answer_health(service: str, health: HealthCheck) -> Response:
    """Facts about a service; 503 where `ok` among them is false."""
    facts = {"service": service, "version": __version__, "ok": True, **await health()}
    return JSONResponse(facts, status_code=200 if facts["ok"] else 503)


def answer_metrics(service: str) -> Response:
    """What Prometheus reads."""
    return Response(render_metrics(service), media_type=CONTENT_TYPE_LATEST)


def error_response(error: DevToolsError) -> JSONResponse:
    """The one shape of every error: code, message, hint."""
    headers = {"Retry-After": "2"} if error.status == 503 else None  # noqa: PLR2004 - HTTP's own number
    return JSONResponse(error.to_dict(), status_code=error.status, headers=headers)


def has_token(header: str, token: str) -> bool:
    """Whether an Authorization header carries `token`. Compares in constant time."""
    scheme, _, given = header.partition(" ")
    return scheme.lower() == "bearer" and hmac.compare_digest(given.strip().encode(), token.encode())


class Guard:
    """Raw ASGI: bearer token, body size, request count and time. Before any parsing happens."""

    def __init__(
        self, app: ASGIApp, *, service: str, token: str, open_paths: frozenset[str], admit: Admit | None = None
    ) -> None:
        self.app = app
        self.service = service
        self.token = token
        self.open_paths = open_paths
        self.admit = admit

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        started = time.perf_counter()
        status, is_stream = 500, False

        async def send_and_note(message: Message) -> None:
            nonlocal status, is_stream
            if message["type"] == "http.response.start":
                status = message["status"]
                is_stream = (b"content-type", b"text/event-stream") in {
                    (name.lower(), value.partition(b";")[0]) for name, value in message["headers"]
                }
            await send(message)

        try:
            if refusal := self._refuse(scope):
                await refusal(scope, receive, send_and_note)
            else:
                await self.app(scope, _bounded(receive), send_and_note)
        finally:
            REQUESTS.labels(self.service, scope["method"], str(status)).inc()
            if not is_stream:  # it lasts as long as somebody listens
                LATENCY.labels(self.service).observe(time.perf_counter() - started)

    def _refuse(self, scope: Scope) -> JSONResponse | None:
        headers = {key.decode("latin-1"): value.decode("latin-1") for key, value in scope["headers"]}
        length = headers.get("content-length", "0")
        if not length.isdigit() or int(length) > MAX_BODY_BYTES:
            return plain_error(413, "too_large", f"A request body is at most {MAX_BODY_BYTES} bytes.", "Send less.")
        if "\0" in scope["path"] or b"%00" in scope["query_string"]:  # PostgreSQL has no text with one
            return plain_error(422, "bad_input", "A NUL character stands in the address.", "Leave it out.")
        caller = headers.get("authorization", "")
        if scope["path"] in self.open_paths or has_token(caller, self.token):
            return None
        if self.admit is not None and self.admit(caller):
            return None
        response = plain_error(
            401,
            "unauthorized",
            "This service needs `Authorization: Bearer TOKEN`.",
            "The stack's token is in the file `token` of its data directory (`dev-tools config show`).",
        )
        response.headers["WWW-Authenticate"] = "Bearer"
        return response


def plain_error(status: int, code: str, message: str, hint: str = "") -> JSONResponse:
    """The same for what is no error of ours."""
    return JSONResponse({"code": code, "message": message, "hint": hint}, status_code=status)


def _bounded(receive: Receive) -> Receive:
    """Chunked bodies have no length to check beforehand: count them, and hang up on the one that is too long."""
    total = 0

    async def receive_bounded() -> Message:
        nonlocal total
        message = await receive()
        total += len(message.get("body", b""))
        if total > MAX_BODY_BYTES:
            raise HTTPException(413, f"A request body is at most {MAX_BODY_BYTES} bytes.")
        return message

    return receive_bounded
