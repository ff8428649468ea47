"""Prices a person gives: dated, for any provider and model, and the costs that do not depend on calls.

A YAML file (`DEV_TOOLS_PRICES`). What stands in it goes before the tables we ship; what stands nowhere is unknown.
Prices are US dollars per million tokens, as providers publish them.
"""

from collections.abc import Sequence
from datetime import date
from decimal import Decimal
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from devtools_platform.core.errors import BadInput

MILLION = Decimal(1_000_000)
MONTH_DAYS = Decimal("30.4375")
"""A twelfth of 365.25 days: how a monthly cost is spread over days."""

Usd = Annotated[Decimal, Field(ge=0, max_digits=18)]


class _Strict(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Price(_Strict):
    """What one model costs from a day on, until a newer entry of the same provider and model."""

    provider: str = "*"
    """As `dev-tools cost report` shows it; `*` for any."""
    model: str
    """Its name at the endpoint; `*` allowed."""
    input_usd: Usd
    output_usd: Usd
    cached_input_usd: Usd | None = None
    """For input read from the provider's cache; None: as other input."""
    since: date = date.min
    source: str = Field(min_length=1)
    """Where the figure is from, for whoever checks it."""

    def cost(self, input_tokens: int, output_tokens: int, cached_tokens: int = 0) -> Decimal:
        cached_price = self.input_usd if self.cached_input_usd is None else self.cached_input_usd
        fresh = input_tokens - cached_tokens
        return (self.input_usd * fresh + cached_price * cached_tokens + self.output_usd * output_tokens) / MILLION

    def describe(self) -> str:
        since = "" if self.since == date.min else f", since {self.since}"
        return f"your price file: {self.source}{since}"


class FixedCost(_Strict):
    """Something that costs the same however much is used: a droplet, a database, a registry."""

    name: str = Field(min_length=1)
    kind: Literal["compute", "database", "registry", "storage", "network", "other"] = "other"
    usd_per_month: Usd
    since: date = date.min
    until: date | None = None
    source: str = ""

    def cost(self, since: date, until: date) -> Decimal:
        """Its share of the days from `since` to before `until`."""
        begin = max(since, self.since)
        end = until if self.until is None else min(until, self.until)
        return self.usd_per_month * max(0, (end - begin).days) / MONTH_DAYS


class PriceFile(_Strict):
    prices: tuple[Price, ...] = ()
    fixed: tuple[FixedCost, ...] = ()

    def find(self, provider: str, model: str, on: date) -> Price | None:
        """The newest entry that holds on that day; None when the file has none."""
        fitting = [
            price
            for price in self.prices
            if price.since <= on and fnmatchcase(provider, price.provider) and fnmatchcase(model, price.model)
        ]
        return max(fitting, key=lambda price: price.since, default=None)


def load_prices(path: Path | None) -> PriceFile:
    """Empty without a path. Raises `BadInput` naming the entry and what is wrong with it."""
    if path is None:
        return PriceFile()
    hint = "See docs/how-to/prometheus.md, `Prices and budgets`, for an example."
    try:
        return PriceFile.model_validate(yaml.safe_load(path.read_text()) or {})
    except OSError as error:
        raise BadInput(f"The price file {str(path)!r} cannot be read: {error.strerror}.", hint=hint) from None
    except yaml.YAMLError as error:
        raise BadInput(f"The price file {str(path)!r} is no YAML: {error}.", hint=hint) from None
    except ValidationError as error:
        raise BadInput(f"The price file {str(path)!r} is wrong: {_first(error.errors())}.", hint=hint) from None


def _first(errors: Sequence[Any]) -> str:
    where = ".".join(str(part) for part in errors[0]["loc"])
    return f"{where}: {errors[0]['msg']}"
