"""The console's interfaces in memory: tasks that live and end as a test says."""

import asyncio
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

from devtools_platform.console.access import Person
from devtools_platform.console.delivery import Delivered, Rollout, RolloutKind, RolloutPlan
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
    PriceLine,
    Prices,
    Server,
    ServiceStatus,
    Setting,
    Spending,
    Spent,
    TaskLink,
    TestCall,
    ToolCall,
    Wanted,
    WorkerStatus,
)
from devtools_platform.core.agents import AGENTS
from devtools_platform.core.approvals import Approval, ApprovalStatus, Verdict
from devtools_platform.core.errors import BadInput, Conflict, DiskFull, NotFound, TooLate
from devtools_platform.core.tasks import FINAL, Event, Page, Step, TaskRequest, TaskResult

NOON = datetime(2026, 11, 23, 12, 0, tzinfo=UTC)
FULL_DISK = "/srv/full"
"""A repository no task can be made for."""


class MemoryTasks:
    """A `TaskReader` and a `TaskWriter`."""

    def __init__(self) -> None:
        self.tasks: dict[str, TaskResult] = {}
        self.events: dict[str, list[Event]] = {}
        self.steps: dict[str, list[Step]] = {}
        self.deeds: list[tuple[str, str, str, object]] = []
        """(who, what, task, with what): every write, in order."""
        self.keys: dict[str, str] = {}
        self.links: dict[str, list[TaskLink]] = {}
        self.changed = asyncio.Condition()
        self.followers = 0
        self.trouble: Exception | None = None
        """Raised by the next list, and by a stream after the events it has."""

    def add(self, id_: str = "t1", **fields: Any) -> TaskResult:
        given: dict[str, Any] = {
            "id": id_,
            "status": "working",
            "reason": None,
            "message": "",
            "text": "Fix the pager",
            "repo": "/srv/shop",
            "plan": None,
            "branch": None,
            "base_commit": None,
            "commits": (),
            "diff": None,
            "tests": (),
            "review": None,
            "tokens": {},
            "cost_usd": None,
            "trace_id": "0af7651916cd43dd8448eb211c80319c",
            "model": None,
            "degraded": (),
            "attempt": 1,
            "forked_from": None,
            "version": 1,
            "created_at": NOON,
            "ended_at": None,
        }
        self.tasks[id_] = TaskResult.model_validate(given | fields)
        self.events.setdefault(id_, [])
        return self.tasks[id_]

    async def happen(
        self, id_: str, kind: str, data: Mapping[str, Any] | None = None, agent: str | None = None
    ) -> None:
        async with self.changed:
            seq = len(self.events[id_]) + 1
            at = NOON + timedelta(seconds=seq)
            self.events[id_].append(Event(seq=seq, task_id=id_, kind=kind, at=at, agent=agent, data=dict(data or {})))
            self.changed.notify_all()

    async def end(self, id_: str, **fields: Any) -> None:
        async with self.changed:
            self.tasks[id_] = self.tasks[id_].model_copy(update=fields)
            self.changed.notify_all()

    async def wait_for_followers(self, number: int) -> None:
        async with self.changed:
            await asyncio.wait_for(self.changed.wait_for(lambda: self.followers == number), 5)

    async def list_tasks(self, limit: int, wanted: Wanted, cursor: str | None = None) -> Page[TaskResult]:
        self._check()
        found = [
            task
            for task in sorted(self.tasks.values(), key=lambda task: task.created_at, reverse=True)
            if wanted.status in {None, task.status} and (wanted.text or "") in task.text
        ]
        start = int(cursor or 0)
        more = str(start + limit) if len(found) > start + limit else None
        return Page(items=tuple(found[start : start + limit]), next=more)

    async def list_links(self, task: TaskResult) -> Sequence[TaskLink]:
        return self.links.get(task.id, ())

    async def list_steps(self, id_: str) -> Sequence[Step]:
        return self.steps.get(id_, ())

    async def get_task(self, id_: str) -> TaskResult:
        if id_ not in self.tasks:
            raise NotFound(f"There is no task {id_!r}.", hint="`dev-tools task list` shows those there are.")
        return self.tasks[id_]

    async def list_events(self, id_: str, after: int) -> Sequence[Event]:
        return [event for event in self.events[id_] if event.seq > after]

    async def follow_events(self, id_: str, after: int) -> AsyncIterator[Event]:
        async with self.changed:
            self.followers += 1
            self.changed.notify_all()
        while fresh := await self._wait_for_news(id_, after):
            for event in fresh:
                yield event
            after = fresh[-1].seq
            self._check()

    async def _wait_for_news(self, id_: str, after: int) -> Sequence[Event]:
        """Events after `after` as soon as there are any; none when the task has ended."""
        async with self.changed:
            await self.changed.wait_for(lambda: len(self.events[id_]) > after or self.tasks[id_].status in FINAL)
            return await self.list_events(id_, after)

    def _check(self) -> None:
        if self.trouble:
            raise self.trouble

    async def create_task(self, request: TaskRequest, idempotency_key: str | None, by: str) -> str:
        if request.repo == FULL_DISK:
            raise DiskFull("Only 12 MB are free.", hint="Free some.")
        if idempotency_key in self.keys:
            return self.keys[idempotency_key]
        id_ = f"t{len(self.tasks) + 1}"
        self.add(id_, text=request.text, repo=request.repo, status="queued")
        self.deeds.append((by, "create", id_, request.ask_before))
        if idempotency_key:
            self.keys[idempotency_key] = id_
        return id_

    async def cancel_task(self, id_: str, by: str) -> None:
        await self._open(id_)
        self.deeds.append((by, "cancel", id_, None))
        await self.end(id_, status="cancelled", reason="cancelled", ended_at=NOON + timedelta(minutes=1))

    async def pause_task(self, id_: str, by: str) -> None:
        await self._open(id_)
        self.deeds.append((by, "pause", id_, None))
        await self.happen(id_, "pause_requested", {"by": by})

    async def resume_task(self, id_: str, by: str) -> None:
        await self._open(id_)
        self.deeds.append((by, "resume", id_, None))
        await self.happen(id_, "resumed", {"by": by})

    async def steer_task(self, id_: str, text: str, by: str) -> None:
        await self._open(id_)
        self.deeds.append((by, "steer", id_, text))

    async def retry_task(self, id_: str, step: int | None, by: str) -> None:
        if (await self.get_task(id_)).status not in FINAL:
            raise Conflict(f"Task {id_!r} has not ended.", hint="Wait for it, or cancel it.")
        self.deeds.append((by, "retry", id_, step))

    async def fork_task(self, id_: str, step: int | None, by: str) -> str:
        self.deeds.append((by, "fork", id_, step))
        return self.add(f"{id_}fork", forked_from=id_).id

    async def _open(self, id_: str) -> None:
        if (await self.get_task(id_)).status in FINAL:
            raise Conflict(f"Task {id_!r} has ended already.", hint=f"`dev-tools task show {id_}` says how.")


