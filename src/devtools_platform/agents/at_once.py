"""Work that nothing makes durable: steps and children that are simply made. For chats, measurements and re-runs."""

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

from devtools_platform.core.interfaces import Child

T = TypeVar("T")
Workflow = Callable[[str, dict[str, Any]], Awaitable[dict[str, Any]]]


@dataclass
class AtOnce:
    """See `core.interfaces.Durable`. Nobody sends anything here, so nothing is ever waited for."""

    workflows: Mapping[str, Workflow] = field(default_factory=dict[str, Workflow])

    async def step(self, name: str, call: Callable[[], Awaitable[T]], returns: type[T]) -> T:
        return await call()

    async def child(
        self, workflow: str, id_: str, argument: Mapping[str, Any], *, partition: str, priority: int
    ) -> dict[str, Any]:
        return await self.workflows[workflow](id_, dict(argument))

    async def children(self, wanted: Sequence[Child]) -> list[dict[str, Any]]:
        return await asyncio.gather(*(self.workflows[one.workflow](one.id, dict(one.argument)) for one in wanted))

    async def patched(self, name: str) -> bool:
        return True

    async def receive(self, topic: str, timeout_s: float) -> bool:
        return False
