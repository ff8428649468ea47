"""A running task as far as its events tell: plan, tests, review, diff, tokens and cost. The result comes at the end.

Events come from programs of ours but hold what agents and tools said, so each is validated; what does not fit is
left out, and shows in the timeline all the same.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from devtools_platform.core.tasks import FINAL, DiffStat, Event, Plan, Review, TaskResult, TestRun

M = TypeVar("M", bound=BaseModel)


def add_events(task: TaskResult, events: Sequence[Event]) -> TaskResult:
    """`task` with what its events say already. One that has ended is returned as it is."""
    if task.status in FINAL:
        return task
    found: dict[str, Any] = {
        "plan": task.plan or _last(events, "plan", Plan),
        "review": task.review or _last(events, "review", Review),
        "diff": task.diff or _last(events, "diff", DiffStat),
        "tests": task.tests or tuple(_each(events, "tests", TestRun)),
    }
    calls = [event.data for event in events if event.kind == "model_call"]
    if calls and not task.tokens:
        found["tokens"] = {"input": _sum(calls, "input_tokens"), "output": _sum(calls, "output_tokens")}
        found["cost_usd"] = _cost(calls)
    return task.model_copy(update=found)


def _each(events: Sequence[Event], kind: str, model: type[M]) -> Iterator[M]:
    for event in events:
        if event.kind == kind:
            known = {name: value for name, value in event.data.items() if name in model.model_fields}
            try:
                yield model.model_validate(known)
            except ValidationError:
                continue


def _last(events: Sequence[Event], kind: str, model: type[M]) -> M | None:
    return next(iter([*_each(events, kind, model)][::-1]), None)


def _sum(calls: Sequence[Mapping[str, Any]], name: str) -> int:
    return sum(value for call in calls if isinstance(value := call.get(name), int))


def _cost(calls: Sequence[Mapping[str, Any]]) -> float | None:
    """None as soon as one call has no known price."""
    costs = [call.get("cost_usd") for call in calls]
    known = [float(cost) for cost in costs if isinstance(cost, int | float)]
    return sum(known) if len(known) == len(costs) else None
