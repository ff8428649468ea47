"""What all pages share: who is asking, the form they sent, and the frame that every page stands in."""

import logging
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import parse_qsl

from fastapi import Request
from fastapi.responses import Response

from devtools_platform.console.access import Role
from devtools_platform.console.interfaces import Stack
from devtools_platform.console.render import Renderer
from devtools_platform.console.sessions import Session, has_csrf
from devtools_platform.core.errors import BadInput, Forbidden, Unavailable
from devtools_platform.kit.guard import MAX_BODY_BYTES

log = logging.getLogger(__name__)

Form = Mapping[str, str]
Endpoint = Callable[..., Awaitable[Response]]


@dataclass(frozen=True)
class Door:
    """One route, and the role one needs to come through."""

    method: str
    path: str
    endpoint: Endpoint
    role: Role = "viewer"


def get(path: str, endpoint: Endpoint) -> Door:
    return Door("GET", path, endpoint)


def post(path: str, endpoint: Endpoint, role: Role = "operator") -> Door:
    return Door("POST", path, endpoint, role)


class Pages:
    """The handlers of a section. Each gets a request the gate has let through, so a session is there."""

    def __init__(self, stack: Stack, renderer: Renderer) -> None:
        self.stack = stack
        self.renderer = renderer

    def doors(self) -> Sequence[Door]:
        raise NotImplementedError

    async def show(self, request: Request, name: str, *, status: int = 200, **values: Any) -> Response:
        """A page in its frame: who is signed in, the environment, how many approvals wait."""
        return self.renderer.page(
            name,
            status=status,
            session=session_of(request),
            environment=self.stack.stack.environment,
            waiting=await self._count_waiting(),
            **values,
        )

    async def _count_waiting(self) -> int | None:
        """None when the state service cannot say: a page that needs it says so itself."""
        try:
            return await self.stack.approvals.count_pending()
        except Unavailable as error:
            log.warning("Approvals cannot be counted: %s", error)
            return None


def session_of(request: Request) -> Session:
    return request.state.session


def name_of(request: Request) -> str:
    """The person's name, as the audit shows it."""
    return session_of(request).person.name


async def read_form(request: Request) -> Form:
    """The fields of a form this session was given. Raises `Forbidden` for any other."""
    fields = await read_fields(request)
    form = dict(fields)
    _check_csrf(request, form.get("csrf", ""))
    return form


async def read_fields(request: Request) -> list[tuple[str, str]]:
    """The fields of a form in order, names may repeat. Does not look at the CSRF token: for the login page."""
    body = b""
    async for chunk in request.stream():
        body += chunk
        if len(body) > MAX_BODY_BYTES:
            raise BadInput(f"A form is at most {MAX_BODY_BYTES} bytes.", hint="Put long text into the repository.")
    return parse_qsl(body.decode(errors="replace"), keep_blank_values=True)


async def read_form_of_many(request: Request, name: str) -> tuple[Form, tuple[str, ...]]:
    """The same with every value of the field `name`."""
    fields = await read_fields(request)
    _check_csrf(request, dict(fields).get("csrf", ""))
    return dict(fields), tuple(value for field, value in fields if field == name)


def _check_csrf(request: Request, given: str) -> None:
    if not has_csrf(session_of(request), given):
        raise Forbidden(
            "This form does not belong to your session, so nothing was done.",
            hint="Go back, reload the page and send it again.",
        )
