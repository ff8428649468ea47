"""OSV as far as we ask it: which advisories a package URL has, page by page, and what each advisory says."""

import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Self

PAGE = 2


class FakeOsv:
    """`with FakeOsv() as osv: osv.add("pkg:pypi/x@1", "GHSA-1", severity="HIGH")`."""

    def __init__(self) -> None:
        self.advisories: dict[str, dict[str, Any]] = {}
        self.affected: dict[str, list[str]] = {}
        self.asked: list[list[str]] = []
        """Package URLs of each batch."""
        self.fail_with: int | None = None
        self.answer: bytes | None = None
        """Sent instead of what was asked for."""
        osv = self

        class Handler(_Handler):
            fake = osv

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}"

    def add(
        self,
        package: str,
        id_: str,
        *,
        severity: str | None = None,
        severity_vectors: list[dict[str, str]] | None = None,
        aliases: tuple[str, ...] = (),
        **more: Any,
    ) -> None:
        specific = {"severity": severity} if severity else {}
        vectors = {"severity": severity_vectors} if severity_vectors else {}
        self.advisories[id_] = {"id": id_, "aliases": list(aliases), "database_specific": specific, **vectors, **more}
        self.affected.setdefault(package, []).append(id_)

    def __enter__(self) -> Self:
        self.thread = threading.Thread(target=self.server.serve_forever, kwargs={"poll_interval": 0.02})
        self.thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.server.shutdown()
        self.thread.join()
        self.server.server_close()


class _Handler(BaseHTTPRequestHandler):
    fake: FakeOsv
    protocol_version = "HTTP/1.1"

    def do_POST(self) -> None:
        queries = json.loads(self.rfile.read(int(self.headers["Content-Length"])))["queries"]
        self.fake.asked.append([query["package"]["purl"] for query in queries])
        self._send({"results": [self._page(query) for query in queries]})

    def do_GET(self) -> None:
        found = self.fake.advisories.get(self.path.removeprefix("/v1/vulns/"))
        self._send(found or {"code": 5, "message": "Bug not found."}, 200 if found else 404)

    def _page(self, query: dict[str, Any]) -> dict[str, Any]:
        """As OSV: nothing at all for a package without advisories, and a token where there is more."""
        ids, start = self.fake.affected.get(query["package"]["purl"], []), int(query.get("page_token", 0))
        if not ids:
            return {}
        more = {"next_page_token": str(start + PAGE)} if len(ids) > start + PAGE else {}
        return {"vulns": [{"id": id_, "modified": "2026-01-01T00:00:00Z"} for id_ in ids[start : start + PAGE]], **more}

    def _send(self, body: Any, status: int = 200) -> None:
        data = self.fake.answer if self.fake.answer is not None else json.dumps(body).encode()
        self.send_response(self.fake.fail_with or status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *args: object) -> None:
        """Quiet."""
