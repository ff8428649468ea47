"""What the crew needs from outside: tools, a place to report to, a ledger, private clones, code context."""

from collections.abc import Mapping
from decimal import Decimal
from typing import Any, Protocol

from devtools_platform.agents.types import Diff, Workspace
from devtools_platform.core.tasks import Degradation, Reason, Status, TaskRequest, Usage
from devtools_platform.core.tools import Caller, Tool, ToolResult


class ToolClient(Protocol):
    """The gateway as an agent reaches it: over MCP, known by a token made from `caller`."""

    async def list_tools(self, caller: Caller) -> list[Tool]: ...

    async def call(self, caller: Caller, name: str, arguments: Mapping[str, Any], key: str) -> ToolResult:
        """One call. The same `key` has one effect, however often it is sent."""
        ...


class TaskLog(Protocol):
    """Where a task's life is written down."""

    async def get_request(self, id_: str) -> TaskRequest: ...

    async def mark_working(self, task_id: str) -> None: ...

    async def append_event(
        self, task_id: str, key: str, kind: str, agent: str | None, data: Mapping[str, Any]
    ) -> int: ...

    async def finish(
        self, task_id: str, status: Status, reason: Reason | None, message: str, result: Mapping[str, Any]
    ) -> None: ...


class ModelLedger(Protocol):
    """Every model call, with tokens and price."""

    async def record_call(
        self,
        *,
        task_id: str,
        agent: str,
        input_tokens: int | None,
        output_tokens: int | None,
        cost_usd: Decimal | None,
        duration_s: float,
        error: str | None,
    ) -> None: ...

    async def usage(self, task_id: str) -> Usage: ...


class Workspaces(Protocol):
    """Private clones. Every method may be repeated after a crash."""

    async def create(self, task_id: str, repo: str) -> Workspace: ...

    async def commit(self, workspace: Workspace, message: str) -> str | None:
        """Commit what changed; None when nothing did. A commit already made is found again."""
        ...

    async def publish(self, workspace: Workspace) -> None:
        """Bring the branch into the person's repository; its working tree is never touched."""
        ...

    async def diff(self, workspace: Workspace) -> Diff: ...

    async def remove(self, task_id: str) -> None: ...


class CodeIndex(Protocol):
    """Code context for a repository."""

    async def index(self, repo: str) -> int:
        """Bring the index up to date; returns the number of files in it. Raises `Unavailable`."""
        ...


class Preflight(Protocol):
    """Checks what a task needs before any work is done."""

    async def check_model(self) -> None:
        """Raises `ModelRefused`, `NoModel` or `Unavailable`."""
        ...

    async def list_degradations(self) -> list[Degradation]:
        """What this machine lacks that a task should have; recorded in its result."""
        ...
