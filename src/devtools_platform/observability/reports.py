"""What was spent, added up from the ledger, and what the same tokens would cost elsewhere. Pure."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import date
from decimal import Decimal
from typing import Any, Literal

from devtools_platform.observability.prices import FixedCost
from devtools_platform.observability.reconciliation import Reconciled

By = Literal["agent", "model", "task", "day", "environment"]
HOURS_A_DAY = 24


@dataclass(frozen=True)
class CostLine:
    """Model calls of one agent, model, task, day or environment."""

    key: str
    calls: int
    """Answered ones."""
    failed_calls: int
    input_tokens: int
    output_tokens: int
    cached_tokens: int
    priced_usd: Decimal
    """Of the calls whose price is known."""
    unpriced_calls: int

    @property
    def cost_usd(self) -> Decimal | None:
        """None as soon as one call had no known price."""
        return None if self.unpriced_calls else self.priced_usd


@dataclass(frozen=True)
class FixedLine:
    name: str
    kind: str
    usd: Decimal
    source: str


@dataclass(frozen=True)
class CostReport:
    """From `since` to before `until`, days in UTC."""

    by: By
    since: date
    until: date
    lines: Sequence[CostLine]
    fixed: Sequence[FixedLine]
    said: Sequence[Reconciled] = ()
    """What providers say of the same days, where they were asked."""

    @property
    def total(self) -> CostLine:
        return CostLine(
            "total",
            calls=sum(line.calls for line in self.lines),
            failed_calls=sum(line.failed_calls for line in self.lines),
            input_tokens=sum(line.input_tokens for line in self.lines),
            output_tokens=sum(line.output_tokens for line in self.lines),
            cached_tokens=sum(line.cached_tokens for line in self.lines),
            priced_usd=sum((line.priced_usd for line in self.lines), start=Decimal(0)),
            unpriced_calls=sum(line.unpriced_calls for line in self.lines),
        )

    @property
    def fixed_usd(self) -> Decimal:
        return sum((line.usd for line in self.fixed), start=Decimal(0))

    @property
    def all_usd(self) -> Decimal | None:
        """Model calls and fixed costs together."""
        models = self.total.cost_usd
        return None if models is None else models + self.fixed_usd

    def to_dict(self) -> dict[str, Any]:
        def line(item: CostLine) -> dict[str, Any]:
            numbers = {**asdict(item), "cost_usd": item.cost_usd}
            return {name: float(v) if isinstance(v, Decimal) else v for name, v in numbers.items()}

        return {
            "by": self.by,
            "since": self.since.isoformat(),
            "until": self.until.isoformat(),
            "lines": [line(item) for item in self.lines],
            "total": line(self.total),
            "fixed": [{**asdict(item), "usd": float(item.usd)} for item in self.fixed],
            "fixed_usd": float(self.fixed_usd),
            "all_usd": None if self.all_usd is None else float(self.all_usd),
            "reconciled": [line.to_dict() for line in self.said],
        }


def spread_fixed(costs: Sequence[FixedCost], since: date, until: date) -> list[FixedLine]:
    return [FixedLine(cost.name, cost.kind, cost.cost(since, until), cost.source) for cost in costs]


@dataclass(frozen=True)
class Machine:
    """A machine of one's own that would serve the same tokens. Every figure is the person's: we have measured none."""

    usd_per_hour: Decimal
    input_tokens_per_s: float
    output_tokens_per_s: float
    max_load: float = 0.6
    """The share of its time it can work: agents come in bursts, and nobody waits for a queue."""


@dataclass(frozen=True)
class Comparison:
    """Recorded usage at its recorded price, and on machines of one's own. `assumptions` are all there are."""

    recorded_usd: Decimal | None
    self_hosted_usd: Decimal
    machines: int
    busy_share: float
    assumptions: Sequence[str]

    @property
    def saving_share(self) -> float | None:
        """What self-hosting would save of the recorded cost; negative where it costs more; None where unknown."""
        if not self.recorded_usd:
            return None
        return float(1 - self.self_hosted_usd / self.recorded_usd)

    def to_dict(self) -> dict[str, Any]:
        return {
            "recorded_usd": None if self.recorded_usd is None else float(self.recorded_usd),
            "self_hosted_usd": float(self.self_hosted_usd),
            "machines": self.machines,
            "busy_share": self.busy_share,
            "saving_share": self.saving_share,
            "assumptions": list(self.assumptions),
        }


def compare_self_hosted(report: CostReport, machine: Machine) -> Comparison:
    """The same tokens on machines that run all the time, as many as their load needs, at least one."""
    total, days = report.total, (report.until - report.since).days
    fresh = total.input_tokens - total.cached_tokens
    busy_s = fresh / machine.input_tokens_per_s + total.output_tokens / machine.output_tokens_per_s
    period_s = days * HOURS_A_DAY * 3600
    busy_share = busy_s / period_s
    machines = max(1, -int(-busy_share // machine.max_load))
    cost = machine.usd_per_hour * HOURS_A_DAY * days * machines
    recorded = f"${total.priced_usd:.4f}" if total.cost_usd is not None else f"unknown: {total.unpriced_calls} unpriced"
    used = f"{total.calls} calls, {fresh} uncached input and {total.output_tokens} output tokens"
    speed = f"It reads {machine.input_tokens_per_s:g} and writes {machine.output_tokens_per_s:g} tokens a second"
    assumptions = (
        f"Period: {report.since} to before {report.until}, {days} days.",
        f"Recorded by our ledger: {used}, model cost {recorded}. Failed calls count nothing.",
        f"A machine costs ${machine.usd_per_hour} an hour and runs all {HOURS_A_DAY} hours of each day.",
        f"{speed}, all requests together. Your figures: we have not measured them.",
        f"It can work {machine.max_load:.0%} of its time; the load needs {busy_share:.4%} of one, so {machines}.",
        "Model quality, tokens and number of calls stay the same.",
        "Left out on both sides: people's time, storage, network, and the fixed costs the report lists.",
    )
    return Comparison(total.cost_usd, cost, machines, busy_share, assumptions)
