"""Charts as data for inline SVG: geometry only. A chart always stands beside a table with the same figures."""

from collections.abc import Sequence
from dataclasses import dataclass

from devtools_platform.console.types import Spent

WIDTH = 720.0
HEIGHT = 120.0
GAP = 2.0


@dataclass(frozen=True)
class Bar:
    """One day's bar in a box of `WIDTH` by `HEIGHT`."""

    x: float
    y: float
    width: float
    height: float
    spent: Spent


def day_bars(days: Sequence[Spent], *, by_cost: bool) -> tuple[Bar, ...]:
    """A bar a day, the largest as high as the box: by known cost, or by tokens where nothing has a price."""
    values = [_value(day, by_cost=by_cost) for day in days]
    top = max(values, default=0.0)
    step = WIDTH / max(len(days), 1)
    return tuple(
        Bar(round(n * step, 2), round(HEIGHT - height, 2), round(step - GAP, 2), round(height, 2), day)
        for n, (day, value) in enumerate(zip(days, values, strict=True))
        for height in [value / top * HEIGHT if top else 0.0]
    )


def share(part: Spent, whole: Spent, *, by_cost: bool) -> float:
    """What share `part` has in `whole`, in percent."""
    total = _value(whole, by_cost=by_cost)
    return round(100 * _value(part, by_cost=by_cost) / total, 1) if total else 0.0


def _value(spent: Spent, *, by_cost: bool) -> float:
    return spent.cost_usd or 0.0 if by_cost else float(spent.input_tokens + spent.output_tokens)
