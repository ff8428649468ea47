"""What is decided before a page runs: host, origin, session, request count. Raw ASGI, like `kit.http.Guard`.

`Guard` knows bearer tokens, which programs send. A browser sends cookies by itself, also when another page
makes it, hence the three checks here: the Host header (DNS rebinding), the Origin of anything that changes
something (a page on another port of this machine counts as the same site), and the session.
"""

import time
from urllib.parse import quote

from starlette.requests import Request
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from devtools_platform.console.addresses import Addresses
from devtools_platform.console.interfaces import PersonalTokens
from devtools_platform.console.render import Renderer
from devtools_platform.console.sessions import Session, Sessions
from devtools_platform.kit.guard import LATENCY, OPEN_PATHS, REQUESTS

CALLBACK = "/sign-in/callback"
"""Where an identity provider sends the browser back to."""
RETURN_COOKIE = "dev_tools_return"
RETURN_LIFETIME_S = 3600
MAX_RETURN = 1000
_OPEN = OPEN_PATHS | {"/login", "/login-links", "/sign-in", CALLBACK}
_SAFE_METHODS = frozenset({"GET", "HEAD", "OPTIONS"})


class Gate:
    """Lets a request through to the console, or answers it with a page that says why not."""

    def __init__(
        self, app: ASGIApp, *, sessions: Sessions, tokens: PersonalTokens, renderer: Renderer, addresses: Addresses
    ) -> None:
        self.app = app
        self.tokens = tokens
        self.sessions = sessions
        self.renderer = renderer
        self.addresses = addresses

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        started = time.perf_counter()
        status = 500

        async def send_and_note(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        try:
            answer = await self._refuse(Request(scope)) or self.app
            await answer(scope, receive, send_and_note)
        finally:
            REQUESTS.labels("console", scope["method"], str(status)).inc()
            LATENCY.labels("console").observe(time.perf_counter() - started)

    async def _refuse(self, request: Request) -> Response | None:
        if not self.addresses.has(request):
            return self.renderer.error(
                400,
                f"This console does not answer as {request.headers.get('host', '')!r}.",
                "Open it under the address `dev-tools up` prints, or set DEV_TOOLS_PUBLIC_URL to the one people use.",
            )
        if request.method not in _SAFE_METHODS and not self.addresses.is_same_origin(request):
            return self.renderer.error(403, "Another site sent this form.", "Open the console itself and do it there.")
        if request.url.path in _OPEN or request.url.path.startswith("/static/"):
            return None
        session = self.sessions.read(request.cookies.get(self.sessions.cookie_name))
        if session is None or not await self._still_counts(session):
            return self._ask_to_log_in(request)
        request.state.session = session
        return None

    async def _still_counts(self, session: Session) -> bool:
        """A session that began with a personal token ends with it."""
        token_id = session.person.token_id
        return token_id is None or await self.tokens.is_valid(token_id)

    def _ask_to_log_in(self, request: Request) -> Response:
        path = request.url.path + (f"?{request.url.query}" if request.url.query else "")
        response = self.renderer.page("login.html", status=401, path=path, is_link=False, is_refused=False)
        if request.method == "GET" and "text/html" in request.headers.get("accept", ""):
            response.set_cookie(
                RETURN_COOKIE,
                quote(path[:MAX_RETURN]),
                max_age=RETURN_LIFETIME_S,
                secure=self.addresses.is_secure(request),
                httponly=True,
                samesite="strict",
            )
        return response
