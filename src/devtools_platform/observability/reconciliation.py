"""Our ledger beside what a provider says was used. Pure: neither is corrected by the other, the difference is shown."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import date, datetime
from decimal import Decimal
from typing import Any

TOLERATED_SHARE = 0.01
"""A call that began before midnight and ended after it may be counted on either day."""


@dataclass(frozen=True)
class Reconciled:
    """One subject on one day, in UTC: said by the provider, recorded by us. None where nobody knows."""

    provider: str
    day: date
    subject: str
    read_at: datetime
    said_tokens: int | None
    recorded_tokens: int | None
    said_usd: Decimal | None = None
    """Of the account: its whole month up to `read_at`, droplets and all."""
    recorded_usd: Decimal | None = None
    """The ledger's calls at this provider in that time, with the fixed costs of the price file."""

    @property
    def missing_tokens(self) -> int | None:
        """What the provider counted and we did not; negative where we have more."""
        if self.said_tokens is None or self.recorded_tokens is None:
            return None
        return self.said_tokens - self.recorded_tokens

    @property
    def missing_usd(self) -> Decimal | None:
        if self.said_usd is None or self.recorded_usd is None:
            return None
        return self.said_usd - self.recorded_usd

    @property
    def is_off(self) -> bool:
        """Whether the tokens differ by more than one call at midnight explains."""
        missing = self.missing_tokens
        if missing is None:
            return False
        return abs(missing) > TOLERATED_SHARE * max(self.said_tokens or 0, self.recorded_tokens or 0)

    def to_dict(self) -> dict[str, Any]:
        """For people and programs."""
        known: Mapping[str, Any] = {
            **vars(self),
            "day": self.day.isoformat(),
            "read_at": self.read_at.isoformat(),
            "missing_tokens": self.missing_tokens,
            "missing_usd": self.missing_usd,
            "is_off": self.is_off,
        }
        return {name: float(value) if isinstance(value, Decimal) else value for name, value in known.items()}


def add_fixed(line: Reconciled, usd: Decimal) -> Reconciled:
    """An account's line with the fixed costs of its month so far; another line, or an unknown cost, as it is."""
    return line if line.recorded_usd is None else replace(line, recorded_usd=line.recorded_usd + usd)
