"""A Qdrant server for tests, where no image and no binary of the real one can be had: a process that is killed, hangs,
and comes back with its data.

What stands in for what: the routes and bodies are Qdrant's OpenAPI, as `qdrant-client` generates its models from it;
every body is validated by them in both directions, strangers refused as the server does. Search and storage are the
client's own local mode, in a folder that outlives the process. Not in it: consensus, optimizers, index types, limits,
TLS. `python qdrant_server.py FOLDER PORT` needs nothing of ours, so that an image can be made of it.
"""

import os
import signal
import socket
import subprocess
import sys
import time
import warnings
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, Self

import uvicorn
from pydantic import TypeAdapter, ValidationError
from pydantic_core import to_jsonable_python
from qdrant_client import AsyncQdrantClient
from qdrant_client.http import models
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.middleware.base import BaseHTTPMiddleware
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

VERSION = "1.20.0"
START_S = 20
Answer = Callable[[AsyncQdrantClient, Request, Any], Awaitable[Any]]


async def _create_alias(db: AsyncQdrantClient, _: Request, body: models.ChangeAliasesOperation) -> Any:
    return await db.update_collection_aliases(change_aliases_operations=body.actions)


async def _create_collection(db: AsyncQdrantClient, request: Request, body: models.CreateCollection) -> Any:
    return await db.create_collection(
        _name(request), vectors_config=body.vectors, sparse_vectors_config=body.sparse_vectors
    )


async def _delete_collection(db: AsyncQdrantClient, request: Request, _: None) -> Any:
    return await db.delete_collection(_name(request))


async def _create_index(db: AsyncQdrantClient, request: Request, body: models.CreateFieldIndex) -> Any:
    return await db.create_payload_index(_name(request), body.field_name, field_schema=body.field_schema)


async def _list_aliases(db: AsyncQdrantClient, _: Request, __: None) -> Any:
    return await db.get_aliases()


async def _list_collections(db: AsyncQdrantClient, _: Request, __: None) -> Any:
    return await db.get_collections()


async def _upsert(db: AsyncQdrantClient, request: Request, body: models.PointsList) -> Any:
    return await db.upsert(_name(request), body.points)


async def _delete_points(db: AsyncQdrantClient, request: Request, body: models.FilterSelector) -> Any:
    return await db.delete(_name(request), body)


async def _update_vectors(db: AsyncQdrantClient, request: Request, body: models.UpdateVectors) -> Any:
    return await db.update_vectors(_name(request), body.points)


async def _retrieve(db: AsyncQdrantClient, request: Request, body: models.PointRequest) -> Any:
    return await db.retrieve(_name(request), body.ids, with_payload=body.with_payload or False)


async def _scroll(db: AsyncQdrantClient, request: Request, body: models.ScrollRequest) -> Any:
    points, following = await db.scroll(
        _name(request), body.filter, body.limit or 10, offset=body.offset, with_payload=body.with_payload or False
    )
    return models.ScrollResult(points=points, next_page_offset=following)


async def _count(db: AsyncQdrantClient, request: Request, body: models.CountRequest) -> Any:
    return await db.count(_name(request), body.filter, exact=True)


async def _query(db: AsyncQdrantClient, request: Request, body: models.QueryRequest) -> Any:
    return await db.query_points(
        _name(request),
        body.query,
        using=body.using,
        query_filter=body.filter,
        search_params=body.params,
        limit=body.limit or 10,
        with_payload=body.with_payload or False,
    )


ROUTES: list[tuple[str, str, Any, Any, Answer]] = [
    ("GET", "/aliases", None, models.CollectionsAliasesResponse, _list_aliases),
    ("GET", "/collections", None, models.CollectionsResponse, _list_collections),
    ("POST", "/collections/aliases", models.ChangeAliasesOperation, bool, _create_alias),
    ("PUT", "/collections/{name}", models.CreateCollection, bool, _create_collection),
    ("DELETE", "/collections/{name}", None, bool, _delete_collection),
    ("PUT", "/collections/{name}/index", models.CreateFieldIndex, models.UpdateResult, _create_index),
    ("PUT", "/collections/{name}/points", models.PointsList, models.UpdateResult, _upsert),
    ("PUT", "/collections/{name}/points/vectors", models.UpdateVectors, models.UpdateResult, _update_vectors),
    ("POST", "/collections/{name}/points", models.PointRequest, list[models.Record], _retrieve),
    ("POST", "/collections/{name}/points/delete", models.FilterSelector, models.UpdateResult, _delete_points),
    ("POST", "/collections/{name}/points/scroll", models.ScrollRequest, models.ScrollResult, _scroll),
    ("POST", "/collections/{name}/points/count", models.CountRequest, models.CountResult, _count),
    ("POST", "/collections/{name}/points/query", models.QueryRequest, models.QueryResponse, _query),
]
"""What our adapter uses: method, path, body, result."""