class MemoryApprovals:
    """An `ApprovalDesk`: decided once, for whoever has read the present version."""

    def __init__(self) -> None:
        self.approvals: dict[str, Approval] = {}

    def ask(self, id_: str = "t1-1", **fields: Any) -> Approval:
        given: dict[str, Any] = {
            "id": id_,
            "task_id": "t1",
            "kind": "tool",
            "agent": "cicd",
            "tool": "workspace_run_command",
            "arguments": {"command": ["make", "deploy"]},
            "preview": "",
            "rule": "commands",
            "risk": "high",
            "cost_usd": None,
            "environment": "production",
            "status": "pending",
            "version": 1,
            "decided_by": None,
            "decided_at": None,
            "reason": "",
            "edited_arguments": None,
            "expires_at": NOON + timedelta(days=7),
            "created_at": NOON,
        }
        self.approvals[id_] = Approval.model_validate(given | fields)
        return self.approvals[id_]

    async def list_approvals(
        self, *, status: ApprovalStatus | None = None, task_id: str | None = None
    ) -> Sequence[Approval]:
        return [a for a in self.approvals.values() if status in {None, a.status} and task_id in {None, a.task_id}]

    async def list_decided(self, limit: int) -> Sequence[Approval]:
        return [a for a in self.approvals.values() if a.status != "pending"][:limit]

    async def get_approval(self, id_: str) -> Approval:
        if id_ not in self.approvals:
            raise NotFound(f"No approval {id_!r} is stored.", hint="Run `dev-tools task approvals`.")
        return self.approvals[id_]

    async def count_pending(self) -> int:
        return len(await self.list_approvals(status="pending"))

    async def decide(self, id_: str, verdict: Verdict, *, by: str, version: int) -> Approval:
        approval = await self.get_approval(id_)
        if approval.status != "pending":
            raise TooLate(f"Approval {id_!r} is {approval.status} by {approval.decided_by}; it is decided once.")
        if approval.version != version:
            raise TooLate(f"Approval {id_!r} is at version {approval.version}, not {version}.")
        decided: dict[str, Any] = {
            "status": "approved" if verdict.decision == "approve" else "denied",
            "version": version + 1,
            "decided_by": by,
            "decided_at": NOON + timedelta(minutes=1),
            "reason": verdict.reason,
            "edited_arguments": verdict.arguments,
        }
        self.approvals[id_] = approval.model_copy(update=decided)
        return self.approvals[id_]


