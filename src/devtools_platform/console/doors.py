"""What answers without a session: health, metrics, static files, and the ways in and out.

Programs log a person in: `POST /login-links` with the stack's token answers a link that opens one session. The
token itself never stands in an address, where histories and logs would keep it. People who have a personal token
type it into the login page.
"""

from typing import Any
from urllib.parse import unquote

from fastapi import Request
from fastapi.responses import JSONResponse, RedirectResponse, Response
from prometheus_client import CONTENT_TYPE_LATEST

from devtools_platform import __version__
from devtools_platform.console.access import Person, read_person
from devtools_platform.console.addresses import Addresses
from devtools_platform.console.gate import RETURN_COOKIE
from devtools_platform.console.interfaces import Stack
from devtools_platform.console.pages import read_fields, read_form, session_of
from devtools_platform.console.render import Renderer
from devtools_platform.console.sessions import LINK_LIFETIME_S, OWNER, LoginLinks, Sessions
from devtools_platform.console.sign_in import SignInDoors
from devtools_platform.core.errors import BadInput, DevToolsError, NotFound, Unauthorized
from devtools_platform.kit.guard import error_response, has_token
from devtools_platform.kit.metrics import render_metrics

MAX_LINK_BODY = 10_000


class Doors:
    def __init__(
        self,
        renderer: Renderer,
        sessions: Sessions,
        stack: Stack,
        stack_token: str,
        addresses: Addresses,
    ) -> None:
        self.renderer = renderer
        self.sessions = sessions
        self.audit = stack.audit
        self.tokens = stack.tokens
        self.stack_token = stack_token
        self.addresses = addresses
        self.links = LoginLinks()
        self.sign_in = None
        if stack.sign_in is not None:
            key = sessions.sign_in_key
            self.sign_in = SignInDoors(stack.sign_in, stack.roles, addresses, renderer, key, self._enter)

    async def health(self) -> Response:
        return JSONResponse({"service": "console", "version": __version__, "ok": True})

    async def metrics(self) -> Response:
        return Response(render_metrics("console"), media_type=CONTENT_TYPE_LATEST)

    async def static(self, name: str) -> Response:
        return self.renderer.asset(name)

    async def create_link(self, request: Request) -> Response:
        """For programs: `{"name": ..., "role": ...}` says for whom; without a body it is the owner's."""
        if not has_token(request.headers.get("authorization", ""), self.stack_token):
            return error_response(Unauthorized("A login link needs `Authorization: Bearer TOKEN`."))
        try:
            person = await _read_invited(request)
        except DevToolsError as error:
            return error_response(error)
        url = self.addresses.link(request, "/login", f"token={self.links.issue(person)}")
        facts = {"url": url, "expires_in_s": LINK_LIFETIME_S, "name": person.name, "role": person.role}
        return JSONResponse(facts, status_code=201)

    async def log_in(self, request: Request, token: str = "") -> Response:
        """With a link, or the page that asks for a personal token."""
        person = self.links.redeem(token) if token else None
        if person is None:
            return self.renderer.page("login.html", status=401, path="/login", is_link=bool(token), is_refused=False)
        return await self._start(request, person)

    async def log_in_with_token(self, request: Request) -> Response:
        """The login page's form. There is no session yet, so the gate's origin check is what guards it."""
        fields = dict(await read_fields(request))
        person = await self.tokens.find(fields.get("token", "").strip())
        if person is None:
            return self.renderer.page("login.html", status=401, path="/login", is_link=False, is_refused=True)
        return await self._start(request, person)

    async def begin_sign_in(self, request: Request) -> Response:
        return await self._provider().begin(request, _return_path(request))

    async def finish_sign_in(self, request: Request) -> Response:
        return await self._provider().finish(request)

    def _provider(self) -> SignInDoors:
        if self.sign_in is None:
            raise NotFound(
                "No identity provider is set up here.",
                hint="Log in with a link or a token, or set DEV_TOOLS_CONSOLE_OIDC_ISSUER.",
            )
        return self.sign_in

    async def log_out(self, request: Request) -> Response:
        await read_form(request)
        response = RedirectResponse("/login", status_code=303, headers={"Cache-Control": "no-store"})
        response.delete_cookie(self.sessions.cookie_name)
        await self.audit.record(session_of(request).person.name, "console.logout", "console", {})
        return response

    async def _start(self, request: Request, person: Person) -> Response:
        response = RedirectResponse(_return_path(request), status_code=303, headers={"Cache-Control": "no-store"})
        return await self._let_in(request, person, response, "link or token")

    async def _enter(self, request: Request, person: Person, back: str) -> Response:
        """After a provider's redirect the browser counts as coming from there, so a page of ours takes it on."""
        response = self.renderer.page("signed_in.html", back=back)
        return await self._let_in(request, person, response, self.renderer.provider or "")

    async def _let_in(self, request: Request, person: Person, response: Response, by: str) -> Response:
        await self.audit.record(person.name, "console.login", "console", {"role": person.role, "by": by})
        response.delete_cookie(RETURN_COOKIE)
        response.set_cookie(
            self.sessions.cookie_name,
            self.sessions.start(person),
            max_age=self.sessions.lifetime_s,
            secure=self.addresses.is_secure(request),
            httponly=True,
            samesite="strict",
        )
        return response


async def _read_invited(request: Request) -> Person:
    body = await request.body()
    if not body:
        return OWNER
    if len(body) > MAX_LINK_BODY:
        raise BadInput(f"The body has at most {MAX_LINK_BODY} bytes.", hint='{"name": "ann", "role": "viewer"}')
    try:
        given: Any = await request.json()
    except ValueError:
        raise BadInput("The body is no JSON.", hint='{"name": "ann", "role": "viewer"}') from None
    if not isinstance(given, dict):
        raise BadInput("The body is no JSON object.", hint='{"name": "ann", "role": "viewer"}')
    return read_person(given.get("name"), given.get("role"))  # pyright: ignore[reportUnknownArgumentType, reportUnknownMemberType]


def _return_path(request: Request) -> str:
    """The page that asked to log in. Only a path of ours: the cookie is the browser's word."""
    path = unquote(request.cookies.get(RETURN_COOKIE, ""))
    is_ours = path.startswith("/") and not path.startswith(("//", "/\\", "/login", "/sign-in")) and path.isprintable()
    return path if is_ours and "\\" not in path else "/"
