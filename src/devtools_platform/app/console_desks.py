"""The console's view of the gateway, the code index, the cost ledger and the audit. Acts with the person's name."""

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast
from urllib.parse import quote

import sqlalchemy as sa

from devtools_platform.app.gateway_client import GatewayRest
from devtools_platform.app.remote_context import RemoteContext
from devtools_platform.console.types import (
    Answer,
    Budget,
    Chain,
    Collection,
    Deed,
    Found,
    GatewayTool,
    HeldTool,
    Prices,
    Server,
    Spending,
    Spent,
    ToolCall,
)
from devtools_platform.context.names import name_collection
from devtools_platform.context.types import IndexStatus
from devtools_platform.core.agents import AGENTS
from devtools_platform.core.errors import DevToolsError, NotFound, TooLate
from devtools_platform.core.tools import APPROVAL_REQUIRED
from devtools_platform.gateway.adapters.audit_log import SqlAudit
from devtools_platform.gateway.audit import Line
from devtools_platform.gateway.types import Policy
from devtools_platform.kit.database import in_thread
from devtools_platform.observability.adapters.sql import SqlLedger
from devtools_platform.observability.adapters.sql.reports import add_up
from devtools_platform.observability.budgets import Account
from devtools_platform.observability.reports import CostLine, CostReport
from devtools_platform.state.audit import AuditLog, record
from devtools_platform.state.audit import Deed as Done

if TYPE_CHECKING:
    from devtools_platform.context.service import ContextService

TOP_TASKS = 10


@dataclass(frozen=True)
class ConsoleAudit:
    """The console's `Auditor`."""

    log: AuditLog

    async def list_deeds(self, *, subject: str | None, before: int | None, limit: int) -> Sequence[Deed]:
        entries = await self.log.list_entries(subject=subject, before=before, limit=limit)
        return [_deed(entry) for entry in entries]

    async def verify(self) -> Chain:
        report = await self.log.verify()
        return Chain(report.entries, report.head, report.broken_at, report.problem)

    async def record(self, actor: str, action: str, subject: str, data: Mapping[str, object]) -> None:
        done = Done(actor, action, subject, data)
        await in_thread(self.log.database, lambda c: record(c, done))


@dataclass(frozen=True)
class ConsoleGateway:
    """The console's `GatewayDesk`: the gateway's own REST side, which decides and records as for any caller."""

    rest: GatewayRest
    policy: Policy
    calls_log: SqlAudit
    audit: ConsoleAudit

    async def servers(self) -> Sequence[Server]:
        return [_server(facts) for facts in await self.rest.send("GET", "/servers")]

    async def tools(self) -> Sequence[GatewayTool]:
        lists = {agent: self.policy.tools_of(agent) for agent in AGENTS}
        return [_tool(facts, lists) for facts in await self.rest.send("GET", "/tools")]

    async def quarantine(self) -> Sequence[HeldTool]:
        return [_held(facts) for facts in await self.rest.send("GET", "/quarantine")]

    async def calls(self, limit: int) -> Sequence[ToolCall]:
        return [_call(line) for line in await self.calls_log.read_newest(limit)]

    async def approve_tool(self, server: str, tool: str, digest: str, *, accept_findings: bool, by: str) -> None:
        body = {"tools": {tool: digest}, "accept_findings": accept_findings}
        await self.rest.send("POST", f"/servers/{_part(server)}/approve", json=body)
        data = {"tool": tool, "digest": digest, "accept_findings": accept_findings}
        await self.audit.record(by, "tool.approve", f"server:{server}", data)

    async def call_tool(self, name: str, arguments: Mapping[str, object], *, is_confirmed: bool, by: str) -> Answer:
        server, _, tool = name.partition("_")
        # Before the call: what was tried is in the audit even when the call never comes back.
        await self.audit.record(by, "tool.call", f"tool:{name}", {"arguments": arguments, "is_confirmed": is_confirmed})
        body = {"arguments": dict(arguments), "is_confirmed": is_confirmed}
        result = await self.rest.send("POST", f"/tools/{_part(server)}/{_part(tool)}", json=body)
        must_confirm = result["data"].get("code") == APPROVAL_REQUIRED
        return Answer(result["text"], result["is_error"], result["duration_s"], must_confirm)


@dataclass(frozen=True)
class ConsoleKnowledge:
    """The console's `KnowledgeDesk`."""

    context: "ContextService | RemoteContext"
    audit: ConsoleAudit

    async def collections(self) -> Sequence[Collection]:
        return [
            _collection(await self.context.status(name), await self._changed(name))
            for name in await self.context.collections()
        ]

    async def _changed(self, name: str) -> int | None:
        """None where it cannot be told: the repository is gone, or is being indexed for the first time."""
        try:
            return (await self.context.freshness(name)).changed_total
        except (DevToolsError, OSError):
            return None

    async def search(self, collection: str, query: str, limit: int) -> Sequence[Found]:
        hits = await self.context.search(collection, query, limit)
        return [
            Found(h.path, h.start_line, h.end_line, h.name, h.kind, h.score, tuple(h.why), h.text, h.is_stale)
            for h in hits
        ]

    async def index(self, repo: str, by: str) -> str:
        name = name_collection(Path(repo))
        await self.context.start_index(name, Path(repo))
        await self.audit.record(by, "collection.index", f"collection:{name}", {"repo": repo})
        return name


