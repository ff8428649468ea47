"""The context service over HTTP (:8007): index a repository, see how far it is, search it."""

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

from fastapi import FastAPI, Query
from pydantic import BaseModel, ConfigDict, Field

from devtools_platform.context.service import MAX_LIMIT, MAX_QUERY_CHARS, ContextService, name_collection
from devtools_platform.context.types import Hit, IndexStatus, Symbol
from devtools_platform.core.errors import BadInput, Unavailable
from devtools_platform.kit.http import create_app


class NewCollection(BaseModel):
    """A repository to index."""

    model_config = ConfigDict(extra="forbid")

    repo: str = Field(min_length=1, description="Absolute path of the top folder of a git repository.")


def build_api(service: ContextService, token: str) -> FastAPI:
    """The routes around a service that someone else opens and closes."""

    async def check_health() -> Mapping[str, Any]:
        try:
            chunks = await service.engine.count()
        except Unavailable as error:
            return {"ok": False, "engine": str(error), "collections": len(service.collections())}
        return {"engine": "alive", "collections": len(service.collections()), "chunks": chunks}

    app = create_app("context", token=token, health=check_health)
    _add_routes(app, service)
    return app


def _add_routes(app: FastAPI, service: ContextService) -> None:
    async def list_collections() -> list[str]:
        return service.collections()

    async def create_collection(new: NewCollection) -> IndexStatus:
        repo = Path(new.repo)
        if not repo.is_absolute():
            raise BadInput(f"{new.repo!r} is not an absolute path.", hint="Give the path from the root folder.")
        return await service.start_index(name_collection(repo), repo)

    async def read_collection(name: str) -> IndexStatus:
        return await service.status(name)

    async def delete_collection(name: str) -> None:
        await service.forget(name)

    async def search(
        name: str,
        q: Annotated[str, Query(min_length=1, max_length=MAX_QUERY_CHARS)],
        limit: Annotated[int, Query(ge=1, le=MAX_LIMIT)] = 8,
        token_budget: Annotated[int, Query(ge=1, le=100_000)] = 2000,
        path: str | None = None,
    ) -> list[Hit]:
        return await service.search(name, q, limit, token_budget, path)

    async def outline(name: str, path: str) -> list[Symbol]:
        return await service.outline(name, path)

    app.add_api_route("/collections", list_collections, methods=["GET"])
    app.add_api_route("/collections", create_collection, methods=["POST"], status_code=202)
    app.add_api_route("/collections/{name}", read_collection, methods=["GET"])
    app.add_api_route("/collections/{name}", delete_collection, methods=["DELETE"], status_code=204)
    app.add_api_route("/collections/{name}/search", search, methods=["GET"])
    app.add_api_route("/collections/{name}/outline", outline, methods=["GET"])
