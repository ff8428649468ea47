"""Gauges that are read off the state database: budgets, what waits and how long, tasks that stand still.

Read by the stack every few seconds, whoever worked. No task's id is a label: a label for each task would grow for ever.
"""

from datetime import UTC, datetime
from typing import Any

import sqlalchemy as sa
from prometheus_client import Gauge

from devtools_platform.kit.database import read_in_thread
from devtools_platform.kit.schema import approvals, budget_accounts, events, tasks
from devtools_platform.observability.adapters.sql.budget_accounts import read_accounts
from devtools_platform.observability.budgets import Account, Budgets, name_of, to_usd

LIMIT = Gauge("devtools_budget_limit_usd", "A month's budget with what was added to it", ["scope", "name"])
SPENT = Gauge("devtools_budget_spent_usd", "What was spent of it this month", ["scope", "name"])
TASK_SHARE = Gauge("devtools_budget_task_used_ratio", "The fullest budget of a task that has not ended, 0 to 1")
WARN_SHARE = Gauge("devtools_budget_warn_ratio", "The share of a budget from which on we warn, 0 to 1")
QUEUE_AGE = Gauge(
    "devtools_queue_oldest_seconds", "How long the task that waits longest for its work to begin has waited"
)
APPROVAL_AGE = Gauge("devtools_approval_oldest_seconds", "How long the approval that waits longest has waited")
SILENCE = Gauge("devtools_task_silence_seconds", "How long the quietest task at work has had no event")
REFRESHED = Gauge("devtools_gauges_refreshed_timestamp_seconds", "When the gauges of the database were last read")


async def refresh_gauges(database: sa.Engine, budgets: Budgets) -> None:
    """Raises `Away` while the database is."""
    now = datetime.now(UTC)
    accounts, ages = await read_in_thread(database, lambda c: (read_accounts(c, budgets, now=now), _ages(c)))
    open_tasks = await read_in_thread(database, _open_task_keys)
    _set_budgets(accounts, open_tasks)
    WARN_SHARE.set(budgets.warn_share)
    for gauge, since in ages.items():
        gauge.set(0.0 if since is None else max(0.0, (now - since).total_seconds()))
    REFRESHED.set(now.timestamp())


def _set_budgets(accounts: list[Account], open_tasks: set[str]) -> None:
    shares: list[float] = []
    for account in accounts:
        scope, name = account.key.partition(":")[0], name_of(account.key) or "all"
        if scope == "task":
            if account.limit and account.key in open_tasks:
                shares.append(account.spent / account.limit)
            continue
        SPENT.labels(scope, name).set(to_usd(account.spent))
        if account.limit is not None:
            LIMIT.labels(scope, name).set(to_usd(account.limit))
    TASK_SHARE.set(max(shares, default=0.0))


def _open_task_keys(connection: sa.Connection) -> set[str]:
    is_open = tasks.c.status.in_(("queued", "working", "input_required", "paused"))
    query = sa.select(budget_accounts.c.key).join(tasks, budget_accounts.c.key == "task:" + tasks.c.id).where(is_open)
    return set(connection.execute(query).scalars())


def _ages(connection: sa.Connection) -> dict[Gauge, datetime | None]:
    def oldest(column: sa.Column[Any], condition: sa.ColumnElement[bool]) -> datetime | None:
        return connection.execute(sa.select(sa.func.min(column)).where(condition)).scalar_one()

    last = (
        sa.select(sa.func.max(events.c.at).label("at"))
        .join(tasks, tasks.c.id == events.c.task_id)
        .where(tasks.c.status == "working")
        .group_by(events.c.task_id)
        .subquery()
    )
    return {
        QUEUE_AGE: oldest(tasks.c.created_at, tasks.c.status == "queued"),
        APPROVAL_AGE: oldest(approvals.c.created_at, approvals.c.status == "pending"),
        SILENCE: connection.execute(sa.select(sa.func.min(last.c.at))).scalar_one(),
    }
