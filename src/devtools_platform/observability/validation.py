"""Whether the traces are whole: every model call and every tool call that was recorded has its span, and they agree.

The ledger and the record of tool calls are written in transactions of their own, so they know what happened even
where a span was lost. Pure: what was read goes in, what is missing comes out.
"""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

from devtools_platform.kit.telemetry import AGENT, TASK

USAGE = "langfuse.observation.usage_details"
COST = "langfuse.observation.cost_details"
CENT_FRACTION = Decimal("1e-9")
"""Spans carry a double; the ledger every digit."""

Row = Mapping[str, Any]


@dataclass(frozen=True)
class Validation:
    """What was looked at, and what is wrong with it. Whole when `problems` is empty, so also before the first task."""

    tasks: Sequence[str]
    model_calls: int
    tool_calls: int
    spans: int
    unchecked: int
    """Model calls recorded before spans were kept with them."""
    problems: Sequence[str]

    def to_dict(self) -> dict[str, Any]:
        return {"is_whole": not self.problems, **vars(self)}


def validate(tasks: Sequence[str], calls: Sequence[Row], tools: Sequence[Row], spans: Sequence[Row]) -> Validation:
    """Rows of `model_calls`, `tool_calls` and `spans` of the same tasks."""
    by_id = {span["span_id"]: span for span in spans}
    known = [call for call in calls if call["call_id"] is not None]
    problems = [*_check_calls(known, by_id), *_check_tools(tools, spans), *_check_owners(spans)]
    if tasks and not calls and not tools:
        problems.append(f"Nothing was recorded for {', '.join(tasks)}.")
    return Validation(tasks, len(calls), len(tools), len(spans), len(calls) - len(known), problems)


def _check_calls(calls: Sequence[Row], spans: Mapping[str, Row]) -> Iterable[str]:
    under: dict[str, list[Row]] = {}
    for call in calls:
        span = spans.get(call["span_id"] or "")
        if span is None and not str(call["error"] or "").startswith("interrupted"):
            yield f"{_name(call)}: it has no span."
        elif span is not None:
            under.setdefault(call["span_id"], []).append(call)
            yield from _check_owner(call, span)
    for span_id, made in under.items():
        yield from _check_amounts(made, spans[span_id])


def _check_owner(call: Row, span: Row) -> Iterable[str]:
    attributes = span["attributes"]
    expected = {TASK: call["task_id"], AGENT: call["agent"]}
    for name, value in expected.items():
        if attributes.get(name) != value:
            yield f"{_name(call)}: its span has {name} {attributes.get(name)!r}, not {value!r}."
    if not attributes.get("gen_ai.request.model"):
        yield f"{_name(call)}: its span names no model."


def _check_amounts(calls: Sequence[Row], span: Row) -> Iterable[str]:
    """A span may cover several attempts: usage and cost are those of all that were answered."""
    attributes, answered = span["attributes"], [call for call in calls if call["error"] is None]
    used = json.loads(attributes.get(USAGE, "{}"))
    tokens = sum((call["input_tokens"] or 0) + (call["output_tokens"] or 0) for call in answered)
    if used.get("total", 0) != tokens:
        yield f"{_name(calls[0])}: its span says {used.get('total', 0)} tokens, the ledger {tokens}."
    costs = [call["cost_usd"] for call in answered if call["cost_usd"] is not None]
    said = json.loads(attributes.get(COST, "{}")).get("total")
    cost = sum(costs, start=Decimal(0)) if costs else None
    if (said is None) != (cost is None) or (cost is not None and abs(Decimal(str(said)) - cost) > CENT_FRACTION):
        yield f"{_name(calls[0])}: its span says a cost of {said}, the ledger {cost}."


def _check_tools(tools: Sequence[Row], spans: Sequence[Row]) -> Iterable[str]:
    keys = {span["attributes"].get("devtools.tool.key") for span in spans}
    for tool in tools:
        if tool["key"] not in keys and tool["state"] != "in_doubt":
            yield f"tool call {tool['key']} ({tool['server']}_{tool['tool']}): it has no span."


def _check_owners(spans: Sequence[Row]) -> Iterable[str]:
    for span in spans:
        if not span["attributes"].get(TASK) or not span["attributes"].get(AGENT):
            yield f"span {span['span_id']} ({span['name']}): it has no session or no user."


def _name(call: Row) -> str:
    return f"model call {call['call_id']} of {call['agent']} in task {call['task_id']}"
