"""Where a task's plan stands, told from its delegations. Pure.

No event says that a step ended: it is being worked on from its delegation to the next one, whoever gets that.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from devtools_platform.console.words import Tone
from devtools_platform.core.tasks import FINAL, Event, PlanStep, TaskResult

StepState = Literal["waiting", "working", "done", "stopped here", "not started"]

_TONES: dict[StepState, Tone] = {"working": "busy", "done": "good", "stopped here": "bad"}


@dataclass(frozen=True)
class StepView:
    step: PlanStep
    state: StepState

    @property
    def tone(self) -> Tone:
        return _TONES.get(self.state, "plain")


def view_plan(task: TaskResult, events: Sequence[Event]) -> tuple[StepView, ...]:
    """The plan's steps with their states; empty when there is no plan yet."""
    if task.plan is None:
        return ()
    delegated = [str(event.data.get("step")) for event in events if event.kind == "delegated"]
    return tuple(StepView(step, _state(step, task, delegated)) for step in task.plan.steps)


def _state(step: PlanStep, task: TaskResult, delegated: Sequence[str]) -> StepState:
    if step.id not in delegated:
        return "not started" if task.status in FINAL else "waiting"
    if step.id != delegated[-1] or task.status == "completed":
        return "done"
    return "stopped here" if task.status in FINAL else "working"
