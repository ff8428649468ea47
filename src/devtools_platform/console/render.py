"""Templates and static files of the console, both package data. The only place that makes HTML.

Every value is escaped by Jinja. Static files carry their content's hash in their address, so browsers may
keep them for good and still never show an old one.
"""

import hashlib
import mimetypes
from collections.abc import Mapping, MutableMapping
from dataclasses import dataclass
from importlib.resources import files
from typing import Any, cast

from jinja2 import Environment, PackageLoader, StrictUndefined
from starlette.responses import HTMLResponse, Response

from devtools_platform import __version__
from devtools_platform.console import words
from devtools_platform.console.sessions import Session
from devtools_platform.core.errors import NotFound

PACKAGE = "devtools_platform.console"

_HEADERS = {
    "Content-Security-Policy": (
        "default-src 'self'; base-uri 'none'; form-action 'self'; frame-ancestors 'none'; object-src 'none'"
    ),
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
}

_TITLES: Mapping[int, str] = {
    400: "Wrong address",
    403: "Not allowed",
    404: "Not found",
    405: "Not possible here",
    409: "Not in this state",
    413: "Too large",
    422: "Not understood",
    503: "Not available right now",
}

_FILTERS = (
    "ago",
    "ask_words",
    "budget_words",
    "clock",
    "command_line",
    "count",
    "decision_tone",
    "duration",
    "headline",
    "money",
    "risk_tone",
    "rollout_tone",
    "running_on",
    "spent_words",
    "stage_words",
    "stamp",
    "status_tone",
)
_FUNCTIONS = ("is_running", "lasted", "look_command", "reason_words", "verdict_words")


@dataclass(frozen=True)
class _Asset:
    content: bytes
    media_type: str


class Renderer:
    """Makes pages and fragments from the package's templates."""

    def __init__(self, provider: str | None = None) -> None:
        """`provider`: where people sign in, for the login page."""
        self.provider = provider
        self._assets, self._addresses = _load_assets()
        self._templates = Environment(
            loader=PackageLoader(PACKAGE),
            autoescape=True,
            undefined=StrictUndefined,
            trim_blocks=True,
            lstrip_blocks=True,
        )
        self._templates.filters.update({name: getattr(words, name) for name in _FILTERS})
        known = cast("MutableMapping[str, Any]", self._templates.globals)
        known.update({name: getattr(words, name) for name in _FUNCTIONS})
        known.update(
            asset=self._addresses.__getitem__,
            status_words=words.STATUS_WORDS,
            version=__version__,
            provider=provider,
            session=None,
            section="",
            environment=None,
            waiting=None,
        )

    def page(self, name: str, *, status: int = 200, **values: Any) -> HTMLResponse:
        headers = {**_HEADERS, "Cache-Control": "no-store"}
        return HTMLResponse(self.fragment(name, **values), status_code=status, headers=headers)

    def fragment(self, name: str, **values: Any) -> str:
        return self._templates.get_template(name).render(**values)

    def error(self, status: int, message: str, hint: str, session: Session | None = None) -> HTMLResponse:
        """A whole page for anything that went wrong: what happened, and what to do next."""
        title = _TITLES.get(status, "Something went wrong")
        return self.page("error.html", status=status, title=title, message=message, hint=hint, session=session)

    def asset(self, name: str) -> Response:
        found = self._assets.get(name)
        if found is None:
            raise NotFound(f"There is no static file {name!r}.", hint="Reload the page.")
        headers = {**_HEADERS, "Cache-Control": "public, max-age=31536000, immutable"}
        return Response(found.content, media_type=found.media_type, headers=headers)


def _load_assets() -> tuple[dict[str, _Asset], dict[str, str]]:
    """The static files by hashed name, and each plain name's address."""
    assets: dict[str, _Asset] = {}
    addresses: dict[str, str] = {}
    for file in files(PACKAGE).joinpath("static").iterdir():
        content = file.read_bytes()
        stem, _, ending = file.name.rpartition(".")
        hashed = f"{stem}.{hashlib.sha256(content).hexdigest()[:16]}.{ending}"
        assets[hashed] = _Asset(content, mimetypes.types_map[f".{ending}"])
        addresses[file.name] = f"/static/{hashed}"
    return assets, addresses
