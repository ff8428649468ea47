"""What every service's HTTP side has in common: errors, authentication, health, metrics, size limits.

A part makes its app with `create_app`, adds routes, and nothing else. Loopback services are authenticated like
public ones: any web page a person opens can reach 127.0.0.1.
"""

import logging
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager

from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import PlainTextResponse
from pydantic import BaseModel
from starlette.exceptions import HTTPException

from devtools_platform import __version__
from devtools_platform.core.errors import DevToolsError
from devtools_platform.kit.guard import (
    OPEN_PATHS,
    Admit,
    Guard,
    HealthCheck,
    answer_health,
    answer_metrics,
    error_response,
    plain_error,
)

log = logging.getLogger(__name__)

Lifespan = Callable[[FastAPI], AbstractAsyncContextManager[None]]


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
        return await answer_health(service, health)

    @app.get("/metrics", tags=["service"], response_class=PlainTextResponse)
    async def read_metrics() -> Response:  # pyright: ignore[reportUnusedFunction]
        return answer_metrics(service)

    app.add_middleware(Guard, service=service, token=token, open_paths=OPEN_PATHS | open_paths, admit=admit)
    return app


def _add_error_handlers(app: FastAPI) -> None:
    async def on_expected(_: Request, error: Exception) -> Response:
        assert isinstance(error, DevToolsError)  # noqa: S101 - registered for exactly this class
        return error_response(error)

    async def on_invalid(_: Request, error: Exception) -> Response:
        assert isinstance(error, RequestValidationError)  # noqa: S101 - registered for exactly this class
        first = error.errors()[0]
        field = ".".join(str(part) for part in first["loc"])
        return plain_error(422, "bad_input", f"{field}: {first['msg']}.", "See /openapi.json for what is expected.")

    async def on_http(_: Request, error: Exception) -> Response:
        assert isinstance(error, HTTPException)  # noqa: S101 - registered for exactly this class
        codes = {404: "not_found", 405: "method_not_allowed", 413: "too_large"}
        code = codes.get(error.status_code, "http_error")
        return plain_error(error.status_code, code, str(error.detail), "See /openapi.json for what exists.")

    async def on_bug(request: Request, error: Exception) -> Response:
        log.error("%s %s failed", request.method, request.url.path, exc_info=error)
        return plain_error(500, "internal", "Something broke on our side; the log has the details.")

    app.add_exception_handler(DevToolsError, on_expected)
    app.add_exception_handler(RequestValidationError, on_invalid)
    app.add_exception_handler(HTTPException, on_http)
    app.add_exception_handler(Exception, on_bug)
