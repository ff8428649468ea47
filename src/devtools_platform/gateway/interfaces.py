"""What the gateway needs from outside: a place where every call is recorded before it happens."""

from collections.abc import Mapping
from typing import Any, Protocol

from devtools_platform.core.tools import Caller, ToolResult
from devtools_platform.gateway.types import Decision, StoredCall


class Grants(Protocol):
    """What people have approved."""

    async def find_grant(self, approval: str, caller: Caller, tool: str) -> Mapping[str, object] | None:
        """The arguments approved under that id for this task, agent and tool; None when nothing was."""
        ...


class CallRecords(Protocol):
    """The durable record of tool calls, and by it the promise that a keyed call has one effect."""

    async def begin(
        self, key: str, caller: Caller, tool: str, arguments: Mapping[str, Any], decision: Decision
    ) -> StoredCall | None:
        """Record a call before it runs. None: go ahead. Otherwise what the earlier call under `key` came to."""
        ...

    async def take_over(self, key: str, stored: StoredCall) -> bool:
        """Make the call that another gateway process left unfinished one's own; False when somebody was faster."""
        ...

    async def finish(self, key: str, result: ToolResult, duration_s: float) -> None: ...

    async def mark_doubtful(self, key: str) -> None:
        """The call began and nobody knows whether it had its effect."""
        ...

    async def usage(self, task_id: str) -> int:
        """How many calls the task has made."""
        ...
