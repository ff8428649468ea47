"""The program that asks addresses outside, against a server of ours: the internet is not for tests."""

import asyncio
import importlib.util
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import ModuleType

import pytest

from docs.blocks import ROOT, WRITTEN


class _Handler(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self.send_response({"/there": 200, "/secret": 403}.get(self.path, 404))
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *args: object) -> None:
        """Quiet."""


@pytest.fixture(scope="module")
def links() -> ModuleType:
    spec = importlib.util.spec_from_file_location("check_links", ROOT / "docs" / "check_links.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    with ThreadingHTTPServer(("127.0.0.1", 0), _Handler) as serving:
        thread = threading.Thread(target=serving.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        yield f"http://127.0.0.1:{serving.server_port}"
        serving.shutdown()
        thread.join()


def test_what_is_not_there_or_does_not_answer_is_dead_and_a_refusal_is_not(links: ModuleType, server: str) -> None:
    nobody = "http://127.0.0.1:9/"
    dead = asyncio.run(links.find_dead([f"{server}/there", f"{server}/secret", f"{server}/gone", nobody]))

    assert dead.keys() == {f"{server}/gone", nobody}
    assert dead[f"{server}/gone"] == "HTTP 404"


def test_placeholders_are_not_asked(links: ModuleType, tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text(
        "[a](https://real.test/x#y) <https://other.test/>, https://third.test/z. and `https://dev-tools.example.org`,\n"
        "http://127.0.0.1:8000/mcp, https://YOUR-HOST, https://inference.do-ai.run/v1, http://gateway:8000\n"
    )

    assert list(links.find_addresses([page])) == ["https://real.test/x", "https://other.test/", "https://third.test/z"]


def test_the_pages_name_addresses_and_each_is_one(links: ModuleType) -> None:
    found = links.find_addresses(WRITTEN)

    assert "https://osv.dev" in found
    assert [address for address in found if not address.startswith("https://")] == []
