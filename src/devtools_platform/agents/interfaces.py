"""What the crew needs from outside: tools, a place to report to, a ledger, private clones, code context."""

from collections.abc import Mapping
from decimal import Decimal
from typing import Any, Literal, Protocol

from devtools_platform.agents.types import Diff, Merge, RunCost, Workspace
from devtools_platform.core.approvals import Approval, ApprovalRequest
from devtools_platform.core.tasks import Degradation, Reason, Status, TaskRequest, Usage
from devtools_platform.core.tools import Caller, Tool, ToolResult


class ToolClient(Protocol):
    """The gateway as an agent reaches it: over MCP, known by a token made from `caller`."""

    async def list_tools(self, caller: Caller) -> list[Tool]: ...

    async def call(
        self, caller: Caller, name: str, arguments: Mapping[str, Any], key: str, approval: str | None = None
    ) -> ToolResult:
        """One call. The same `key` has one effect, however often it is sent.

        `approval`: the id of the approval by which a call may run that a person had to be asked about.
        """
        ...


class TaskLog(Protocol):
    """Where a task's life is written down, and what people say about it is read. Every write may be repeated."""

    async def get_request(self, id_: str) -> TaskRequest: ...

    async def mark_working(self, task_id: str, workflow_id: str) -> bool:
        """False when this workflow does not carry the task any more."""
        ...

    async def append_event(
        self, task_id: str, key: str, kind: str, agent: str | None, data: Mapping[str, Any]
    ) -> int: ...

    async def finish(
        self,
        task_id: str,
        workflow_id: str,
        status: Status,
        reason: Reason | None,
        message: str,
        result: Mapping[str, Any],
    ) -> None: ...

    async def begin_run(self, id_: str, task_id: str, agent: str, n: int) -> None: ...

    async def end_run(self, id_: str, status: Literal["suspended", "completed", "failed"], message: str) -> None: ...

    async def is_paused(self, task_id: str) -> bool: ...

    async def mark_paused(self, task_id: str, workflow_id: str, key: str) -> bool:
        """Show that the task stands still. False when it was resumed in the meantime."""
        ...

    async def take_messages(self, task_id: str, taker: str) -> list[str]:
        """What people have said and no agent has read; the same `taker` gets the same ones again."""
        ...

    async def append_and_take(
        self, task_id: str, key: str, kind: str, agent: str, data: Mapping[str, Any], taker: str
    ) -> list[str]:
        """`append_event` and `take_messages` at once."""
        ...

    async def store_artifact(self, task_id: str, key: str, kind: str, name: str, text: str) -> str: ...


class Approvals(Protocol):
    """Questions to people."""

    async def ask(self, request: ApprovalRequest) -> Approval:
        """Put the question; the same id is asked once."""
        ...

    async def settle(self, id_: str) -> Approval:
        """What it came to; an undecided one expires."""
        ...


class ModelLedger(Protocol):
    """Every model call, with tokens and price, and the budgets it counts against."""

    @property
    def max_output_tokens(self) -> int | None:
        """What a call may be asked for at most where a budget is set; None where none is."""
        ...

    async def reserve(self, *, call_id: str, task_id: str, agent: str, input_tokens: int, output_tokens: int) -> None:
        """Reserve what the call may cost. Raises `OverBudget`."""
        ...

    async def record_call(
        self,
        *,
        call_id: str,
        task_id: str,
        agent: str,
        input_tokens: int | None,
        output_tokens: int | None,
        cached_tokens: int | None,
        duration_s: float,
        error: str | None,
        span_id: str | None,
        may_be_charged: bool,
    ) -> Decimal | None:
        """Write the call down and settle what was reserved for it. Returns its cost, None when that is unknown.

        `may_be_charged`: it failed, and the endpoint may have done the work all the same.
        """
        ...

    async def raise_limit(self, id_: str, key: str, usd: Decimal) -> None:
        """Add to the limit of the budget `key`, once per `id_`."""
        ...

    async def usage(self, task_id: str) -> Usage: ...


class Estimates(Protocol):
    """What the stack's own history says that work will cost."""

    async def cost_of_run(self, agent: str) -> RunCost: ...


class Workspaces(Protocol):
    """Private clones. Every method may be repeated after a crash."""

    async def create(self, task_id: str, repo: str, start_at: str | None = None) -> Workspace:
        """A clone of the repository's HEAD, or of the commit `start_at`."""
        ...

    async def commit(self, workspace: Workspace, message: str) -> str | None:
        """Commit what changed; None when nothing did. A commit already made is found again."""
        ...

    async def publish(self, workspace: Workspace) -> None:
        """Bring the branch into the person's repository; its working tree is never touched."""
        ...

    async def diff(self, workspace: Workspace) -> Diff: ...

    async def exists(self, task_id: str) -> bool: ...

    async def snapshot(self, workspace: Workspace, name: str) -> None:
        """Keep the files as they are, for a retry or a fork from here."""
        ...

    async def remove(self, task_id: str) -> None: ...

    async def split(self, workspace: Workspace, name: str) -> str:
        """A second clone of the files as they are, for a step that runs beside others. Returns its folder's name."""
        ...

    async def merge(self, workspace: Workspace, folder: str) -> Merge:
        """Bring what changed in a split-off clone into the task's files, if it fits."""
        ...


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
