"""Where a task's plan stands, told from its events: a step is worked on from its delegation to its report. Pure."""

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
    return tuple(StepView(step, _state(step, task, events)) for step in task.plan.steps)


def _state(step: PlanStep, task: TaskResult, events: Sequence[Event]) -> StepState:
    said = [event for event in events if event.data.get("step") == step.id and event.kind in {"delegated", "reported"}]
    if not said:
        return "not started" if task.status in FINAL else "waiting"
    if said[-1].kind == "reported":
        return "stopped here" if said[-1].data.get("outcome") == "cannot" else "done"
    if task.status == "completed":
        return "done"
    return "stopped here" if task.status in FINAL else "working"


@dataclass(frozen=True)
class Node:
    """A station of the task's way from request to branch, in the order they are passed."""

    label: str
    detail: str
    state: str
    tone: Tone


def view_flow(task: TaskResult, events: Sequence[Event]) -> tuple[tuple[Node, ...], ...]:
    """The whole way as stages: plan, the steps that may run at once, tests, review, branch. Only what is told."""
    ends = (_tests_node(task, events), _review_node(task, events), _branch_node(task))
    return ((_plan_node(task),), *_step_stages(view_plan(task, events)), *((node,) for node in ends))


def _step_stages(views: Sequence[StepView]) -> list[tuple[Node, ...]]:
    """Steps by how many must be done one after the other before them; None in `needs` means all before it."""
    depths: dict[str, int] = {}
    for view in views:
        needs = tuple(depths) if view.step.needs is None else view.step.needs
        depths[view.step.id] = 1 + max((depths.get(id_, -1) for id_ in needs), default=-1)
    stages: list[list[Node]] = [[] for _ in range(1 + max(depths.values(), default=-1))]
    for view in views:
        stages[depths[view.step.id]].append(Node(view.step.agent, view.step.goal, view.state, view.tone))
    return [tuple(stage) for stage in stages]


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
