"""The context service over HTTP (:8007): index a repository, see how far it is, search it."""

import asyncio
import tempfile
from collections.abc import AsyncGenerator, Awaitable, Callable, Generator, Mapping
from pathlib import Path
from typing import Annotated, Any, BinaryIO

from fastapi import APIRouter, BackgroundTasks, Depends, FastAPI, Query, Request
from pydantic import BaseModel, ConfigDict, Field, TypeAdapter
from sse_starlette.sse import EventSourceResponse
from starlette.responses import StreamingResponse

from devtools_platform.context.access import OPERATOR, Access, Readers
from devtools_platform.context.custody import Custody, Saved
from devtools_platform.context.documents_api import add_document_routes
from devtools_platform.context.library import Library
from devtools_platform.context.names import name_collection
from devtools_platform.context.questions import MAX_LIMIT
from devtools_platform.context.remotes import Remotes, name_remote
from devtools_platform.context.service import ContextService
from devtools_platform.context.types import MAX_QUERY_CHARS, Freshness, Hit, IndexStatus, Lines, RepoSource, Symbol
from devtools_platform.core.errors import BadInput, Forbidden, NotFound, Unavailable
from devtools_platform.kit.guard import has_token
from devtools_platform.kit.http import create_app

PART_BYTES = 1 << 20
HEALTH_S = 1.5
"""The engine's time to say that it lives: who asks for our health waits for two seconds."""
Limit = Annotated[int, Query(ge=1, le=MAX_LIMIT)]
Budget = Annotated[int, Query(ge=1, le=100_000)]


class NewCollection(BaseModel):
    """A repository to index."""

    model_config = ConfigDict(extra="forbid")

    repo: str = Field(min_length=1, description="Absolute path of the top folder of a git repository.")
    follow: RepoSource = Field(default="commit", description="What is indexed: HEAD, or the files on disk.")
    watch: bool = Field(default=False, description="Follow the files on disk; what is saved is searchable at once.")


class Moved(BaseModel):
    """Repositories that have news."""

    model_config = ConfigDict(extra="forbid")

    urls: list[Annotated[str, Field(min_length=1, max_length=500)]] = Field(
        min_length=1, max_length=20, description="Of one repository or several, each in as many forms as are known."
    )


def build_api(
    service: ContextService, token: str, readers: Readers = lambda _: None, remotes: Remotes | None = None
) -> FastAPI:
    """The routes around a service that someone else opens and closes. `readers` are callers without `token`."""

    async def check_health() -> Mapping[str, Any]:
        try:
            async with asyncio.timeout(HEALTH_S):
                chunks = await service.engine.count()
        except (Unavailable, TimeoutError) as error:
            why = str(error) or f"no answer within {HEALTH_S:g} s"
            return {"ok": False, "engine": why, "collections": len(await service.collections())}
        return {"engine": "alive", "collections": len(await service.collections()), "chunks": chunks}

    async def check(request: Request) -> Access:
        """Of every route but `/health` and `/metrics`."""
        header = request.headers.get("authorization", "")
        access = OPERATOR if has_token(header, token) else Access(readers(header) or ())
        if request.method != "GET" and not access.is_operator:
            raise Forbidden("Only the stack's own token changes what is indexed.", hint="Ask who runs the stack.")
        if (name := request.path_params.get("name")) is not None:
            access.check(name)
        return access

    app = create_app("context", token=token, health=check_health, admit=lambda header: readers(header) is not None)
    router = APIRouter(dependencies=[Depends(check)])
    _add_routes(router, service, check)
    _add_reading_routes(router, service)
    add_document_routes(router, Library(service))
    _add_snapshot_routes(router, Custody(service))
    if remotes is not None:
        _add_remote_routes(router, remotes)
    app.include_router(router)
    return app


DOWNLOAD: dict[int | str, dict[str, Any]] = {200: {"content": {"application/octet-stream": {}}}}
STREAM: dict[int | str, dict[str, Any]] = {200: {"content": {"text/event-stream": {}}}}


Check = Callable[[Request], Awaitable[Access]]


def _add_routes(app: APIRouter, service: ContextService, check: Check) -> None:
    async def list_collections(access: Access = Depends(check)) -> list[str]:  # noqa: B008 - FastAPI's own way
        return [name for name in await service.collections() if access.sees(name)]

    async def create_collection(new: NewCollection) -> IndexStatus:
        repo = Path(new.repo)
        if not repo.is_absolute():
            raise BadInput(f"{new.repo!r} is not an absolute path.", hint="Give the path from the root folder.")
        if new.watch:
            return await service.start_watch(name_collection(repo), repo)
        return await service.start_index(name_collection(repo), repo, new.follow)

    async def read_collection(name: str) -> IndexStatus:
        return await service.status(name)

    async def delete_collection(name: str) -> None:
        await service.forget(name)

    async def pause(name: str) -> IndexStatus:
        return await service.pause(name)

    async def resume(name: str) -> IndexStatus:
        return await service.resume(name)

    app.add_api_route("/collections", list_collections, methods=["GET"])
    app.add_api_route("/collections", create_collection, methods=["POST"], status_code=202)
    app.add_api_route("/collections/{name}", read_collection, methods=["GET"])
    app.add_api_route("/collections/{name}", delete_collection, methods=["DELETE"], status_code=204)
    app.add_api_route("/collections/{name}/pause", pause, methods=["POST"])
    app.add_api_route("/collections/{name}/resume", resume, methods=["POST"], status_code=202)


