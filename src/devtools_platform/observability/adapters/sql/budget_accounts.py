"""The accounts of budgets in the state database: locked, reserved against, settled. Each call is one transaction.

Every function works inside the caller's transaction. Rows are locked in the order of their keys, so that two calls
never wait for each other; on SQLite the transaction itself is the lock.
"""

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

import sqlalchemy as sa

from devtools_platform.kit.database import insert_each_once, insert_once
from devtools_platform.kit.schema import budget_accounts, budget_holds, budget_raises, model_calls
from devtools_platform.observability.budgets import (
    Account,
    Budgets,
    Spender,
    keys_of,
    month_of,
    name_of,
    refuse_over,
    to_nano,
    to_usd,
)
from devtools_platform.observability.interfaces import BudgetWarning, Hold

# Built once: a statement built anew costs more than the database's work, and these run at every call under a budget.
_KEYS: sa.BindParameter[Any] = sa.bindparam("of_keys", expanding=True)
_LOCK = (
    sa.select(budget_accounts).where(budget_accounts.c.key.in_(_KEYS)).order_by(budget_accounts.c.key).with_for_update()
)
_HOLD = (
    sa.update(budget_accounts)
    .where(budget_accounts.c.key.in_(_KEYS))
    .values(held=budget_accounts.c.held + sa.bindparam("more"))
)
_BOOK = (
    sa.update(budget_accounts)
    .where(budget_accounts.c.key.in_(_KEYS))
    .values(
        held=budget_accounts.c.held - sa.bindparam("given_back"),
        spent=budget_accounts.c.spent + sa.bindparam("booked"),
        unpriced_calls=budget_accounts.c.unpriced_calls + sa.bindparam("unpriced"),
    )
    .returning(budget_accounts)
)
_TAKE_HOLD = (
    sa.delete(budget_holds)
    .where(budget_holds.c.id == sa.bindparam("call"))
    .returning(budget_holds.c.amount, budget_holds.c["keys"])
)


def place_hold(connection: sa.Connection, budgets: Budgets, hold: Hold) -> None:
    """Reserve under every account, or under none. Raises `OverBudget`."""
    keys = keys_of(hold.spender, datetime.now(UTC))
    refuse_over(_lock(connection, budgets, keys), hold.amount)
    row = {
        "id": hold.call_id, "task_id": hold.spender.task_id, "agent": hold.spender.agent, "provider": hold.provider,
        "model": hold.model, "environment": hold.spender.environment, "amount": hold.amount, "keys": keys,
    }  # fmt: skip
    if insert_once(connection, budget_holds, row, on=["id"]):
        connection.execute(_HOLD, {"of_keys": keys, "more": hold.amount})


def settle(
    connection: sa.Connection, budgets: Budgets, spender: Spender, call_id: str | None, spent: int | None
) -> list[BudgetWarning]:
    """Give back what is held for the call and book `spent`; None books what was held, if anything was.

    Call it before the call's row is in the ledger: an account that is new begins with what the ledger has.
    """
    hold = None if call_id is None else connection.execute(_TAKE_HOLD, {"call": call_id}).one_or_none()
    if hold is None and spent == 0:
        return []
    held = 0 if hold is None else int(hold[0])
    keys: list[str] = keys_of(spender, datetime.now(UTC)) if hold is None else list(hold[1])
    _lock(connection, budgets, keys)
    amounts = {"given_back": held, "booked": held if spent is None else spent, "unpriced": 1 if spent is None else 0}
    return _warn(connection, budgets, connection.execute(_BOOK, {"of_keys": keys, **amounts}).all())


def raise_account(connection: sa.Connection, budgets: Budgets, id_: str, key: str, amount: int) -> None:
    """Add `amount` to a limit, once per `id_`."""
    _lock(connection, budgets, [key])
    if insert_once(connection, budget_raises, {"id": id_, "key": key, "amount": amount}, on=["id"]):
        change = {"raised": budget_accounts.c.raised + amount, "is_warned": False}
        connection.execute(sa.update(budget_accounts).where(budget_accounts.c.key == key).values(change))


def read_accounts(connection: sa.Connection, budgets: Budgets, *, now: datetime) -> list[Account]:
    """The accounts of this month and of tasks that have something spent or held, the fullest first."""
    table = budget_accounts
    is_current = sa.or_(table.c.key.like(f"%:{now:%Y-%m}"), table.c.key.like("task:%"))
    rows = connection.execute(sa.select(table).where(is_current).order_by(table.c.key)).all()
    return sorted((_to_account(row, budgets) for row in rows), key=lambda account: -account.spent)


def list_stale_holds(connection: sa.Connection, older_than_s: float) -> Sequence[sa.Row[Any]]:
    """Holds of calls that nobody is making any more: their process ended in the middle."""
    before = datetime.now(UTC) - timedelta(seconds=older_than_s)
    return connection.execute(sa.select(budget_holds).where(budget_holds.c.at < before)).all()


def _lock(connection: sa.Connection, budgets: Budgets, keys: Sequence[str]) -> list[Account]:
    rows = connection.execute(_LOCK, {"of_keys": keys}).all()
    if len(rows) < len(keys):
        known = {row.key for row in rows}
        new = [{"key": key, "spent": _read_spent(connection, key)} for key in keys if key not in known]
        insert_each_once(connection, budget_accounts, new, on=["key"])
        rows = connection.execute(_LOCK, {"of_keys": keys}).all()
    return [_to_account(row, budgets) for row in rows]


def _read_spent(connection: sa.Connection, key: str) -> int:
    """What the ledger has under an account that is new: calls made before this release, or free ones."""
    conditions: list[sa.ColumnElement[bool]] = []
    if (since := month_of(key)) is not None:
        conditions.append(model_calls.c.at >= since)
    column = {"task": "task_id", "agent": "agent", "environment": "environment"}.get(key.partition(":")[0])
    if column == "environment":  # rows older than the column are of the one environment there was
        conditions.append(sa.func.coalesce(model_calls.c.environment, name_of(key)) == name_of(key))
    elif column is not None:
        conditions.append(model_calls.c[column] == name_of(key))
    total = connection.execute(sa.select(sa.func.sum(model_calls.c.cost_usd)).where(*conditions)).scalar_one()
    return 0 if total is None else to_nano(Decimal(total))


def _warn(connection: sa.Connection, budgets: Budgets, rows: Sequence[sa.Row[Any]]) -> list[BudgetWarning]:
    accounts = [_to_account(row, budgets) for row in rows if not row.is_warned]
    warned = [
        BudgetWarning(account.key, to_usd(account.limit), to_usd(account.spent))
        for account in sorted(accounts, key=lambda account: account.key)
        if account.limit is not None and account.spent >= account.limit * budgets.warn_share
    ]
    if warned:
        table = budget_accounts
        of_warned = table.c.key.in_([warning.key for warning in warned])
        connection.execute(sa.update(table).where(of_warned).values(is_warned=True))
    return warned


def _to_account(row: sa.Row[Any], budgets: Budgets) -> Account:
    limit = budgets.limit_of_key(row.key)
    return Account(row.key, None if limit is None else limit + row.raised, row.spent, row.held, row.unpriced_calls)
