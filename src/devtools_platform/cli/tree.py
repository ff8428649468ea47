"""A task as a tree that stays in place while it works: each step with its agent, what it does now, how it ended.

For people at a terminal; what is piped gets a line per event (`summary.describe_event`).
"""

from collections.abc import AsyncIterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from rich.console import Console
from rich.live import Live
from rich.markup import escape
from rich.spinner import Spinner
from rich.text import Text
from rich.tree import Tree

from devtools_platform.cli.summary import describe_event
from devtools_platform.core.tasks import Event, Plan

WIDTH = 72
SHOWN_AS_LINES = frozenset({"approval", "approval_decided", "budget_warning", "degraded", "message"})
"""What must not pass by unseen stands above the tree as a line of its own."""
MARKS = {"waiting": ("○", "dim"), "done": ("✓", "green"), "stopped": ("✗", "red"), "asks": ("?", "bold yellow")}


@dataclass
class Branch:
    """One station of the task: a step of its plan, the tests, the review, the branch."""

    label: str
    detail: str = ""
    state: str = "waiting"
    doing: str = ""
    """The last thing it did, while it works."""
    calls: int = 0

    def show(self) -> Text | Spinner:
        text = Text.assemble((f"{self.label} ", "bold"), _short(self.detail))
        if self.calls:
            text.append(f"  {self.calls} call{'' if self.calls == 1 else 's'}", "dim")
        if self.doing and self.state == "working":
            text.append(f"\n  {_short(self.doing)}", "dim")
        if self.state == "working":
            return Spinner("dots", text=text, style="cyan")
        mark, style = MARKS[self.state]
        return Text.assemble((f"{mark} ", style), text)


@dataclass
class TaskTree:
    """What the events so far come to. `apply` is all that changes it."""

    title: str
    steps: dict[str, Branch] = field(default_factory=dict[str, Branch])
    ends: dict[str, Branch] = field(default_factory=dict[str, Branch])

    def apply(self, event: Event) -> None:
        data = event.data
        match event.kind:
            case "plan":
                plan = Plan.model_validate(data)
                self.steps = {step.id: Branch(step.agent, step.goal) for step in plan.steps}
                self.ends = {name: Branch(name) for name in ("tests", "code-review", "branch")}
            case "delegated":
                self._step(event, str(data["agent"]), str(data["goal"])).state = "working"
            case "reported":
                step = self._step(event, str(data["agent"]), "")
                step.state = "stopped" if data["outcome"] == "cannot" else "done"
                step.detail = str(data["summary"])
            case "tool_call" | "model_call":
                self._note(event)
            case "tests" if data["stage"] == "final":
                self._end("tests", "done" if data["exit_code"] == 0 else "stopped", "with the change")
            case "review":
                self._end("code-review", "done" if data["verdict"] == "approve" else "stopped", str(data["verdict"]))
            case "commit":
                self._end("branch", "done", str(data["branch"]))
            case "approval" | "approval_decided":
                self._ask(event, is_asked=event.kind == "approval")
            case _:
                return

    def __rich__(self) -> Tree:
        tree = Tree(Text(self.title, "bold"), guide_style="dim")
        for branch in (*self.steps.values(), *self.ends.values()):
            tree.add(branch.show())
        return tree

    def _step(self, event: Event, agent: str, goal: str) -> Branch:
        id_ = str(event.data.get("step") or agent)
        step = self.steps.setdefault(id_, Branch(agent))
        step.detail = goal or step.detail
        return step

    def _note(self, event: Event) -> None:
        for step in self._working(event):
            step.calls += 1
            step.doing = str(event.data.get("tool") or event.data.get("model") or "")

    def _ask(self, event: Event, *, is_asked: bool) -> None:
        wanted, state = ("working", "asks") if is_asked else ("asks", "working")
        for step in self.steps.values():
            if step.label == event.agent and step.state == wanted:
                step.state = state

    def _working(self, event: Event) -> list[Branch]:
        return [step for step in self.steps.values() if step.label == event.agent and step.state == "working"]

    def _end(self, name: str, state: str, detail: str) -> None:
        self.ends[name] = Branch(name, detail, state)


async def follow_as_tree(
    events: AsyncIterator[Event], title: str, console: Console, *, in_full: bool, data_dir: Path | None
) -> None:
    """Show the tree until the task ends. `in_full`: every call also stands above it as a line."""
    tree = TaskTree(escape(title))
    with Live(tree, console=console, refresh_per_second=8) as live:
        async for event in events:
            with suppress(KeyError, TypeError):  # an event of another version changes nothing
                tree.apply(event)
            if in_full or event.kind in SHOWN_AS_LINES:
                line = describe_event(event, in_full=in_full, data_dir=data_dir)
                if line:
                    live.console.print(line)
            live.update(tree)


def _short(text: str) -> str:
    first = next((line.strip() for line in text.splitlines() if line.strip()), "")
    return first if len(first) <= WIDTH else f"{first[: WIDTH - 1]}…"
