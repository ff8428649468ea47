"""What the console needs from the rest of the stack. `app` decides who answers.

Who acts is always told: `by` is the signed-in person's name, for the audit.
"""

from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Protocol

from devtools_platform.console.access import Person
from devtools_platform.console.delivery import DeliveryDesk
from devtools_platform.console.roles import Identified, Roles
from devtools_platform.console.types import (
    AgentDetails,
    AgentStatus,
    Answer,
    Budget,
    Chain,
    Check,
    Collection,
    Deed,
    Found,
    GatewayTool,
    HeldTool,
    Prices,
    Server,
    ServiceStatus,
    Setting,
    Spending,
    TaskLink,
    TestCall,
    ToolCall,
    Wanted,
    WorkerStatus,
)
from devtools_platform.core.approvals import Approval, ApprovalStatus, Verdict
from devtools_platform.core.tasks import Event, Page, Step, TaskRequest, TaskResult


class TaskReader(Protocol):
    """Tasks as they stand. An unknown id raises `core.errors.NotFound` everywhere."""

    async def list_tasks(self, limit: int, wanted: Wanted, cursor: str | None = None) -> Page[TaskResult]:
        """The newest tasks, newest first; `cursor` is the `next` of the page before."""
        ...

    async def get_task(self, id_: str) -> TaskResult: ...

    async def list_events(self, id_: str, after: int) -> Sequence[Event]:
        """Events with `seq` above `after`, in order; all of them for 0."""
        ...

    def follow_events(self, id_: str, after: int) -> AsyncIterator[Event]:
        """The same, then each further event as it happens. Ends when the task has ended."""
        ...

    async def list_steps(self, id_: str) -> Sequence[Step]:
        """The stored steps, from which a task can be done again."""
        ...

    async def list_links(self, task: TaskResult) -> Sequence[TaskLink]:
        """The thread it came from, its pull request, its trace: those that are known."""
        ...


class TaskWriter(Protocol):
    """What a person does with tasks. Raises `Conflict` where the task's state does not allow it."""

    async def create_task(self, request: TaskRequest, idempotency_key: str | None, by: str) -> str:
        """Queue a task and return its id. The same key twice is the same task."""
        ...

    async def cancel_task(self, id_: str, by: str) -> None: ...

    async def pause_task(self, id_: str, by: str) -> None: ...

    async def resume_task(self, id_: str, by: str) -> None: ...

    async def steer_task(self, id_: str, text: str, by: str) -> None: ...

    async def retry_task(self, id_: str, step: int | None, by: str) -> None:
        """From this step on; None from where the last agent began."""
        ...

    async def fork_task(self, id_: str, step: int | None, by: str) -> str:
        """Returns the new task's id."""
        ...


class ApprovalDesk(Protocol):
    async def list_approvals(
        self, *, status: ApprovalStatus | None = None, task_id: str | None = None
    ) -> Sequence[Approval]:
        """Oldest first."""
        ...

    async def list_decided(self, limit: int) -> Sequence[Approval]:
        """Those that are not pending any more, newest first."""
        ...

    async def get_approval(self, id_: str) -> Approval: ...

    async def count_pending(self) -> int: ...

    async def decide(self, id_: str, verdict: Verdict, *, by: str, version: int) -> Approval:
        """Raises `TooLate` when it is decided, expired or changed since `version`."""
        ...


class StackReader(Protocol):
    """The stack itself. A part that does not answer is a fact here, never an exception."""

    @property
    def environment(self) -> str: ...

    async def services(self) -> Sequence[ServiceStatus]: ...

    async def agents(self) -> Sequence[AgentStatus]: ...

    async def agent(self, name: str) -> AgentDetails:
        """Raises `NotFound`."""
        ...

    async def test_agent(self, name: str) -> Sequence[TestCall]:
        """Ask each of its runtimes one question, which may cost money. Raises `NotFound`."""
        ...

    async def workers(self) -> Sequence[WorkerStatus]: ...

    async def examine(self) -> Sequence[Check]:
        """What `dev-tools doctor` says. May take some seconds."""
        ...

    async def settings(self) -> Sequence[Setting]: ...


class GatewayDesk(Protocol):
    """The gateway. Raises `Unavailable` when it does not answer."""

    async def servers(self) -> Sequence[Server]: ...

    async def tools(self) -> Sequence[GatewayTool]: ...

    async def quarantine(self) -> Sequence[HeldTool]: ...

    async def calls(self, limit: int) -> Sequence[ToolCall]:
        """The newest recorded calls, newest first."""
        ...

    async def approve_tool(self, server: str, tool: str, digest: str, *, accept_findings: bool, by: str) -> None:
        """Take exactly the definition with this digest out of quarantine."""
        ...

    async def call_tool(self, name: str, arguments: Mapping[str, object], *, is_confirmed: bool, by: str) -> Answer: ...


class KnowledgeDesk(Protocol):
    async def collections(self) -> Sequence[Collection]: ...

    async def search(self, collection: str, query: str, limit: int) -> Sequence[Found]: ...

    async def index(self, repo: str, by: str) -> str:
        """Index a repository in the background; returns the collection's name."""
        ...


class Ledger(Protocol):
    async def spending(self, days: int) -> Spending: ...

    async def budgets(self) -> Sequence[Budget]:
        """Those of this month and of tasks, the fullest first."""
        ...

    async def set_limit(self, key: str, usd: Decimal, *, was_usd: float, request: str, by: str) -> None:
        """Change a limit from what the person saw. The same `request` twice changes it once.

        Raises `NotFound`, and `TooLate` when the limit is another one by now.
        """
        ...

    async def prices(self) -> Prices: ...


class Auditor(Protocol):
    async def list_deeds(self, *, subject: str | None, before: int | None, limit: int) -> Sequence[Deed]:
        """Newest first."""
        ...

    async def verify(self) -> Chain: ...

    async def record(self, actor: str, action: str, subject: str, data: Mapping[str, object]) -> None:
        """Append an entry: for what the console itself does, such as letting somebody in."""
        ...


class SignIn(Protocol):
    """An identity provider that people sign in at."""

    @property
    def label(self) -> str:
        """What the login page calls it."""
        ...

    async def begin(self, redirect_uri: str) -> tuple[str, Mapping[str, str]]:
        """Where the browser goes (without `state`), and what must come back with it. Raises `Unavailable`."""
        ...

    async def finish(self, redirect_uri: str, kept: Mapping[str, str], query: Mapping[str, str]) -> Identified:
        """Who came back with `code`. Raises `Forbidden` for whatever does not hold, and `Unavailable`."""
        ...


class PersonalTokens(Protocol):
    """Tokens by which people sign in without a link. Only hashes are stored."""

    async def find(self, token: str) -> Person | None:
        """Whose token this is; None when it is unknown, revoked or expired."""
        ...

    async def is_valid(self, token_id: str) -> bool:
        """Whether the token of a running session still counts."""
        ...


@dataclass(frozen=True)
class Stack:
    """Everything the console shows and does."""

    tasks: TaskReader
    actions: TaskWriter
    approvals: ApprovalDesk
    stack: StackReader
    gateway: GatewayDesk
    knowledge: KnowledgeDesk
    delivery: DeliveryDesk
    ledger: Ledger
    audit: Auditor
    tokens: PersonalTokens
    sign_in: SignIn | None = None
    """Where people sign in; None for links and tokens only."""
    roles: Roles = field(default_factory=Roles)
    """Who of those the provider vouches for may come in, and as what."""