def build_app(folder: Path, api_key: str | None = None) -> Starlette:
    db = AsyncQdrantClient(path=str(folder), force_disable_check_same_thread=True)

    def answer(body: Any, result: Any, work: Answer) -> Callable[[Request], Awaitable[Response]]:
        reads, writes = TypeAdapter(body), TypeAdapter(result)

        async def handle(request: Request) -> Response:
            try:
                given = None if body is None else reads.validate_json(await request.body())
            except ValidationError as error:
                return _refuse(400, f"Format error in JSON body: {error}")
            try:
                done = await work(db, request, given)
            except ValueError as error:  # what local mode raises for a collection that is none
                return _refuse(404, f"Not found: {error}")
            # Local mode has a class of its own for some results: the wire has only their JSON.
            shown = to_jsonable_python(done, exclude_none=True)
            writes.validate_python(shown)
            return JSONResponse({"result": shown, "status": "ok", "time": 0.001})

        return handle

    async def check_key(request: Request, call_next: Any) -> Response:
        is_open = api_key is None or request.url.path == "/"
        if not is_open and request.headers.get("api-key") != api_key:
            return Response("Must provide an API key or an Authorization bearer token", 401)
        return await call_next(request)

    async def about(_: Request) -> Response:
        return JSONResponse({"title": "a stand-in for Qdrant, for tests", "version": VERSION})

    routes = [Route(path, answer(body, result, work), methods=[method]) for method, path, body, result, work in ROUTES]
    return Starlette(routes=[Route("/", about), *routes], middleware=[Middleware(BaseHTTPMiddleware, check_key)])


def _refuse(status: int, error: str) -> Response:
    return JSONResponse({"status": {"error": error}, "time": 0.0}, status)


def _name(request: Request) -> str:
    return request.path_params["name"]


class QdrantServer:
    """The process, seen from a test. A context manager; the port stays the same over its lives."""

    def __init__(self, folder: Path, api_key: str | None = None) -> None:
        self.folder = folder
        self.api_key = api_key
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = probe.getsockname()[1]
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def start(self) -> None:
        """Returns when it answers."""
        key = {"QDRANT__SERVICE__API_KEY": self.api_key} if self.api_key else {}
        argv = [sys.executable, str(Path(__file__)), str(self.folder), str(self.port)]
        self._process = subprocess.Popen(argv, env={**os.environ, **key}, start_new_session=True)
        deadline = time.monotonic() + START_S
        while self._process.poll() is None:
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", self.port)) == 0:
                    return
            assert time.monotonic() < deadline, "the stand-in did not start"
            time.sleep(0.02)
        raise AssertionError(f"the stand-in ended with {self._process.returncode}")

    def kill(self) -> None:
        """`kill -9`; what was answered is stored."""
        self._signal(signal.SIGKILL)
        assert self._process is not None
        self._process.wait(10)
        self._process = None

    def freeze(self) -> None:
        """It takes connections and answers nobody, until `thaw`."""
        self._signal(signal.SIGSTOP)

    def thaw(self) -> None:
        self._signal(signal.SIGCONT)

    def _signal(self, number: int) -> None:
        assert self._process is not None, "it does not run"
        self._process.send_signal(number)

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        if self._process is not None:
            self.kill()


def main() -> None:
    warnings.filterwarnings("ignore", message="Payload indexes have no effect")
    folder, port = sys.argv[1:]
    app = build_app(Path(folder), os.environ.get("QDRANT__SERVICE__API_KEY"))
    uvicorn.run(app, host=os.environ.get("QDRANT__SERVICE__HOST", "127.0.0.1"), port=int(port), log_level="warning")


if __name__ == "__main__":
    main()
