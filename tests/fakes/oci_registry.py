"""An OCI registry in memory, over HTTP: blobs, manifests, tags, Bearer tokens, and failures on demand.

Follows the distribution specification 1.1 in what it checks: a blob must have the digest it is pushed under, and a
manifest may only name blobs that are there.
"""

import base64
import hashlib
import json
import re
import threading
from collections import defaultdict
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Self
from urllib.parse import parse_qs, urlsplit


class FakeRegistry:
    """`with FakeRegistry() as registry: registry.host`."""

    def __init__(self, login: tuple[str, str] | None = None) -> None:
        self.login = login
        self.blobs: dict[str, dict[str, bytes]] = defaultdict(dict)
        self.manifests: dict[str, dict[str, bytes]] = defaultdict(dict)
        self.requests: list[str] = []
        self.fail_next: int | None = None
        self.deletes = True
        registry = self

        class Handler(_Handler):
            fake = registry

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.host = f"127.0.0.1:{self.server.server_port}"

    def __enter__(self) -> Self:
        self.thread = threading.Thread(target=self.server.serve_forever, kwargs={"poll_interval": 0.02})
        self.thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.server.shutdown()
        self.thread.join()
        self.server.server_close()

    def add_image(self, repository: str, tag: str, content: bytes = b"{}") -> str:
        """An image of one layer; its digest."""
        name = repository.partition("/")[2]
        digest = _digest(content)
        self.blobs[name][digest] = content
        entry = {"mediaType": "application/octet-stream", "digest": digest, "size": len(content)}
        media = "application/vnd.docker.distribution.manifest.v2+json"
        raw = json.dumps({"schemaVersion": 2, "mediaType": media, "config": entry, "layers": [entry]}).encode()
        self.manifests[name][tag] = self.manifests[name][_digest(raw)] = raw
        return _digest(raw)


class _Handler(BaseHTTPRequestHandler):
    fake: FakeRegistry
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    """Else each answer with a body waits 40 ms for the client's word that it got the head."""

    def do_GET(self) -> None:
        self._serve()

    do_HEAD = do_POST = do_PUT = do_DELETE = do_GET  # noqa: N815 - the names http.server looks for

    def _serve(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        url = urlsplit(self.path)
        self.fake.requests.append(f"{self.command} {self.path}")
        if url.path == "/token":
            basic = base64.b64encode(":".join(self.fake.login or ("", "")).encode()).decode()
            ok = self.headers.get("Authorization") == f"Basic {basic}"
            self._answer(200 if ok else 401, json.dumps({"token": "t0ken"}).encode())
        elif self.fake.fail_next is not None:
            status, self.fake.fail_next = self.fake.fail_next, None
            self._answer(status, b"")
        elif self.fake.login and self.headers.get("Authorization") != "Bearer t0ken":
            challenge = f'Bearer realm="http://{self.fake.host}/token",service="fake",scope="repository:x:pull"'
            self._answer(401, b"", {"WWW-Authenticate": challenge})
        elif match := re.fullmatch(r"/v2/(.+)/(manifests|blobs|tags|uploads)/(.*)", url.path):
            self._route(match[1], match[2], match[3], parse_qs(url.query), body)
        else:
            self._answer(404, b"")

    def _route(self, name: str, kind: str, rest: str, query: dict[str, list[str]], body: bytes) -> None:
        if kind == "tags":
            tags = [tag for tag in self.fake.manifests[name] if not tag.startswith("sha256:")]
            self._answer(200 if tags else 404, json.dumps({"name": name, "tags": tags}).encode())
        elif kind == "uploads" and self.command == "POST":
            self._answer(202, b"", {"Location": f"/v2/{name}/uploads/1"})
        elif kind == "uploads":
            digest = query["digest"][0]
            if _digest(body) == digest:
                self.fake.blobs[name.removesuffix("/blobs")][digest] = body
            self._answer(201 if _digest(body) == digest else 400, b"")
        elif kind == "blobs" and self.command == "POST":
            self._answer(202, b"", {"Location": f"/v2/{name}/uploads/1"})
        elif self.command == "PUT":
            self._put_manifest(name, rest, body)
        elif self.command == "DELETE":
            self._delete_manifest(name, rest)
        else:
            store: dict[str, Any] = self.fake.manifests[name] if kind == "manifests" else self.fake.blobs[name]
            found = store.get(rest)
            self._answer(404 if found is None else 200, found or b"", {"Docker-Content-Digest": _digest(found or b"")})

    def _put_manifest(self, name: str, reference: str, body: bytes) -> None:
        manifest = json.loads(body)
        named = [manifest["config"], *manifest["layers"]] if "layers" in manifest else []
        known = all(entry["digest"] in self.fake.blobs[name] for entry in named)
        if known:
            self.fake.manifests[name][reference] = self.fake.manifests[name][_digest(body)] = body
        self._answer(201 if known else 400, b"")

    def _delete_manifest(self, name: str, digest: str) -> None:
        """By digest only, with the tags that name it, as Distribution's registry does."""
        store = self.fake.manifests[name]
        found = store.get(digest)
        if not self.fake.deletes or not digest.startswith("sha256:"):
            self._answer(405, b"")
            return
        for reference in [key for key, raw in store.items() if raw == found]:
            del store[reference]
        self._answer(404 if found is None else 202, b"")

    def _answer(self, status: int, body: bytes, headers: dict[str, str] | None = None) -> None:
        self.send_response(status)
        for key, value in (headers or {}).items():
            self.send_header(key, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def log_message(self, *args: object) -> None:
        """Quiet."""


def _digest(data: bytes) -> str:
    return f"sha256:{hashlib.sha256(data).hexdigest()}"
