"""The console's HTTP side: its routes, how one logs in, and how an error looks.

Programs log a person in: `POST /login-links` with the stack's token answers a link that opens one session.
The token itself never stands in an address, where histories and logs would keep it.
"""

import logging

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, RedirectResponse, Response
from prometheus_client import CONTENT_TYPE_LATEST
from starlette.exceptions import HTTPException

from devtools_platform import __version__
from devtools_platform.console.gate import RETURN_COOKIE, Gate
from devtools_platform.console.interfaces import StackReader, TaskReader, TaskWriter
from devtools_platform.console.render import Renderer
from devtools_platform.console.sessions import LINK_LIFETIME_S, LoginLinks, Sessions
from devtools_platform.console.task_pages import TaskPages
from devtools_platform.core.errors import DevToolsError, Unauthorized
from devtools_platform.kit.http import error_response, has_token
from devtools_platform.kit.metrics import render_metrics

log = logging.getLogger(__name__)


def build_api(
    reader: TaskReader,
    writer: TaskWriter,
    stack: StackReader,
    *,
    token: str,
    secret: str,
    host: str = "127.0.0.1",
) -> FastAPI:
    """The console as an app.

    `token` is the stack's, for programs; `secret` signs sessions and must outlive the process if they shall;
    `host` is the one name beside loopback the console answers to.
    """
    renderer = Renderer()
    sessions = Sessions(secret)
    doors = Doors(renderer, sessions, token)
    pages = TaskPages(reader, writer, stack, renderer)
    app = FastAPI(title="Dev-Tools console", version=__version__, openapi_url=None, telemetry={"tracing": False})
    for method, path, endpoint in (
        ("GET", "/health", doors.health),
        ("GET", "/metrics", doors.metrics),
        ("GET", "/static/{name}", doors.static),
        ("POST", "/login-links", doors.create_link),
        ("GET", "/login", doors.log_in),
        ("GET", "/", pages.home),
        ("GET", "/tasks", pages.tasks),
        ("POST", "/tasks", pages.create),
        ("GET", "/tasks/{id_}", pages.task),
        ("GET", "/tasks/{id_}/panels", pages.panels),
        ("GET", "/tasks/{id_}/events", pages.events),
        ("POST", "/tasks/{id_}/cancel", pages.cancel),
    ):
        app.add_api_route(path, endpoint, methods=[method])
    _add_error_pages(app, renderer)
    app.add_middleware(Gate, sessions=sessions, renderer=renderer, host=host)
    return app


class Doors:
    """What answers without a session: health, metrics, static files, and the way in."""

    def __init__(self, renderer: Renderer, sessions: Sessions, token: str) -> None:
        self.renderer = renderer
        self.sessions = sessions
        self.token = token
        self.links = LoginLinks()

    async def health(self) -> Response:
        return JSONResponse({"service": "console", "version": __version__, "ok": True})

    async def metrics(self) -> Response:
        return Response(render_metrics("console"), media_type=CONTENT_TYPE_LATEST)

    async def static(self, name: str) -> Response:
        return self.renderer.asset(name)

    async def create_link(self, request: Request) -> Response:
        if not has_token(request.headers.get("authorization", ""), self.token):
            return error_response(Unauthorized("A login link needs `Authorization: Bearer TOKEN`."))
        url = request.url.replace(path="/login", query=f"token={self.links.issue()}")
        return JSONResponse({"url": str(url), "expires_in_s": LINK_LIFETIME_S}, status_code=201)

    async def log_in(self, request: Request, token: str = "") -> Response:
        if not self.links.redeem(token):
            return self.renderer.page("login.html", status=401, path=request.url.path)
        response = RedirectResponse(_return_path(request), status_code=303, headers={"Cache-Control": "no-store"})
        response.delete_cookie(RETURN_COOKIE)
        response.set_cookie(
            self.sessions.cookie_name,
            self.sessions.start(),
            max_age=self.sessions.lifetime_s,
            secure=request.url.scheme == "https",
            httponly=True,
            samesite="strict",
        )
        return response


def _return_path(request: Request) -> str:
    """The page that asked to log in. Only a path of ours: the cookie is the browser's word."""
    path = request.cookies.get(RETURN_COOKIE, "")
    return path if path.startswith("/tasks") else "/"


def _add_error_pages(app: FastAPI, renderer: Renderer) -> None:
    async def on_expected(_: Request, error: Exception) -> Response:
        assert isinstance(error, DevToolsError)  # noqa: S101 - registered for exactly this class
        return renderer.error(error.status, str(error), error.hint)

    async def on_invalid(_: Request, error: Exception) -> Response:
        assert isinstance(error, RequestValidationError)  # noqa: S101 - registered for exactly this class
        first = error.errors()[0]
        return renderer.error(422, f"{first['loc'][-1]}: {first['msg']}.", "Go back and try again.")

    async def on_http(request: Request, error: Exception) -> Response:
        assert isinstance(error, HTTPException)  # noqa: S101 - registered for exactly this class
        message = f"{request.method} {request.url.path}: {error.detail}."
        return renderer.error(error.status_code, message, "Everything there is starts at the home page.")

    async def on_bug(request: Request, error: Exception) -> Response:
        log.error("%s %s failed", request.method, request.url.path, exc_info=error)
        return renderer.error(500, "Something broke on our side.", "The console's log has the details.")

    app.add_exception_handler(DevToolsError, on_expected)
    app.add_exception_handler(RequestValidationError, on_invalid)
    app.add_exception_handler(HTTPException, on_http)
    app.add_exception_handler(Exception, on_bug)
