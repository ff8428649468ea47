"""Budgets as values: which accounts a call counts against, what is left in one, and what is said when it is not enough.

Amounts are whole billionths of a US dollar (`nano`), so that both stores add them exactly. Rounded up: a budget
may be used up a billionth of a dollar too early, never too late.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from decimal import ROUND_CEILING, Decimal
from typing import Any, Literal

from devtools_platform.core.errors import OverBudget

Scope = Literal["task", "agent", "environment", "month"]
NANO = 1_000_000_000


@dataclass(frozen=True)
class Budgets:
    """The limits of a stack in US dollars, None for none. All but a task's are for a calendar month in UTC."""

    task_usd: Decimal | None = None
    agent_usd: Decimal | None = None
    environment_usd: Decimal | None = None
    month_usd: Decimal | None = None
    """Over everything in this database, whichever environment."""
    warn_share: float = 0.8
    unpriced: Literal["refuse", "allow"] = "refuse"
    """What becomes of a call whose price is not known, where there is any limit."""

    @property
    def is_limited(self) -> bool:
        return any(self.limit_of(scope) is not None for scope in ("task", "agent", "environment", "month"))

    def limit_of(self, scope: Scope) -> Decimal | None:
        return getattr(self, f"{scope}_usd")

    def limit_of_key(self, key: str) -> int | None:
        """The limit of an account in nano, before anybody raised it."""
        scope: Any = key.partition(":")[0]
        limit = self.limit_of(scope)
        return None if limit is None else to_nano(limit)


@dataclass(frozen=True)
class Spender:
    """Whose call it is."""

    task_id: str
    agent: str
    environment: str


@dataclass(frozen=True)
class Account:
    """One budget as it stands, in nano. `limit` includes what people added; None where there is none."""

    key: str
    limit: int | None
    spent: int
    held: int
    unpriced_calls: int = 0

    def takes(self, amount: int) -> bool:
        return self.limit is None or self.spent + self.held + amount <= self.limit

    def to_dict(self) -> dict[str, Any]:
        """For people and programs, in US dollars."""
        return {
            "key": self.key,
            "scope": self.key.partition(":")[0],
            "limit_usd": None if self.limit is None else to_usd(self.limit),
            "spent_usd": to_usd(self.spent),
            "held_usd": to_usd(self.held),
            "unpriced_calls": self.unpriced_calls,
        }


def keys_of(spender: Spender, at: datetime) -> list[str]:
    """The accounts a call counts against, in the order in which they are locked."""
    month = f"{at:%Y-%m}"
    return sorted(
        [
            f"task:{spender.task_id}",
            f"agent:{spender.agent}:{month}",
            f"environment:{spender.environment}:{month}",
            f"month:{month}",
        ]
    )


def month_of(key: str) -> datetime | None:
    """When the month of an account began; None for a task's, which has no end."""
    scope, _, rest = key.partition(":")
    return None if scope == "task" else datetime.fromisoformat(f"{rest.rpartition(':')[2]}-01T00:00:00+00:00")


def name_of(key: str) -> str:
    """What an account is of: the task, the agent, the environment; empty for the month's."""
    scope, _, rest = key.partition(":")
    if scope == "task":
        return rest
    return rest.rpartition(":")[0]


def refuse_over(accounts: Sequence[Account], amount: int) -> None:
    """Raises `OverBudget` naming the fullest account when one of them does not take `amount`."""
    full = [account for account in accounts if not account.takes(amount)]
    if not full:
        return
    fullest = min(full, key=lambda account: (account.limit or 0) - account.spent - account.held)
    facts: Mapping[str, Any] = {**fullest.to_dict(), "needed_usd": to_usd(amount)}
    raise OverBudget(
        f"The budget {fullest.key!r} of ${facts['limit_usd']:.4f} has ${facts['spent_usd']:.4f} spent and "
        f"${facts['held_usd']:.4f} reserved; the next model call may cost ${facts['needed_usd']:.4f}.",
        hint="Raise the limit (`dev-tools config show`, DEV_TOOLS_BUDGET_*), or wait for the next month.",
        facts=facts,
    )


def refuse_unpriced(model: str) -> OverBudget:
    """The error for a call that no limit can be held against."""
    return OverBudget(
        f"No price is known for model {model!r}, so no budget can hold its calls.",
        hint="Give its price in the file of DEV_TOOLS_PRICES, or set DEV_TOOLS_BUDGET_UNPRICED=allow.",
    )


def to_nano(usd: Decimal) -> int:
    return int((usd * NANO).to_integral_value(ROUND_CEILING))


def to_usd(nano: int) -> float:
    return nano / NANO
