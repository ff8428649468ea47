"""The console's HTTP side: its routes with the role each needs, and how an error looks."""

import logging
from collections.abc import Awaitable, Callable

from fastapi import Depends, FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import Response
from starlette.exceptions import HTTPException

from devtools_platform import __version__
from devtools_platform.console.access import Role
from devtools_platform.console.addresses import Addresses
from devtools_platform.console.approval_pages import ApprovalPages
from devtools_platform.console.doors import Doors
from devtools_platform.console.gate import CALLBACK, Gate
from devtools_platform.console.gateway_pages import GatewayPages
from devtools_platform.console.home_page import HomePage
from devtools_platform.console.interfaces import Stack
from devtools_platform.console.knowledge_pages import KnowledgePages
from devtools_platform.console.pages import session_of
from devtools_platform.console.release_pages import ReleasePages
from devtools_platform.console.render import Renderer
from devtools_platform.console.sessions import Session, Sessions
from devtools_platform.console.stack_pages import StackPages
from devtools_platform.console.task_pages import TaskPages
from devtools_platform.core.errors import DevToolsError, Forbidden

log = logging.getLogger(__name__)


def build_api(stack: Stack, *, token: str, secret: str, addresses: Addresses) -> FastAPI:
    """The console as an app.

    `token` is the stack's, for programs; `secret` signs sessions and must outlive the process if they shall;
    `addresses` says under which names beside loopback the console answers.
    """
    renderer = Renderer(stack.sign_in.label if stack.sign_in else None)
    sessions = Sessions(secret)
    doors = Doors(renderer, sessions, stack, token, addresses)
    app = FastAPI(title="Dev-Tools console", version=__version__, openapi_url=None, telemetry={"tracing": False})
    for method, path, endpoint in (
        ("GET", "/health", doors.health),
        ("GET", "/metrics", doors.metrics),
        ("GET", "/static/{name}", doors.static),
        ("POST", "/login-links", doors.create_link),
        ("GET", "/login", doors.log_in),
        ("POST", "/login", doors.log_in_with_token),
        ("POST", "/logout", doors.log_out),
        ("GET", "/sign-in", doors.begin_sign_in),
        ("GET", CALLBACK, doors.finish_sign_in),
    ):
        app.add_api_route(path, endpoint, methods=[method])
    for section in (HomePage, TaskPages, ApprovalPages, GatewayPages, KnowledgePages, ReleasePages, StackPages):
        for door in section(stack, renderer).doors():
            needs = [Depends(_require(door.role))]
            app.add_api_route(door.path, door.endpoint, methods=[door.method], dependencies=needs)
    _add_error_pages(app, renderer)
    app.add_middleware(Gate, sessions=sessions, tokens=stack.tokens, renderer=renderer, addresses=addresses)
    return app


def _require(role: Role) -> Callable[[Request], Awaitable[None]]:
    """Refuses whoever is less than `role`, before the handler reads anything."""

    async def check(request: Request) -> None:
        person = session_of(request).person
        if not person.may(role):
            raise Forbidden(
                f"{person.name} is signed in as {person.role}; this needs the role {role}.",
                hint="Ask an admin for a link: `dev-tools console link NAME --role ROLE`.",
            )

    return check


def _add_error_pages(app: FastAPI, renderer: Renderer) -> None:
    async def on_expected(request: Request, error: Exception) -> Response:
        assert isinstance(error, DevToolsError)  # noqa: S101 - registered for exactly this class
        return renderer.error(error.status, str(error), error.hint, _session_or_none(request))

    async def on_invalid(request: Request, error: Exception) -> Response:
        assert isinstance(error, RequestValidationError)  # noqa: S101 - registered for exactly this class
        first = error.errors()[0]
        message = f"{first['loc'][-1]}: {first['msg']}."
        return renderer.error(422, message, "Go back and try again.", _session_or_none(request))

    async def on_http(request: Request, error: Exception) -> Response:
        assert isinstance(error, HTTPException)  # noqa: S101 - registered for exactly this class
        message = f"{request.method} {request.url.path}: {error.detail}."
        hint = "Everything there is starts at the home page."
        return renderer.error(error.status_code, message, hint, _session_or_none(request))

    async def on_bug(request: Request, error: Exception) -> Response:
        log.error("%s %s failed", request.method, request.url.path, exc_info=error)
        return renderer.error(500, "Something broke on our side.", "The console's log has the details.")

    app.add_exception_handler(DevToolsError, on_expected)
    app.add_exception_handler(RequestValidationError, on_invalid)
    app.add_exception_handler(HTTPException, on_http)
    app.add_exception_handler(Exception, on_bug)


def _session_or_none(request: Request) -> Session | None:
    return getattr(request.state, "session", None)