@dataclass(frozen=True)
class ConsoleSums:
    """What was spent, added up as the spend page shows it."""

    database: sa.Engine
    now: Callable[[], datetime] = lambda: datetime.now(UTC)

    async def spending(self, days: int) -> Spending:
        """The last `days` days in UTC, today included. Largest first; days in order, without gaps."""
        until = self.now().date() + timedelta(days=1)
        since = until - timedelta(days=days)
        agents, models, tasks, dated = [
            await add_up(self.database, by, since, until) for by in ("agent", "model", "task", "day")
        ]
        of_day = {line.key: _spent(line) for line in dated}
        all_days = [str(since + timedelta(days=n)) for n in range(days)]
        return Spending(
            days,
            _spent(CostReport("agent", since, until, agents, ()).total),
            [_spent(line) for line in agents],
            [replace(_spent(line), key=_name_model(line.key)) for line in models],
            [_spent(line) for line in tasks[:TOP_TASKS]],
            [of_day.get(day, Spent(day, 0, 0, 0, 0, None, 0)) for day in all_days],
        )


@dataclass(frozen=True)
class ConsoleLedger:
    """The console's `Ledger`."""

    sums: ConsoleSums
    ledger: SqlLedger
    price_table: Callable[[], Awaitable[Prices]]
    audit: ConsoleAudit

    async def spending(self, days: int) -> Spending:
        return await self.sums.spending(days)

    async def budgets(self) -> Sequence[Budget]:
        return [_budget(account) for account in await self.ledger.list_accounts()]

    async def set_limit(self, key: str, usd: Decimal, *, was_usd: float, request: str, by: str) -> None:
        budget = next((one for one in await self.budgets() if one.key == key), None)
        if budget is None or budget.limit_usd is None:
            raise NotFound(f"No budget {key!r} has a limit.", hint="Limits are made by DEV_TOOLS_BUDGET_* settings.")
        id_ = f"console:{request}"
        if round(budget.limit_usd, 9) != round(was_usd, 9):
            raise TooLate(f"The limit of {key} is ${budget.limit_usd:.4f} by now.", hint="Look again, and decide anew.")
        await self.ledger.raise_limit(id_, key, usd - Decimal(str(budget.limit_usd)))
        await self.audit.record(by, "budget.set", f"budget:{key}", {"limit_usd": float(usd), "was_usd": was_usd})

    async def prices(self) -> Prices:
        return await self.price_table()


def _budget(account: Account) -> Budget:
    facts = account.to_dict()
    return Budget(facts["key"], facts["limit_usd"], facts["spent_usd"], facts["held_usd"], facts["unpriced_calls"])


def _part(text: str) -> str:
    return quote(text, safe="")


def _deed(entry: Mapping[str, Any]) -> Deed:
    at = datetime.fromisoformat(entry["at"])
    return Deed(entry["seq"], at, entry["actor"], entry["action"], entry["subject"], entry["data"], entry["hash"])


def _server(facts: Mapping[str, Any]) -> Server:
    return Server(
        facts["name"],
        facts["kind"],
        facts["state"],
        facts["tools"],
        facts["quarantined"],
        facts.get("reason"),
        facts.get("protocol"),
        facts.get("restarts"),
    )


def _tool(facts: Mapping[str, Any], lists: Mapping[str, frozenset[str]]) -> GatewayTool:
    name = facts["name"]
    agents = tuple(agent for agent, permitted in lists.items() if name in permitted)
    schema = cast("Mapping[str, object]", facts["input_schema"] or {})
    return GatewayTool(
        name, facts["server"], facts["description"], facts["decision"], facts["is_read_only"], schema, agents
    )


def _held(facts: Mapping[str, Any]) -> HeldTool:
    findings = tuple(f"{finding['where']}: {finding['what']}" for finding in facts["findings"])
    return HeldTool(facts["server"], facts["tool"], facts["reason"], facts["digest"], facts["description"], findings)


def _call(line: Line) -> ToolCall:
    return ToolCall(
        datetime.fromtimestamp(line.at, UTC),
        line.tool if line.tool.startswith(f"{line.server}_") else f"{line.server}_{line.tool}",
        line.principal,
        line.agent,
        line.task_id if line.agent else None,
        line.arguments,
        line.outcome,
        line.duration_s,
    )


def _collection(status: IndexStatus, changed: int | None) -> Collection:
    return Collection(
        status.collection,
        status.repo,
        status.commit,
        status.files,
        status.chunks,
        status.indexed_at,
        status.is_indexing,
        status.files_done,
        status.files_total,
        status.error,
        status.is_watched,
        status.without_vector,
        changed,
    )


def _spent(line: CostLine) -> Spent:
    priced = line.calls - line.unpriced_calls
    return Spent(
        line.key,
        line.calls + line.failed_calls,
        line.failed_calls,
        line.input_tokens,
        line.output_tokens,
        float(line.priced_usd) if priced else None,
        line.unpriced_calls,
    )


def _name_model(key: str) -> str:
    """`provider model`, as the ledger's report has it, with the model first."""
    provider, _, model = key.partition(" ")
    return f"{model} ({provider})"
