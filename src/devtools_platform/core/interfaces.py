"""What more than one part needs from the outside. `app` decides who answers."""

from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any, Protocol, TypeVar

from devtools_platform.core.tools import Caller, Tool, ToolResult

T = TypeVar("T")


class ToolServer(Protocol):
    """A named group of tools the gateway can offer."""

    @property
    def name(self) -> str: ...

    def list_tools(self) -> Sequence[Tool]: ...

    async def call(self, name: str, arguments: Mapping[str, Any], caller: Caller) -> ToolResult:
        """Run one tool. Expected failures come back with `is_error`; raises only for bugs."""
        ...


class Durable(Protocol):
    """Work that survives the process: a step's result is stored once and replayed after a crash."""

    async def step(self, name: str, call: Callable[[], Awaitable[T]], returns: type[T], *, attempts: int = 1) -> T:
        """Run `call` once for good. A crash inside it runs it again; after it, never.

        `name` is part of the stored history: treat it as schema. `returns` is any type pydantic can
        validate; results are stored as JSON.
        """
        ...

    async def child(self, workflow: str, id_: str, argument: Mapping[str, Any]) -> dict[str, Any]:
        """Run a registered workflow under its own id and wait for its result."""
        ...