class MemoryDesks:
    """A `GatewayDesk`, a `KnowledgeDesk`, a `Ledger`, an `Auditor` and `PersonalTokens` in one."""

    def __init__(self) -> None:
        self.server_list: list[Server] = []
        self.tool_list: list[GatewayTool] = []
        self.held: list[HeldTool] = []
        self.call_list: list[ToolCall] = []
        self.collection_list: list[Collection] = []
        self.hits: list[Found] = []
        self.spent: Spending = empty_spending(30)
        self.recorded: list[tuple[str, str, str]] = []
        self.tokens: dict[str, Person] = {}
        self.budget_list: list[Budget] = []
        self.price_list: list[PriceLine] = []
        self.prices_missing = ""
        self.chain = Chain(0, "0" * 64, None, "")

    async def servers(self) -> Sequence[Server]:
        return self.server_list

    async def tools(self) -> Sequence[GatewayTool]:
        return self.tool_list

    async def quarantine(self) -> Sequence[HeldTool]:
        return self.held

    async def calls(self, limit: int) -> Sequence[ToolCall]:
        return self.call_list[:limit]

    async def approve_tool(self, server: str, tool: str, digest: str, *, accept_findings: bool, by: str) -> None:
        wanted = next((q for q in self.held if (q.server, q.tool, q.digest) == (server, tool, digest)), None)
        if wanted is None or (wanted.findings and not accept_findings):
            raise BadInput(f"{tool!r} is not as it was looked at.", hint="Reload the page.")
        self.held.remove(wanted)
        self.recorded.append((by, "tool.approve", server))

    async def call_tool(self, name: str, arguments: Mapping[str, object], *, is_confirmed: bool, by: str) -> Answer:
        tool = next(tool for tool in self.tool_list if tool.name == name)
        if not tool.is_read_only and not is_confirmed:
            return Answer("A person must approve this.", is_error=True, duration_s=0.0, must_confirm=True)
        self.recorded.append((by, "tool.call", name))
        return Answer(f"called with {dict(arguments)}", is_error=False, duration_s=0.25)

    async def collections(self) -> Sequence[Collection]:
        return self.collection_list

    async def search(self, collection: str, query: str, limit: int) -> Sequence[Found]:
        if collection not in {item.name for item in self.collection_list}:
            raise NotFound(f"Collection {collection!r} is not indexed.", hint="Index it below.")
        return self.hits[:limit]

    async def index(self, repo: str, by: str) -> str:
        self.recorded.append((by, "collection.index", repo))
        return "shop"

    async def spending(self, days: int) -> Spending:
        return self.spent

    async def budgets(self) -> Sequence[Budget]:
        return self.budget_list

    async def set_limit(self, key: str, usd: Decimal, *, was_usd: float, request: str, by: str) -> None:
        budget = next((one for one in self.budget_list if one.key == key), None)
        if budget is None or budget.limit_usd is None:
            raise NotFound(f"No budget {key!r} has a limit.", hint="Set one.")
        if budget.limit_usd != was_usd:
            raise TooLate(f"The limit of {key} is ${budget.limit_usd} by now.", hint="Look again.")
        self.budget_list = [replace(one, limit_usd=float(usd)) if one is budget else one for one in self.budget_list]
        self.recorded.append((by, "budget.set", key))

    async def prices(self) -> Prices:
        return Prices(self.price_list, self.prices_missing)

    async def list_deeds(self, *, subject: str | None, before: int | None, limit: int) -> Sequence[Deed]:
        return [
            Deed(n, NOON, actor, action, about, {}, "f" * 64)
            for n, (actor, action, about) in enumerate(self.recorded, 1)
            if subject in {None, about}
        ][::-1][:limit]

    async def verify(self) -> Chain:
        return self.chain

    async def record(self, actor: str, action: str, subject: str, data: Mapping[str, object]) -> None:
        self.recorded.append((actor, action, subject))

    async def find(self, token: str) -> Person | None:
        return self.tokens.get(token)

    async def is_valid(self, token_id: str) -> bool:
        return any(person.token_id == token_id for person in self.tokens.values())


