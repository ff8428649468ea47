"""The comparison of costs for commands: they know `app`, not the parts."""

from datetime import date
from decimal import Decimal
from typing import Any

from devtools_platform.observability.reports import CostLine, CostReport, Machine, compare_self_hosted

__all__ = ["Machine", "compare_recorded"]


def compare_recorded(report: dict[str, Any], machine: Machine) -> dict[str, Any]:
    """A report, as the stack gives it, against machines of one's own."""
    total: dict[str, Any] = {name: value for name, value in report["total"].items() if name != "cost_usd"}
    priced = Decimal(str(total.pop("priced_usd")))
    line = CostLine(**total, priced_usd=priced)
    since, until = date.fromisoformat(report["since"]), date.fromisoformat(report["until"])
    return compare_self_hosted(CostReport(report["by"], since, until, [line], []), machine).to_dict()
