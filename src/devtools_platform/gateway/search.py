"""Finding a tool among hundreds: two tools that find and call, in place of all their schemas."""

from collections.abc import Mapping, Sequence
from typing import Any

from devtools_platform.core.tools import ToolResult
from devtools_platform.gateway.hub import Hub
from devtools_platform.gateway.mcp.messages import encode
from devtools_platform.gateway.meaning import Meanings
from devtools_platform.gateway.offer import Entry
from devtools_platform.gateway.principal import Principal
from devtools_platform.gateway.ranking import Index
from devtools_platform.gateway.upstreams.upstream import Upstream

META_TOOLS = ("search_tools", "call_tool")
RESULTS = 5
DEFAULT_THRESHOLD_BYTES = 40_000
"""Of schemas, about 10,000 tokens. Below it a model does better with all of them before its eyes."""

_DEFINITIONS: Sequence[Mapping[str, Any]] = (
    {
        "name": "search_tools",
        "description": "Find tools by what you want to do, in plain words. Gives names, descriptions, schemas.",
        "inputSchema": {"type": "object", "properties": {"query": {"type": "string"}}, "required": ["query"]},
        "annotations": {"readOnlyHint": True},
    },
    {
        "name": "call_tool",
        "description": "Call a tool that search_tools found, by its exact name, with arguments by its input schema.",
        "inputSchema": {
            "type": "object",
            "properties": {"name": {"type": "string"}, "arguments": {"type": "object"}},
            "required": ["name"],
        },
    },
)


class SearchMode:
    """When agents get `search_tools` and `call_tool` instead of a long list, and what those answer."""

    def __init__(self, threshold_bytes: int = DEFAULT_THRESHOLD_BYTES, meanings: Meanings | None = None) -> None:
        self.meanings = meanings
        self.threshold_bytes = threshold_bytes
        self.tools = encode(list(_DEFINITIONS))
        self._indexes: dict[Any, tuple[int, Index]] = {}

    def is_on(self, hub: Hub, principal: Principal, upstream: Upstream | None) -> bool:
        """Only for the merged list: who asks for one server by name wants to see it."""
        return upstream is None and len(hub.offer.view(principal).tools) > self.threshold_bytes

    async def find(self, hub: Hub, principal: Principal, query: str, limit: int = RESULTS) -> tuple[list[Entry], str]:
        """The caller's tools that fit best, the best first, and what was ranked by: `words`, or `words and meaning`."""
        entries = hub.offer.view(principal).entries
        query = query[:1000]
        closeness = None
        if self.meanings is not None:
            closeness = await self.meanings.closeness(query, list(entries.values()))
        by = "words" if closeness is None else "words and meaning"
        return [entries[name] for name in self._index(hub, principal).rank(query, limit, closeness)], by

    def prepare(self, hub: Hub) -> None:
        """Make ready for a search among all tools, in the background."""
        if self.meanings is not None:
            self.meanings.want(hub.offer.entries().values())

    def _index(self, hub: Hub, principal: Principal) -> Index:
        entries = hub.offer.view(principal).entries
        version, index = self._indexes.get(principal.policy_key, (-1, None))
        if index is None or version != hub.offer.version:
            if len(self._indexes) > 100:  # noqa: PLR2004 - policies that are searched at one time
                self._indexes.clear()
            index = Index(entries.values())
            self._indexes[principal.policy_key] = (hub.offer.version, index)
        return index

    async def answer(self, hub: Hub, principal: Principal, query: str) -> ToolResult:
        found, by = await self.find(hub, principal, query)
        if not found:
            return ToolResult(f"No tool fits {query[:100]!r}. Say it in other words.", {"tools": []}, is_error=True)
        tools = [{"name": e.full, "description": e.description, "input_schema": e.schema} for e in found]
        return ToolResult(encode(tools).decode(), {"tools": tools, "ranked_by": by})
