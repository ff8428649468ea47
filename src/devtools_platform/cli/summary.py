"""A task as a person reads it in a terminal: one line per event, one block at the end."""

from pathlib import Path
from typing import Any

from rich.console import Group
from rich.text import Text

from devtools_platform.cli.output import program
from devtools_platform.core.tasks import Event, Plan, TaskResult, TestRun

MARKS = {
    "completed": ("done", "bold green"),
    "failed": ("no branch", "bold red"),
    "cancelled": ("cancelled", "yellow"),
}


def describe_event(event: Event, *, in_full: bool, data_dir: Path | None = None) -> Text | None:
    """The event as a line, or None for what only `--watch` shows. `data_dir`: what decides must be typed with it."""
    data: dict[str, Any] = dict(event.data)
    match event.kind:
        case "plan":
            steps = "; ".join(f"{s['id']} {s['agent']}" for s in data["steps"])
            return _line("plan", f"{steps}  (by {data['source']}; {_expected(Plan.model_validate(data))})")
        case "delegated":
            return _line(data["agent"], _first_line(data["goal"]))
        case "reported":
            return _line(data["agent"], f"{data['outcome']}: {_first_line(data['summary'])}")
        case "tests":
            return _line("tests", f"{data['stage']}: {_outcome(data)} in {data['duration_s']:.1f} s")
        case "review":
            blocking = sum(1 for finding in data["findings"] if finding["is_blocking"])
            return _line("review", f"{data['verdict']}, {len(data['findings'])} findings, {blocking} blocking")
        case "commit":
            return _line("commit", f"{data['commit'][:12]} on {data['branch']}")
        case "degraded":
            return _line("degraded", f"{data['what']}: {_first_line(data['why'])}", "yellow")
        case "tool_call" if in_full:
            shown = ", ".join(f"{key}={_brief(value)}" for key, value in data["arguments"].items())
            mark = " -> error" if data["is_error"] else ""
            return _line(event.agent or "", f"{data['tool']}({shown}){mark}", "dim")
        case "model_call" if in_full:
            tokens = f"{data['input_tokens']} + {data['output_tokens']} tokens" if not data["error"] else data["error"]
            return _line(event.agent or "", f"{data['model']}: {tokens} in {data['duration_s']:.1f} s", "dim")
        case _:
            return _describe_control(event.kind, data, data_dir)


def _describe_control(kind: str, data: dict[str, Any], data_dir: Path | None) -> Text | None:
    """What people are asked, and what they do to the task."""
    match kind:
        case "approval":
            return _question(data, data_dir)
        case "approval_decided":
            said = f"{data['status']} {data['tool'] or data['kind']}"
            return _line("approval", f"{said}{_by(data)}{_because(data)}", "bold")
        case "budget_warning":
            text = f"{data['key']}: ${data['spent_usd']:.4f} of ${data['limit_usd']:.4f} are spent"
            return _line("budget", text, "yellow")
        case "paused" | "pause_requested" | "resumed":
            words = {"paused": "paused", "pause_requested": "will pause", "resumed": "resumed"}[kind]
            return _line("task", f"{words}{_by(data)}", "yellow")
        case "message":
            return _line("message", f"{data['by']}: {_first_line(data['text'])}", "bold")
        case "retried":
            return _line("task", f"retried{_by(data)} from step {data['step']}, attempt {data['attempt']}", "yellow")
        case "forked":
            return _line("task", f"forked{_by(data)} from {data['source']} at step {data['step']}", "yellow")
        case _:
            return None


def _question(data: dict[str, Any], data_dir: Path | None) -> Text:
    shown = ", ".join(f"{key}={_brief(value)}" for key, value in data["arguments"].items())
    where = f" --data-dir {data_dir}" if data_dir else ""
    asked = f"{data['tool'] or data['kind']}({shown}) waits for you (rule {data['rule']}, risk {data['risk']})"
    ways = [f"{program()} task approve {data['id']}{where}", f"{program()} task deny {data['id']} --reason TEXT{where}"]
    return Text("\n").join([_line("approval", asked, "bold yellow"), *(_line("", way) for way in ways)])


