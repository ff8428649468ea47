"""What observability needs from outside: where spans and calls are kept, and what providers say was used."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import date, datetime
from decimal import Decimal
from typing import Any, Protocol

from devtools_platform.core.tasks import Usage
from devtools_platform.observability.budgets import Spender


@dataclass(frozen=True)
class SpanRow:
    """One finished span, its attributes already redacted. Ids are hex digits."""

    trace_id: str
    span_id: str
    parent_id: str | None
    name: str
    kind: str
    started_at: datetime
    ended_at: datetime
    status: str
    attributes: Mapping[str, Any]
    task_id: str | None
    agent: str | None


@dataclass(frozen=True)
class Batch:
    """What waits for a sink, the oldest first. `gone`: spans that are not stored any more."""

    rows: Sequence[SpanRow]
    gone: int
    pending: int
    """All that wait, with these."""


@dataclass(frozen=True)
class ModelCall:
    """One call of a model. Tokens as the endpoint counted them, None where it did not say."""

    task_id: str
    agent: str
    provider: str
    model: str
    input_tokens: int | None
    output_tokens: int | None
    cost_usd: Decimal | None
    duration_s: float
    error: str | None = None
    call_id: str | None = None
    """The same call written twice under one id is one row."""
    environment: str | None = None
    cached_tokens: int | None = None
    """Those of `input_tokens` that the endpoint read from its cache."""
    price_source: str | None = None
    """The table the price is from, with its date or version; None where no price is known."""
    span_id: str | None = None


@dataclass(frozen=True)
class Hold:
    """What one call may cost at most, reserved before it is made."""

    call_id: str
    spender: Spender
    provider: str
    model: str
    amount: int
    """Billionths of a US dollar."""


@dataclass(frozen=True)
class BudgetWarning:
    """A budget that has just passed its share for warnings."""

    key: str
    limit_usd: float
    spent_usd: float


class SpanStore(Protocol):
    def write(self, spans: Sequence[SpanRow]) -> None:
        """Store spans; the same span twice is stored once. Called on a worker thread."""
        ...


class Ledger(Protocol):
    async def hold(self, hold: Hold) -> None:
        """Reserve, all accounts or none. The same call is reserved once. Raises `OverBudget`."""
        ...

    async def record(
        self, call: ModelCall, *, keep_held: bool = False, also: Callable[[Any], None] | None = None
    ) -> list[BudgetWarning]:
        """Write the call down and settle what was held for it.

        `keep_held`: what was held counts as spent, since nobody knows what the call cost. `also` is given the
        transaction's connection and done in it, first: the accounts are everybody's and locked as briefly as can be.
        """
        ...

    async def raise_limit(self, id_: str, key: str, usd: Decimal) -> None:
        """Add to the limit of one account; once per `id_`."""
        ...

    async def usage(self, task_id: str) -> Usage: ...


ACCOUNT = "account"
"""The subject of what a provider says of the whole account."""


@dataclass(frozen=True)
class ProviderUsage:
    """What a provider says was used on one day, in UTC. None where it does not say."""

    day: date
    subject: str
    """An agent, as it stands in the ledger, or `ACCOUNT`."""
    input_tokens: int | None = None
    output_tokens: int | None = None
    month_usd: Decimal | None = None
    """Of the account: everything it used this month, up to now. No provider says it of a day that is over."""


@dataclass(frozen=True)
class CataloguePrice:
    """What a provider's catalogue asks for a million tokens, in US dollars."""

    model: str
    input_usd: Decimal
    output_usd: Decimal


class ProviderCosts(Protocol):
    """A provider's own word on what we used and what it costs. Answered by `kit.digitalocean` through `app`."""

    @property
    def provider(self) -> str:
        """Whose word it is."""
        ...

    @property
    def ledger_names(self) -> Sequence[str]:
        """What the ledger calls it: one name for each way to reach it."""
        ...

    async def read_usage(self, day: date) -> Sequence[ProviderUsage]:
        """Raises `Unavailable`, or `BadInput` where no account is set up."""
        ...

    async def read_prices(self) -> Sequence[CataloguePrice]:
        """The models whose price the catalogue names. Raises as `read_usage`."""
        ...
