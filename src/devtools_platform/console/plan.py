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


@dataclass(frozen=True)
class Node:
    """A station of the task's way from request to branch, in the order they are passed."""

    label: str
    detail: str
    state: str
    tone: Tone


def view_flow(task: TaskResult, events: Sequence[Event]) -> tuple[Node, ...]:
    """The whole way as a graph's nodes: plan, each step, tests, review, branch. Only what events or results tell."""
    steps = [Node(view.step.agent, view.step.goal, view.state, view.tone) for view in view_plan(task, events)]
    return (_plan_node(task), *steps, _tests_node(task, events), _review_node(task, events), _branch_node(task))


def _plan_node(task: TaskResult) -> Node:
    if task.plan is None:
        return Node("plan", "", *_not_yet(task, is_next=task.status == "working"))
    source = {"request": "as asked", "rules": "by rules", "model": "by the model"}[task.plan.source]
    return Node("plan", source, "done", "good")


def _tests_node(task: TaskResult, events: Sequence[Event]) -> Node:
    final = [event.data for event in events if event.kind == "tests" and event.data.get("stage") == "final"]
    if not final:
        return Node("tests", "", *_not_yet(task))
    is_passing = final[-1].get("exit_code") == 0
    return Node("tests", "with the change", "passing" if is_passing else "failing", "good" if is_passing else "bad")


def _review_node(task: TaskResult, events: Sequence[Event]) -> Node:
    verdicts = [str(event.data.get("verdict")) for event in events if event.kind == "review"]
    if not verdicts:
        return Node("code-review", "", *_not_yet(task))
    is_fine = verdicts[-1] == "approve"
    return Node("code-review", "", "approved" if is_fine else "changes requested", "good" if is_fine else "warn")


def _branch_node(task: TaskResult) -> Node:
    if task.branch is None:
        return Node("branch", "", *_not_yet(task))
    return Node("branch", task.branch, "made", "good")


def _not_yet(task: TaskResult, *, is_next: bool = False) -> tuple[str, Tone]:
    if task.status in FINAL:
        return "not reached", "plain"
    return ("working", "busy") if is_next else ("waiting", "plain")