def _by(data: dict[str, Any]) -> str:
    return f" by {data['by']}" if data.get("by") else ""


def _because(data: dict[str, Any]) -> str:
    return f": {_first_line(data['reason'])}" if data.get("reason") else ""


def summarise(task: TaskResult) -> Group:
    """Everything that matters about a task."""
    word, style = MARKS.get(task.status, (task.status, "bold"))
    lines = [Text.assemble("\n", (f"{word}  ", style), _first_line(task.message or task.text))]
    if task.reason:
        lines.append(_row("reason", task.reason))
    lines += [_row("task", f"{task.id}  {_first_line(task.text)}")]
    if task.plan:
        lines.append(
            _row(
                "plan",
                "; ".join(f"{s.id} {s.agent}" for s in task.plan.steps)
                + f" (by {task.plan.source}; {_expected(task.plan)})",
            )
        )
    lines += [_row("tests", f"{run.stage}: {' '.join(run.command)} -> {_test_outcome(run)}") for run in task.tests]
    if task.review:
        judged = ", ".join(task.review.judged_by)
        lines.append(_row("review", f"{task.review.verdict} (by {judged}), {len(task.review.findings)} findings"))
        lines += [
            _row("", f"{f.path}:{f.line} {f.severity} {f.source} {f.rule}: {_first_line(f.message)}")
            for f in task.review.findings
            if f.is_blocking
        ]
    if task.diff:
        diff = task.diff
        lines.append(_row("change", f"{diff.files} files, +{diff.insertions} -{diff.deletions}"))
    lines += [_row("degraded", f"{item.what}: {_first_line(item.why)}") for item in task.degraded]
    if task.model:
        lines.append(_row("model", f"{task.model.name} ({task.model.provider}, tier {task.model.tier})"))
    lines.append(_row("cost", _cost(task)))
    if task.branch:
        lines.append(_row("branch", task.branch))
        lines.append(_row("look", f"git -C {task.repo} diff {(task.base_commit or '')[:12]} {task.branch}"))
    return Group(*lines)


def _cost(task: TaskResult) -> str:
    if not task.tokens:
        return "unknown"
    cost = "unknown price" if task.cost_usd is None else f"${task.cost_usd:.4f}"
    tokens = task.tokens
    return (
        f"{cost}; {tokens['input']} + {tokens['output']} tokens in {tokens['model_calls']} model calls, "
        f"{tokens['tool_calls']} tool calls"
    )


def _test_outcome(run: TestRun) -> str:
    return _outcome(run.model_dump())


def _outcome(run: dict[str, Any]) -> str:
    if run["exit_code"] is None:
        return f"ended by {run['ended_by']}"
    return "pass" if run["exit_code"] == 0 else f"FAIL (exit code {run['exit_code']})"


def _row(name: str, text: str) -> Text:
    return Text.assemble((f"  {name:<9}", "cyan"), text)


def _line(name: str, text: str, style: str = "") -> Text:
    return Text.assemble((f"  {name:<14} ", "cyan"), (text, style))


def _first_line(text: str) -> str:
    lines = text.strip().splitlines()
    return lines[0][:160] if lines else ""


def _brief(value: Any) -> str:
    shown = repr(value)
    return shown if len(shown) <= 48 else shown[:45] + "..."  # noqa: PLR2004 - a terminal's width


def _expected(plan: Plan) -> str:
    """What the plan's steps may cost by what their agents' runs have cost so far; unknown as soon as one is."""
    known = [step.cost_usd for step in plan.steps if step.cost_usd is not None]
    if len(known) < len(plan.steps):
        return "cost in advance unknown"
    fewest = min(step.cost_runs for step in plan.steps)
    return f"about ${sum(known):.4f}, by {fewest} earlier run{'s' if fewest != 1 else ''} of each agent or more"