def empty_spending(days: int) -> Spending:
    none = Spent("all", 0, 0, 0, 0, None, 0)
    return Spending(days, none, [], [], [], [Spent(f"day {n}", 0, 0, 0, 0, None, 0) for n in range(days)])


class MemoryStack:
    """A `StackReader`."""

    def __init__(self) -> None:
        self.service_list: list[ServiceStatus] = [
            ServiceStatus("gateway", "http://127.0.0.1:8000", ok=True, facts={"tools": 24}),
            ServiceStatus("state", "http://127.0.0.1:8008", ok=False, facts={"problem": "no answer"}),
        ]
        self.agent_list: list[AgentStatus] = [
            AgentStatus(name, f"Does {name} work.", "local", "qwen3:4b", ("read_file", "search")) for name in AGENTS
        ]

    async def services(self) -> Sequence[ServiceStatus]:
        return self.service_list

    async def agents(self) -> Sequence[AgentStatus]:
        return self.agent_list

    @property
    def environment(self) -> str:
        return "staging"

    async def agent(self, name: str) -> AgentDetails:
        found = next((one for one in self.agent_list if one.name == name), None)
        if found is None:
            raise NotFound(f"There is no agent {name!r}.", hint="Look at Agents.")
        return AgentDetails(found, "Do your work.", "report", 20, ("stack qwen3:4b",))

    async def test_agent(self, name: str) -> Sequence[TestCall]:
        return [
            TestCall("stack qwen3:4b", is_ok=True, text="ready", hint="", duration_s=0.5),
            TestCall("gradient x", is_ok=False, text="No answer.", hint="Is its key right?", duration_s=2.0),
        ]

    async def workers(self) -> Sequence[WorkerStatus]:
        return [WorkerStatus("w1", "host", "alive", 2, ("tasks", "agents"), 0.5)]

    async def examine(self) -> Sequence[Check]:
        return [Check("git", is_ok=False, found="not on PATH", fix="Install git.")]

    async def settings(self) -> Sequence[Setting]:
        return [
            Setting("DEV_TOOLS_HOST", "127.0.0.1", is_secret=False, source="default", meaning=""),
            Setting("DEV_TOOLS_MODEL_API_KEY", "***", is_secret=True, source="DEV_TOOLS_MODEL_API_KEY", meaning="Key."),
        ]


class MemoryDelivery:
    """A `DeliveryDesk` that shows what a test puts in it, and starts exactly the plan it showed."""

    def __init__(self) -> None:
        self.has_hosts = False
        self.delivered: Delivered | None = None
        self.planned: RolloutPlan | None = None
        self.begun: list[Rollout] = []
        self.started: list[tuple[RolloutKind, int | None, str, str]] = []

    @property
    def is_set_up(self) -> bool:
        return self.has_hosts or self.delivered is not None

    def glance(self) -> Delivered | None:
        return self.delivered

    async def look(self) -> Delivered | None:
        return self.delivered

    async def plan(self, kind: RolloutKind, seq: int | None) -> RolloutPlan:
        if self.planned is None:
            raise Conflict("No rollout is held on all hosts.", hint="Look at Releases.")
        return self.planned

    async def start(self, kind: RolloutKind, seq: int | None, plan: str, by: str) -> str:
        self.started.append((kind, seq, plan, by))
        return "r1"

    def rollout(self, id_: str) -> Rollout:
        for one in self.begun:
            if one.id == id_:
                return one
        raise NotFound(f"This stack began no rollout {id_!r}.", hint="Look at Releases.")

    def rollouts(self) -> Sequence[Rollout]:
        return self.begun

    async def aclose(self) -> None:
        """Nothing runs here."""
