"""What more than one part needs from the outside. `app` decides who answers."""

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
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


@dataclass(frozen=True)
class Child:
    """A workflow to queue; see `Durable.child`."""

    workflow: str
    id: str
    argument: Mapping[str, Any]
    partition: str
    priority: int


class Durable(Protocol):
    """Work that survives the process: a step's result is stored once and replayed after a crash."""

    async def step(self, name: str, call: Callable[[], Awaitable[T]], returns: type[T]) -> T:
        """Run `call` once for good. A crash inside it runs it again; after it, never.

        `name` is part of the stored history: treat it as schema. `returns` is any type pydantic can
        validate; results are stored as JSON. While a part of our stack is away (`core.errors.Away`), waits.
        """
        ...

    async def child(
        self, workflow: str, id_: str, argument: Mapping[str, Any], *, partition: str, priority: int
    ) -> dict[str, Any]:
        """Queue a registered workflow under its own id and wait for its result, holding no worker slot.

        `partition` names whose limits it counts against; among the waiting, the lowest `priority` goes first.
        """
        ...

    async def children(self, wanted: Sequence["Child"]) -> list[dict[str, Any]]:
        """The same for several at once; their results in the order they were given."""
        ...

    async def patched(self, name: str) -> bool:
        """Whether this workflow began with the change `name` in the code; False in one that began before it."""
        ...

    async def receive(self, topic: str, timeout_s: float) -> bool:
        """Wait until somebody sends on `topic` to this workflow; False when nobody did in `timeout_s` seconds.

        The time limit holds across restarts.
        """
        ...
