"""From a model's draft to a plan, and from a plan to what may run at once. Pure."""

from collections.abc import Sequence
from typing import Literal

from devtools_platform.agents.types import PlanDraft
from devtools_platform.core.tasks import Plan, PlanStep


def to_plan(draft: PlanDraft, source: Literal["model"] = "model", first: int = 1) -> Plan:
    """The draft with ids; `first` numbers its first step, so that a new plan's steps are told from the old one's."""
    ids = [str(first + place) for place in range(len(draft.steps))]
    steps = [
        PlanStep(
            id=id_,
            agent=step.agent,
            goal=step.goal,
            needs=None if step.needs is None else tuple(ids[need - 1] for need in step.needs),
            acceptance=step.acceptance,
            risk=step.risk,
        )
        for id_, step in zip(ids, draft.steps, strict=True)
    ]
    return Plan(steps=tuple(steps), source=source)


def list_waves(steps: Sequence[PlanStep]) -> list[list[PlanStep]]:
    """The steps in groups: those of one group wait for nothing but earlier groups, so they may run at once.

    The groups follow from the plan alone, whatever runs faster: their order is part of the stored history.
    """
    waves: list[list[PlanStep]] = []
    wave_of: dict[str, int] = {}
    for step in steps:
        needed = wave_of if step.needs is None else step.needs
        at = max((wave_of[need] + 1 for need in needed), default=0)
        wave_of[step.id] = at
        if at == len(waves):
            waves.append([])
        waves[at].append(step)
    return waves


def goal_of(step: PlanStep) -> str:
    """What the agent is told to reach."""
    return f"{step.goal}\n\nIt is done when: {step.acceptance}" if step.acceptance else step.goal
