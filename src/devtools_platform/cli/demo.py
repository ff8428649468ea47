"""`dev-tools demo`: the whole product on a repository it makes itself."""

import asyncio
import signal
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.text import Text

from devtools_platform.app.client import StackClient
from devtools_platform.app.demo import TASK, make_repository
from devtools_platform.cli.output import err, out, print_json, program, progress
from devtools_platform.cli.stack import stack_settings
from devtools_platform.cli.summary import describe_event, summarise
from devtools_platform.config import load_settings
from devtools_platform.core.tasks import TaskRequest, TaskResult

if TYPE_CHECKING:
    from devtools_platform.app.stack import Running


def demo(
    stay: Annotated[
        bool | None, typer.Option("--stay/--no-stay", help="Keep the stack up afterwards; default: on a terminal.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json")] = False,
) -> None:
    """Make a small repository with a failing test, and let the crew fix it."""
    data_dir = load_settings().data_dir / "demo"
    stays = sys.stdin.isatty() if stay is None else stay
    from devtools_platform.app.serving import run  # takes seconds to import: only where it is run

    result = run(_demo(data_dir, stays=stays, as_json=as_json))
    if result.status != "completed":
        raise typer.Exit(20)


async def _demo(data_dir: Path, *, stays: bool, as_json: bool) -> TaskResult:
    from devtools_platform.app.stack import Stack  # takes seconds to import: only where it is run

    stop = asyncio.Event()
    for name in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(name, stop.set)
    settings = stack_settings(data_dir, free_ports=True)
    async with Stack(settings, progress).run() as running:
        repo = make_repository(data_dir / "shop")
        err.print(Text(f"\n  repository {repo}\n  task       {TASK}\n", style="bold"))
        result = await _carry_out(running, TaskRequest(text=TASK, repo=str(repo)))
        if as_json:
            print_json({**result.model_dump(mode="json"), "console": running.console_link})
        else:
            out.print(summarise(result))
            _what_next(running, result, stays=stays)
        if stays:
            await stop.wait()
    return result


async def _carry_out(running: "Running", request: TaskRequest) -> TaskResult:
    client = StackClient(running.urls.of("state"), running.token)
    task = await client.create_task(request)
    async for event in client.follow_events(task.id):
        if line := describe_event(event, in_full=True, data_dir=running.data_dir):
            err.print(line)
    return await client.get_task(task.id)


def _what_next(running: "Running", result: TaskResult, *, stays: bool) -> None:
    link = f"{running.urls.of('console')}/tasks/{result.id}"
    typer.echo(f"\n  see it     {running.console_link}\n             then {link}")
    typer.echo(f'  your own   {program()} task run "TEXT" --repo DIR')
    if stays:
        err.print("  The stack stays up; Ctrl-C ends it.")
    else:
        err.print(f"  The stack ends here. See it again: {program()} up --data-dir {running.data_dir}")
