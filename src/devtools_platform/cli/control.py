"""`dev-tools task pause` and its like: what a person does with a task that was handed over."""

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer

from devtools_platform.cli.connection import AsJson, running_stack, show_task
from devtools_platform.cli.output import err, out, print_json, program
from devtools_platform.cli.stack import DataDir
from devtools_platform.core.errors import BadInput
from devtools_platform.core.tasks import MAX_TASK_TEXT, Step

FromStep = Annotated[
    int | None,
    typer.Option("--from", min=1, help="A step's number, see `task steps`. Default: where the last agent began."),
]


def cancel(task_id: str, data_dir: DataDir = None, as_json: AsJson = False) -> None:
    """Stop a task."""
    show_task(asyncio.run(running_stack(data_dir).cancel_task(task_id)), as_json=as_json)


def pause(task_id: str, data_dir: DataDir = None, as_json: AsJson = False) -> None:
    """Let a task stop before its next tool call or step, until `task resume`."""
    show_task(asyncio.run(running_stack(data_dir).pause_task(task_id)), as_json=as_json)


def resume(task_id: str, data_dir: DataDir = None, as_json: AsJson = False) -> None:
    """Let a paused task go on where it stopped."""
    show_task(asyncio.run(running_stack(data_dir).resume_task(task_id)), as_json=as_json)


def steer(
    task_id: str,
    text: Annotated[str, typer.Argument(help="What the agent at work should know.")],
    data_dir: DataDir = None,
    as_json: AsJson = False,
) -> None:
    """Say something into a running task; the agent reads it after its present tool call."""
    if not 0 < len(text.strip()) <= MAX_TASK_TEXT:
        raise BadInput(
            f"The message has {len(text)} characters; 1 to {MAX_TASK_TEXT} are taken.",
            hint='dev-tools task steer TASK "TEXT"',
        )
    show_task(asyncio.run(running_stack(data_dir).steer_task(task_id, text)), as_json=as_json)


def steps(task_id: str, data_dir: DataDir = None, as_json: AsJson = False) -> None:
    """The stored steps of a task. Their numbers are what `retry --from` and `fork --from` take."""
    found = asyncio.run(running_stack(data_dir).list_steps(task_id))
    if as_json:
        print_json([step.model_dump(mode="json") for step in found])
        return
    for step in found:
        out.print(_describe(step), markup=False)
    if not found:
        err.print("No step is stored yet.")


def retry(task_id: str, from_step: FromStep = None, data_dir: DataDir = None, as_json: AsJson = False) -> None:
    """Do an ended task again from a step on; what came before is kept."""
    task = asyncio.run(running_stack(data_dir).retry_task(task_id, from_step))
    show_task(task, as_json=as_json)
    _tell_how_to_watch(task.id, data_dir, as_json=as_json)


def fork(task_id: str, from_step: FromStep = None, data_dir: DataDir = None, as_json: AsJson = False) -> None:
    """Make a new task that has this one's history up to a step, and goes on from there by itself."""
    task = asyncio.run(running_stack(data_dir).fork_task(task_id, from_step))
    show_task(task, as_json=as_json)
    _tell_how_to_watch(task.id, data_dir, as_json=as_json)


def _describe(step: Step) -> str:
    took = f"{(step.ended_at - step.started_at).total_seconds():.1f} s" if step.ended_at and step.started_at else ""
    problem = f"  error: {step.error.splitlines()[0][:100]}" if step.error else ""
    return f"{step.number:>5}  {step.name:<24} {took:>9}  {step.run or ''}{problem}".rstrip()


def _tell_how_to_watch(task_id: str, data_dir: Path | None, *, as_json: bool) -> None:
    if not as_json:
        where = f" --data-dir {data_dir}" if data_dir else ""
        err.print(f"  watch    {program()} task watch {task_id}{where}", markup=False)


COMMANDS: dict[str, Callable[..., Any]] = {
    "cancel": cancel,
    "pause": pause,
    "resume": resume,
    "steer": steer,
    "steps": steps,
    "retry": retry,
    "fork": fork,
}