def _add_reading_routes(app: APIRouter, service: ContextService) -> None:
    async def search(
        name: str,
        q: Annotated[str, Query(min_length=1, max_length=MAX_QUERY_CHARS)],
        limit: Limit = 8,
        token_budget: Budget = 2000,
        path: str | None = None,
    ) -> list[Hit]:
        return await service.search(name, q, limit, token_budget, path)

    async def outline(name: str, path: str) -> list[Symbol]:
        return await service.outline(name, path)

    async def follow_progress(name: str) -> EventSourceResponse:
        await service.status(name)  # a collection that is none is a 404, not a stream
        return EventSourceResponse(_tell_progress(service, name))

    async def symbol(name: str, q: Annotated[str, Query(min_length=1, max_length=200)]) -> list[Hit]:
        return await service.symbol(name, q)

    async def related(name: str, path: str, line: Annotated[int, Query(ge=1)], limit: Limit = 8) -> list[Hit]:
        return await service.related(name, path, line, limit)

    async def read_range(
        name: str, path: str, first: Annotated[int, Query(ge=1)], last: Annotated[int, Query(ge=1)]
    ) -> Lines:
        return await service.read_range(name, path, first, last)

    async def repo_map(name: str, token_budget: Budget = 1000, path: str | None = None) -> dict[str, str]:
        return {"map": await service.repo_map(name, token_budget, path)}

    async def freshness(name: str) -> Freshness:
        return await service.freshness(name)

    app.add_api_route("/collections/{name}/search", search, methods=["GET"])
    app.add_api_route("/collections/{name}/outline", outline, methods=["GET"])
    app.add_api_route(
        "/collections/{name}/events", follow_progress, methods=["GET"], response_model=None, responses=STREAM
    )
    app.add_api_route("/collections/{name}/symbol", symbol, methods=["GET"])
    app.add_api_route("/collections/{name}/related", related, methods=["GET"])
    app.add_api_route("/collections/{name}/lines", read_range, methods=["GET"])
    app.add_api_route("/collections/{name}/map", repo_map, methods=["GET"])
    app.add_api_route("/collections/{name}/freshness", freshness, methods=["GET"])


def _read(source: BinaryIO) -> Generator[bytes]:
    with source:
        while part := source.read(PART_BYTES):
            yield part


class SnapshotFile(BaseModel):
    """A file on the machine the service runs on."""

    model_config = ConfigDict(extra="forbid")

    file: str = Field(min_length=1, description="Absolute path.")


def _add_snapshot_routes(app: APIRouter, custody: Custody) -> None:
    async def create_snapshot(place: SnapshotFile) -> Saved:
        return await custody.save(Path(place.file))

    async def download_snapshot() -> StreamingResponse:
        """A snapshot as the answer's body, for who does not share this machine's disk."""
        place = custody.service.manifests.directory.parent
        with tempfile.TemporaryDirectory(prefix=".snapshot-", dir=place) as folder:
            file = Path(folder) / "snapshot"
            await custody.save(file)
            source = await asyncio.to_thread(file.open, "rb")  # its room is free again when it is closed
        return StreamingResponse(_read(source), media_type="application/octet-stream")

    async def restore_snapshot(place: SnapshotFile) -> Saved:
        return await custody.restore(Path(place.file))

    app.add_api_route("/snapshots", create_snapshot, methods=["POST"])
    app.add_api_route(
        "/snapshots/download", download_snapshot, methods=["POST"], response_model=None, responses=DOWNLOAD
    )
    app.add_api_route("/snapshots/restore", restore_snapshot, methods=["POST"])


def _add_remote_routes(app: APIRouter, remotes: Remotes) -> None:
    async def refresh(moved: Moved, work: BackgroundTasks) -> dict[str, list[str]]:
        """For webhooks: what is followed is asked at once instead of at its next turn."""
        followed = remotes.find(moved.urls)
        if not followed:
            raise NotFound("None of these repositories is followed.", hint="Name it in DEV_TOOLS_CONTEXT_REMOTES.")
        for url in followed:
            work.add_task(remotes.poll, url)
        return {"collections": [name_remote(url) for url in followed]}

    app.add_api_route("/remotes/refresh", refresh, methods=["POST"], status_code=202)


async def _tell_progress(service: ContextService, name: str) -> AsyncGenerator[dict[str, str]]:
    """The status whenever it changes, until the run that goes on has ended."""
    status_json = TypeAdapter(IndexStatus)
    told = ""
    while True:
        changed = service.changes.next(name)
        status = await service.status(name)
        text = status_json.dump_json(status).decode()
        if text != told:
            told = text
            yield {"event": "status", "data": text}
        if not status.is_indexing:
            return
        await changed.wait()
