"""Reading a page: text a model can use, and never an address that is not public."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest
from fastapi import FastAPI, Response
from fastapi.responses import HTMLResponse, RedirectResponse

from devtools_platform.app.serving import Serving, bind
from devtools_platform.core.tools import Caller, ToolResult
from devtools_platform.gateway.toolsets.web import MAX_PAGE_BYTES, WebTools

ME = Caller("task1", "documentation")
PAGE = """<html><head><title>x</title><style>b{}</style></head><body><h1>Two&nbsp;words</h1><script>alert(1)</script>
<p>A <b>bold</b> line.</p><ul><li>one<li>two</ul></body></html>"""


@pytest.fixture
async def site() -> AsyncIterator[str]:
    app = FastAPI()

    @app.get("/page", response_class=HTMLResponse)
    async def page() -> str:
        return PAGE

    @app.get("/moved")
    async def moved() -> RedirectResponse:
        return RedirectResponse("/page")

    @app.get("/round")
    async def round_and_round() -> RedirectResponse:
        return RedirectResponse("/round")

    @app.get("/file")
    async def file() -> RedirectResponse:
        return RedirectResponse("file:///etc/passwd")

    @app.get("/huge")
    async def huge() -> Response:
        return Response("x" * (MAX_PAGE_BYTES + 1), media_type="text/plain")

    @app.get("/picture")
    async def picture() -> Response:
        return Response(b"\x89PNG", media_type="image/png")

    @app.get("/slow")
    async def slow() -> None:
        await asyncio.Event().wait()

    serving, sock = Serving(), bind("127.0.0.1", 0, "X")
    await serving.serve(app, sock)
    yield f"http://127.0.0.1:{sock.getsockname()[1]}"
    await serving.stop()
    sock.close()


async def fetch(url: str, *, allow_private: bool = True, **more: Any) -> ToolResult:
    return await WebTools(allow_private=allow_private).call("fetch", {"url": url, **more}, ME)


async def test_a_page_is_read_as_text_and_in_parts(site: str) -> None:
    whole = await fetch(f"{site}/moved")
    assert whole.text.split("\n\n", 1)[1] == "Two words\nA bold line.\none\ntwo"
    assert (whole.data["url"], whole.data["status"]) == (f"{site}/page", 200)
    part = await fetch(f"{site}/page", length=9)
    assert "read on with start=9" in part.text
    assert (await fetch(f"{site}/page", start=9)).text.endswith("A bold line.\none\ntwo")


@pytest.mark.parametrize(
    ("path", "told"),
    [
        ("/nothing", "HTTP 404"),
        ("/round", "redirects more than"),
        ("/file", "not a plain http"),
        ("/huge", "larger than"),
    ],
)
async def test_what_cannot_be_read_is_told(site: str, path: str, told: str) -> None:
    result = await fetch(site + path)
    assert (result.is_error, told in result.text) == (True, True), result


async def test_a_picture_is_named_and_not_shown(site: str) -> None:
    assert (await fetch(f"{site}/picture")).text.endswith("[image/png]")


async def test_no_private_address_is_dialled(site: str) -> None:
    for url in (site, "http://localhost/", "http://169.254.169.254/latest", "http://[::1]/", "http://0.0.0.0/"):
        result = await fetch(url, allow_private=False)
        assert (result.is_error, "no public address" in result.text) == (True, True), (url, result)
