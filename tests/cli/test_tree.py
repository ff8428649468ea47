"""The tree of a task in a terminal: which step does what, who asks, how each ended; and no garbage in pipes."""

import io
from datetime import UTC, datetime
from typing import Any

from rich.console import Console

from devtools_platform.cli.tree import TaskTree, follow_as_tree
from devtools_platform.core.tasks import Event

SIX = [("s1", "infrastructure"), ("s2", "cicd"), ("s3", "documentation"), ("s4", "feature-dev")]


def event(kind: str, by: str | None = None, **data: Any) -> Event:
    return Event(seq=1, task_id="t1", kind=kind, at=datetime.now(UTC), agent=by, data=data)


def plan() -> Event:
    return event("plan", source="model", steps=[{"id": i, "agent": a, "goal": f"The share of {a}."} for i, a in SIX])


def shown(tree: TaskTree) -> str:
    console = Console(file=io.StringIO(), width=120, record=True)
    console.print(tree)
    return console.export_text()


def test_six_agents_stand_in_one_tree_with_what_each_does_now() -> None:
    tree = TaskTree("task t1: all")
    tree.apply(plan())
    tree.apply(event("delegated", step="s1", agent="infrastructure", goal="The share of infrastructure."))
    tree.apply(event("delegated", step="s2", agent="cicd", goal="The share of cicd."))
    tree.apply(event("tool_call", "cicd", tool="workspace_read_file"))
    tree.apply(event("reported", step="s1", agent="infrastructure", outcome="done", summary="Did it."))
    text = shown(tree)
    assert "✓ infrastructure Did it." in text
    assert "cicd The share of cicd.  1 call" in text
    assert "workspace_read_file" in text
    assert "○ feature-dev" in text
    assert "○ code-review" in text


def test_a_step_that_asks_or_fails_shows_it_and_the_ends_say_what_they_came_to() -> None:
    tree = TaskTree("task t1: all")
    tree.apply(plan())
    tree.apply(event("delegated", step="s2", agent="cicd", goal="g"))
    tree.apply(event("approval", "cicd", id="a1"))
    assert "? cicd" in shown(tree)
    tree.apply(event("approval_decided", "cicd", id="a1"))
    assert "? cicd" not in shown(tree)
    tree.apply(event("reported", step="s2", agent="cicd", outcome="cannot", summary="No access."))
    tree.apply(event("tests", stage="final", exit_code=1))
    tree.apply(event("review", verdict="approve", findings=[]))
    tree.apply(event("commit", branch="task/t1", commit="0" * 40))
    text = shown(tree)
    assert "✗ cicd No access." in text
    assert "✗ tests" in text
    assert "✓ code-review" in text
    assert "✓ branch task/t1" in text


async def test_what_must_be_seen_stands_above_the_tree_and_unknown_events_break_nothing() -> None:
    console = Console(file=io.StringIO(), width=120, force_terminal=True)

    async def events():
        yield plan()
        yield event("reported", step="s1")
        yield event("something_new", words=1)
        yield event("degraded", what="tests", why="none found")

    await follow_as_tree(events(), "task t1: [bold]all", console, in_full=False, data_dir=None)
    text = console.file.getvalue()  # type: ignore[attr-defined]
    assert "none found" in text
    assert "[bold]all" in text
