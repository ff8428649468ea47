"""Traces and costs over HTTP, as routes of the state service: their tables are its database."""

from collections.abc import Mapping, Sequence
from datetime import UTC, date, datetime, timedelta
from typing import Annotated, Any, Protocol

from fastapi import FastAPI, Query

from devtools_platform.core.errors import BadInput
from devtools_platform.observability.reconciliation import Reconciled
from devtools_platform.observability.reports import By, CostReport
from devtools_platform.observability.validation import Validation

MAX_DAYS = 366 * 5
EARLIEST = date(2000, 1, 1)
LATEST = date(2200, 1, 1)


class Observatory(Protocol):
    """Answered by `app`."""

    async def report(self, by: By, since: date, until: date) -> CostReport: ...

    async def reconcile(self, day: date) -> Sequence[Reconciled]:
        """Ask the provider about one day. Raises `Unavailable`, or `BadInput` where no account is set up."""
        ...

    async def list_prices(self) -> Sequence[Mapping[str, Any]]: ...

    async def refresh_prices(self) -> Sequence[Mapping[str, Any]]:
        """Read the provider's catalogue; the prices that changed. Raises as `reconcile`."""
        ...

    async def list_budgets(self) -> Sequence[dict[str, Any]]: ...

    def list_sinks(self) -> Sequence[dict[str, Any]]: ...

    async def validate(self, task_id: str | None, *, with_langfuse: bool) -> Validation: ...


def add_routes(app: FastAPI, observatory: Observatory) -> None:
    """`/costs`, `/prices`, `/budgets`, `/traces/sinks` and `/traces/validation`."""

    @app.get("/costs", tags=["costs"])
    async def read_costs(by: By = "agent", since: date | None = None, until: date | None = None) -> dict[str, Any]:
        """Days in UTC, `until` not included; this month by default."""
        first, end = read_period(since, until)
        return (await observatory.report(by, first, end)).to_dict()

    @app.post("/costs/reconciliation", tags=["costs"])
    async def reconcile(day: date | None = None) -> list[dict[str, Any]]:
        """Ask the provider what was used on a day, in UTC; yesterday by default. Kept, and shown in `/costs`."""
        return [line.to_dict() for line in await observatory.reconcile(_past(day))]

    @app.get("/prices", tags=["costs"])
    async def list_prices() -> list[Mapping[str, Any]]:
        """US dollars per million tokens: your file's, then those the provider's catalogue named, each from its day."""
        return list(await observatory.list_prices())

    @app.post("/prices/refresh", tags=["costs"])
    async def refresh_prices() -> list[Mapping[str, Any]]:
        """Read the provider's catalogue. Answers what is new."""
        return list(await observatory.refresh_prices())

    @app.get("/budgets", tags=["costs"])
    async def list_budgets() -> list[dict[str, Any]]:
        return list(await observatory.list_budgets())

    @app.get("/traces/sinks", tags=["traces"])
    async def list_sinks() -> list[dict[str, Any]]:
        return list(observatory.list_sinks())

    @app.get("/traces/validation", tags=["traces"])
    async def validate_traces(
        task_id: Annotated[str | None, Query(max_length=100)] = None,
        langfuse: bool = False,  # noqa: FBT001, FBT002 - FastAPI's way to declare a parameter
    ) -> dict[str, Any]:
        """Of one task, or of the newest twenty that have ended."""
        return (await observatory.validate(task_id, with_langfuse=langfuse)).to_dict()

    _ = (read_costs, reconcile, list_prices, refresh_prices, list_budgets, list_sinks, validate_traces)


def _past(day: date | None) -> date:
    today = datetime.now(UTC).date()
    if day is None:
        return today - timedelta(days=1)
    if not EARLIEST <= day <= today:
        raise BadInput(f"Nothing can have been used on {day}.", hint="Give a day that has begun, as YYYY-MM-DD in UTC.")
    return day


def read_period(since: date | None, until: date | None) -> tuple[date, date]:
    """Raises `BadInput` for a period that is empty or absurd."""
    today = datetime.now(UTC).date()
    end = today + timedelta(days=1) if until is None else until
    first = (
        min(today, end - timedelta(days=1)).replace(day=1) if since is None and end > EARLIEST else since or EARLIEST
    )
    if not EARLIEST <= first < end <= LATEST or (end - first).days > MAX_DAYS:
        raise BadInput(
            f"The period from {first} to before {end} is empty, longer than {MAX_DAYS} days or too far away.",
            hint="Give `since` and a later `until` as YYYY-MM-DD.",
        )
    return first, end
