"""Reading a public page. Every address is checked before it is dialled, also after each redirect.

A request's address can carry data out, so the tool's risk is high: by the shipped rules a person is asked first.
"""

import asyncio
import re
from collections.abc import Mapping, Sequence
from html.parser import HTMLParser
from typing import Any
from urllib.parse import urljoin

from pydantic import Field

from devtools_platform.core.errors import BadInput, DevToolsError, ProgramFailed
from devtools_platform.core.tools import Caller, Tool, ToolResult
from devtools_platform.gateway.upstreams.addresses import parse_target
from devtools_platform.gateway.upstreams.http_client import HttpClient, HttpError, Reply
from devtools_platform.kit.arguments import Arguments, read_arguments
from devtools_platform.kit.tls import tls_context

MAX_PAGE_BYTES = 2_000_000
MAX_REDIRECTS = 5
TIMEOUT_S = 30.0
HEADERS = {"user-agent": "dev-tools", "accept": "text/html,text/*,application/json", "accept-encoding": "identity"}
REDIRECTS = frozenset({301, 302, 303, 307, 308})
_BLOCKS = "address article br dd div dt h1 h2 h3 h4 h5 h6 hr li main ol p pre section table td th tr ul"
BLOCKS = frozenset(_BLOCKS.split())
UNSEEN = frozenset({"head", "noscript", "script", "style", "svg", "template"})


class FetchArguments(Arguments):
    """Arguments of `fetch`."""

    url: str = Field(min_length=1, max_length=2000, description="An http or https address.")
    start: int = Field(0, ge=0, description="First character of the text to return, to read on.")
    length: int = Field(20_000, ge=1, le=100_000, description="Most characters to return.")


FETCH = Tool(
    "fetch",
    "Read a public web page as plain text. It says where to read on when the page is longer.",
    FetchArguments.model_json_schema(),
    is_read_only=True,
    risk="high",
    is_for_people=True,
)


class WebTools:
    """`ToolServer` named `web`. `allow_private` is for tests on this machine."""

    name = "web"

    def __init__(self, *, allow_private: bool = False) -> None:
        self._allow_private = allow_private

    def list_tools(self) -> Sequence[Tool]:
        return [FETCH]

    async def call(self, name: str, arguments: Mapping[str, Any], caller: Caller) -> ToolResult:
        try:
            asked = read_arguments(FetchArguments, arguments)
            async with asyncio.timeout(TIMEOUT_S):
                url, reply, body = await self._read(asked.url)
        except TimeoutError:
            return ToolResult(f"It did not answer within {TIMEOUT_S:g} s.", is_error=True)
        except (HttpError, OSError) as error:
            return ToolResult(str(error), is_error=True)
        except DevToolsError as error:
            return ToolResult(str(error), error.to_dict(), is_error=True)
        text = _as_text(reply, body)
        part = text[asked.start : asked.start + asked.length]
        end = asked.start + len(part)
        more = f"\n[{len(text) - end} characters more: read on with start={end}]" if end < len(text) else ""
        facts = {"url": url, "status": reply.status, "start": asked.start, "end": end, "characters": len(text)}
        return ToolResult(f"{url} (HTTP {reply.status})\n\n{part}{more}", facts, is_error=reply.status >= 400)  # noqa: PLR2004

    async def _read(self, url: str) -> tuple[str, Reply, bytes]:
        for _ in range(MAX_REDIRECTS + 1):
            target = parse_target(url)
            client = HttpClient(target, tls=tls_context() if target.is_tls else None, allow_private=self._allow_private)
            try:
                reply = await client.send("GET", HEADERS, b"", max_bytes=MAX_PAGE_BYTES)
                body = await reply.body()
            finally:
                client.close()
            if reply.status not in REDIRECTS or not (place := reply.headers.get(b"location")):
                return url, reply, body
            if target.is_tls and not urljoin(url, place.decode("latin-1")).startswith("https:"):
                raise BadInput(f"{url!r} leads from https to an address without it.")
            url = urljoin(url, place.decode("latin-1"))
        raise ProgramFailed(f"It redirects more than {MAX_REDIRECTS} times.", hint="Give the last address.")


def _as_text(reply: Reply, body: bytes) -> str:
    kind = reply.headers.get(b"content-type", b"").decode("latin-1").lower()
    charset = re.search(r"charset=\"?([\w-]+)", kind)
    try:
        text = body.decode(charset[1] if charset else "utf-8", "replace")
    except LookupError:
        text = body.decode("utf-8", "replace")
    if "html" not in kind:
        return text if kind.startswith(("text/", "application/json", "application/xml")) else f"[{kind or 'no type'}]"
    page = _Page()
    page.feed(text)
    page.close()
    return page.text


class _Page(HTMLParser):
    """What a reader sees of a page, one block a line."""

    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self._parts: list[str] = []
        self._hidden = 0

    @property
    def text(self) -> str:
        lines = (" ".join(line.split()) for line in "".join(self._parts).split("\n"))
        return "\n".join(line for line in lines if line)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self._hidden += tag in UNSEEN
        if tag in BLOCKS:
            self._parts.append("\n")

    def handle_endtag(self, tag: str) -> None:
        self._hidden -= tag in UNSEEN and self._hidden > 0
        if tag in BLOCKS:
            self._parts.append("\n")

    def handle_data(self, data: str) -> None:
        if not self._hidden:
            self._parts.append(data)
