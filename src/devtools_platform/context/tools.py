"""The context service as tools for agents. Which repository a call is about follows from the caller, never
from its arguments, so an agent cannot read another task's code.
"""

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import asdict
from typing import Any, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from devtools_platform.context.service import MAX_QUERY_CHARS, ContextService
from devtools_platform.context.types import Hit, Symbol
from devtools_platform.core.errors import BadInput, DevToolsError
from devtools_platform.core.tools import Caller, Tool, ToolResult


class _Arguments(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)


A = TypeVar("A", bound=_Arguments)


class SearchArguments(_Arguments):
    """Arguments of `search`."""

    query: str = Field(
        min_length=1,
        max_length=MAX_QUERY_CHARS,
        description="What you look for: a question, key words, or the exact name of a function or class.",
    )
    limit: int = Field(default=8, ge=1, le=20, description="Most results to return.")
    path: str | None = Field(
        default=None, description="Search only here: a file, a folder, or a pattern such as src/**/*.py."
    )


class OutlineArguments(_Arguments):
    """Arguments of `outline`."""

    path: str = Field(min_length=1, description="A file, from the top folder of the repository.")


SEARCH = Tool(
    "search",
    "Find code in the repository. Returns the best matching functions, classes and sections with path, first "
    "and last line, and text, best first. Use it before reading files, when you do not know where something "
    "is. It sees the last indexed commit, not uncommitted edits.",
    SearchArguments.model_json_schema(),
    is_read_only=True,
)
OUTLINE = Tool(
    "outline",
    "List every function, method and class of one file with its exact first and last line, decorators "
    "included. Use it to see what a file holds without reading it. It sees the last indexed commit, not "
    "uncommitted edits.",
    OutlineArguments.model_json_schema(),
    is_read_only=True,
)


class ContextTools:
    """`ToolServer` named `context`."""

    name = "context"

    def __init__(self, service: ContextService, collection_of: Callable[[Caller], Awaitable[str]]) -> None:
        self.service = service
        self.collection_of = collection_of

    def list_tools(self) -> Sequence[Tool]:
        return [SEARCH, OUTLINE]

    async def call(self, name: str, arguments: Mapping[str, Any], caller: Caller) -> ToolResult:
        try:
            return await self._call(name, arguments, await self.collection_of(caller))
        except DevToolsError as error:
            return ToolResult(str(error), error.to_dict(), is_error=True)

    async def _call(self, name: str, arguments: Mapping[str, Any], collection: str) -> ToolResult:
        if name == SEARCH.name:
            search = _validate(SearchArguments, arguments)
            hits = await self.service.search(collection, search.query, search.limit, path_glob=search.path)
            return ToolResult(_show_hits(hits), {"hits": [asdict(hit) for hit in hits]})
        if name == OUTLINE.name:
            path = _validate(OutlineArguments, arguments).path
            symbols = await self.service.outline(collection, path)
            return ToolResult(_show_symbols(path, symbols), {"symbols": [asdict(symbol) for symbol in symbols]})
        raise BadInput(f"There is no tool {name!r}.", hint="The tools are search and outline.")


def _validate(kind: type[A], arguments: Mapping[str, Any]) -> A:
    try:
        return kind.model_validate(dict(arguments))
    except ValidationError as error:
        first = error.errors()[0]
        field = ".".join(map(str, first["loc"])) or "arguments"
        raise BadInput(f"{field}: {first['msg']}.", hint="See the tool's input schema.") from None


def _show_hits(hits: Sequence[Hit]) -> str:
    if not hits:
        return "Nothing found. Try other words, a name, or no path."
    return "\n\n".join(_show_hit(hit) for hit in hits)


def _show_hit(hit: Hit) -> str:
    title = f"{hit.path}:{hit.start_line}-{hit.end_line} {hit.kind} {hit.name}".rstrip()
    return f"## {title}\n{hit.text}"


def _show_symbols(path: str, symbols: Sequence[Symbol]) -> str:
    if not symbols:
        return f"{path} has no functions or classes."
    width = len(str(symbols[-1].end_line)) * 2 + 1
    return "\n".join(f"{f'{s.start_line}-{s.end_line}':>{width}} {s.kind} {s.qualified}" for s in symbols)
