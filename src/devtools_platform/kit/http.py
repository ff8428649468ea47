"""What every service's HTTP side has in common: errors, authentication, health, metrics, size limits.

A part makes its app with `create_app`, adds routes, and nothing else. Loopback services are authenticated like
public ones: any web page a person opens can reach 127.0.0.1.
"""

import hmac
import logging
import time
from collections.abc import Awaitable, Callable, Mapping
from contextlib import AbstractAsyncContextManager
from typing import Any

from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, PlainTextResponse
from prometheus_client import CONTENT_TYPE_LATEST, Counter, Histogram
from pydantic import BaseModel
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from devtools_platform import __version__
from devtools_platform.core.errors import DevToolsError
from devtools_platform.kit.metrics import render_metrics

log = logging.getLogger(__name__)

MAX_BODY_BYTES = 1_000_000
OPEN_PATHS = frozenset({"/health", "/metrics"})

REQUESTS = Counter("devtools_http_requests_total", "HTTP requests", ["service", "method", "status"])
LATENCY = Histogram("devtools_http_request_duration_seconds", "HTTP request time", ["service"])

HealthCheck = Callable[[], Awaitable[Mapping[str, Any]]]


Lifespan = Callable[[FastAPI], AbstractAsyncContextManager[None]]
Admit = Callable[[str], bool]
"""Whether an Authorization header is let in that is not the service's own token: the routes say what it may do."""


class ErrorBody(BaseModel):
    """What every error looks like."""

    code: str
    message: str
    hint: str
    """What to do about it: mostly the next command."""


def create_app(
    service: str,
    *,
    token: str,
    health: HealthCheck,
    open_paths: frozenset[str] = frozenset(),
    lifespan: Lifespan | None = None,
    admit: Admit | None = None,
) -> FastAPI:
    """An app that refuses callers without `token`, except on `/health`, `/metrics` and `open_paths`.

    `admit` lets other callers in; each route then has to say what they may do.

    `health` returns facts about the service; a key `ok` that is false makes `/health` answer 503.
    """
    app = FastAPI(
        title=f"Dev-Tools {service}",
        version=__version__,
        docs_url=None,
        redoc_url=None,
        lifespan=lifespan,
        # Its request spans belong to no task, four a request with those of health checks; metrics count requests.
        telemetry={"tracing": False},
        responses={status: {"model": ErrorBody, "description": "An error"} for status in (422, "default")},
    )
    _add_error_handlers(app)

    @app.get("/health", tags=["service"])
    async def read_health() -> Response:  # pyright: ignore[reportUnusedFunction]
        facts = {"service": service, "version": __version__, "ok": True, **await health()}
        return JSONResponse(facts, status_code=200 if facts["ok"] else 503)

    @app.get("/metrics", tags=["service"], response_class=PlainTextResponse)
    async def read_metrics() -> Response:  # pyright: ignore[reportUnusedFunction]
        return Response(render_metrics(service), media_type=CONTENT_TYPE_LATEST)

    app.add_middleware(Guard, service=service, token=token, open_paths=OPEN_PATHS | open_paths, admit=admit)
    return app


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
            return _plain(413, "too_large", f"A request body is at most {MAX_BODY_BYTES} bytes.", "Send less.")
        if "\0" in scope["path"] or b"%00" in scope["query_string"]:  # PostgreSQL has no text with one
            return _plain(422, "bad_input", "A NUL character stands in the address.", "Leave it out.")
        caller = headers.get("authorization", "")
        if scope["path"] in self.open_paths or has_token(caller, self.token):
            return None
        if self.admit is not None and self.admit(caller):
            return None
        response = _plain(
            401,
            "unauthorized",
            "This service needs `Authorization: Bearer TOKEN`.",
            "The stack's token is in the file `token` of its data directory (`dev-tools config show`).",
        )
        response.headers["WWW-Authenticate"] = "Bearer"
        return response


def _plain(status: int, code: str, message: str, hint: str = "") -> JSONResponse:
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


def _add_error_handlers(app: FastAPI) -> None:
    async def on_expected(_: Request, error: Exception) -> Response:
        assert isinstance(error, DevToolsError)  # noqa: S101 - registered for exactly this class
        return error_response(error)

    async def on_invalid(_: Request, error: Exception) -> Response:
        assert isinstance(error, RequestValidationError)  # noqa: S101 - registered for exactly this class
        first = error.errors()[0]
        field = ".".join(str(part) for part in first["loc"])
        return _plain(422, "bad_input", f"{field}: {first['msg']}.", "See /openapi.json for what is expected.")

    async def on_http(_: Request, error: Exception) -> Response:
        assert isinstance(error, HTTPException)  # noqa: S101 - registered for exactly this class
        codes = {404: "not_found", 405: "method_not_allowed", 413: "too_large"}
        code = codes.get(error.status_code, "http_error")
        return _plain(error.status_code, code, str(error.detail), "See /openapi.json for what exists.")

    async def on_bug(request: Request, error: Exception) -> Response:
        log.error("%s %s failed", request.method, request.url.path, exc_info=error)
        return _plain(500, "internal", "Something broke on our side; the log has the details.")

    app.add_exception_handler(DevToolsError, on_expected)
    app.add_exception_handler(RequestValidationError, on_invalid)
    app.add_exception_handler(HTTPException, on_http)
    app.add_exception_handler(Exception, on_bug)
