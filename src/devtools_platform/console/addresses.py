"""Under which addresses the console is reached, and what follows from that: who may send forms, which cookies, links.

What a proxy says of a request (`X-Forwarded-*`) is not read: anybody can say it. The Host header decides, against
names that the settings give, and the scheme outside is the one of the public URL.
"""

from collections.abc import Iterable
from urllib.parse import urlsplit

from starlette.requests import Request

LOOPBACK = frozenset({"localhost", "127.0.0.1", "::1"})
_DEFAULT_PORTS = {"http": 80, "https": 443}
_Origin = tuple[str, str, int | None]


class Addresses:
    """`public_url` is where people reach the console from outside; `hosts` are names it answers to beside that one."""

    def __init__(self, public_url: str | None = None, hosts: Iterable[str] = ()) -> None:
        self.public_url = public_url.rstrip("/") if public_url else None
        self._public = _origin(self.public_url) if self.public_url else None
        names = {host.lower().strip("[]") for host in hosts}
        self._names = LOOPBACK | names | ({self._public[1]} if self._public else set())

    def has(self, request: Request) -> bool:
        """Whether the console answers under the host that a request names."""
        return _hostname(request.headers.get("host", "")) in self._names

    def is_same_origin(self, request: Request) -> bool:
        """Whether a form was sent by a page of the console. From outside it must be under the public URL exactly."""
        origin = request.headers.get("origin")
        if origin is None:  # a program, or an old browser: the session and the form's token decide
            return request.headers.get("sec-fetch-site", "none") in {"none", "same-origin"}
        if self._is_public(request):
            return _origin(origin) == self._public
        return origin.lower().partition("://")[2] == request.headers.get("host", "").lower()

    def is_secure(self, request: Request) -> bool:
        """Whether the browser came by https, so that its cookies may never go out without."""
        if self._public is not None and self._is_public(request):
            return self._public[0] == "https"
        return request.url.scheme == "https"

    def link(self, request: Request, path: str, query: str) -> str:
        """A link for a person: under the public URL where there is one."""
        if self.public_url is None:
            return str(request.url.replace(path=path, query=query))
        return f"{self.public_url}{path}?{query}"

    def _is_public(self, request: Request) -> bool:
        if self._public is None:
            return False
        return _origin(f"{self._public[0]}://{request.headers.get('host', '')}") == self._public


def _hostname(host: str) -> str:
    """`[::1]:8080` is `::1`, `localhost:8080` is `localhost`; what cannot be parsed is nobody."""
    try:
        return urlsplit(f"//{host}").hostname or ""
    except ValueError:
        return ""


def _origin(url: str) -> _Origin | None:
    """Scheme, host and port, as browsers compare them; None for what is none (`null`, a broken address)."""
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError:
        return None
    if not parts.hostname or parts.path or parts.query or parts.fragment or parts.username:
        return None
    return parts.scheme, parts.hostname, port or _DEFAULT_PORTS.get(parts.scheme)
