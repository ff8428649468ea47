"""The context service where it runs apart: its answers over HTTP, as the values its parts in one process exchange."""

from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, TypeVar

from pydantic import TypeAdapter

from devtools_platform.app.client import Refused
from devtools_platform.app.context_client import ContextClient, part
from devtools_platform.context.types import Freshness, Hit, IndexStatus, Lines, RepoSource, Symbol
from devtools_platform.core.errors import BadInput, DevToolsError, NotFound

T = TypeVar("T")
_EXPECTED: dict[str, type[DevToolsError]] = {"not_found": NotFound, "bad_input": BadInput}


@dataclass(frozen=True)
class RemoteContext:
    """The part's `Reader`, and what the console asks beside it. Raises `Unavailable` when the service is away."""

    client: ContextClient

    async def collections(self) -> list[str]:
        return await self._get(list[str], "/collections")

    async def status(self, collection: str) -> IndexStatus:
        return await self._get(IndexStatus, f"/collections/{part(collection)}")

    async def freshness(self, collection: str) -> Freshness:
        return await self._get(Freshness, f"/collections/{part(collection)}/freshness")

    async def start_index(self, collection: str, repo: Path, follow: RepoSource = "commit") -> IndexStatus:
        """The service names the collection by the repository, as `collection` is."""
        del collection
        return _read(IndexStatus, await self._send("POST", "/collections", json={"repo": str(repo), "follow": follow}))

    async def search(
        self, collection: str, query: str, limit: int = 8, token_budget: int = 2000, path_glob: str | None = None
    ) -> list[Hit]:
        asked = {"q": query, "limit": limit, "token_budget": token_budget, "path": path_glob}
        return await self._get(list[Hit], f"/collections/{part(collection)}/search", **asked)

    async def symbol(self, collection: str, name: str) -> list[Hit]:
        return await self._get(list[Hit], f"/collections/{part(collection)}/symbol", q=name)

    async def related(self, collection: str, path: str, line: int, limit: int = 8) -> list[Hit]:
        asked = {"path": path, "line": line, "limit": limit}
        return await self._get(list[Hit], f"/collections/{part(collection)}/related", **asked)

    async def outline(self, collection: str, path: str) -> list[Symbol]:
        return await self._get(list[Symbol], f"/collections/{part(collection)}/outline", path=path)

    async def repo_map(self, collection: str, token_budget: int = 1000, path_glob: str | None = None) -> str:
        asked = {"token_budget": token_budget, "path": path_glob}
        return (await self._get(dict[str, str], f"/collections/{part(collection)}/map", **asked))["map"]

    async def read_range(self, collection: str, path: str, first: int, last: int) -> Lines:
        asked = {"path": path, "first": first, "last": last}
        return await self._get(Lines, f"/collections/{part(collection)}/lines", **asked)

    async def _get(self, kind: type[T], address: str, /, **asked: Any) -> T:
        given = {name: value for name, value in asked.items() if value is not None}
        return _read(kind, await self._send("GET", address, params=given))

    async def _send(self, method: str, path: str, **more: Any) -> Any:
        try:
            return await self.client.send(method, path, **more)
        except Refused as error:
            expected = _EXPECTED.get(error.body.get("code", ""))
            if expected is None:
                raise
            raise expected(str(error), hint=error.hint) from None


@cache
def _adapter(kind: Any) -> TypeAdapter[Any]:
    return TypeAdapter(kind)


def _read(kind: type[T], answer: Any) -> T:
    return _adapter(kind).validate_python(answer)
