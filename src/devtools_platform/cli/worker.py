"""`dev-tools worker`: one more process that works, and who works now."""

import asyncio
import json
import signal
import sys
from typing import Annotated, get_args

import typer

from devtools_platform.cli.connection import AsJson, running_stack
from devtools_platform.cli.output import err, no_progress, out, print_json, progress
from devtools_platform.cli.stack import DataDir
from devtools_platform.config import Settings, load_settings
from devtools_platform.config.settings import Queue
from devtools_platform.core.errors import BadInput

app = typer.Typer(
    invoke_without_command=True, help="Add a process that works on a running stack's queues, or list those that do."
)
Queues = Annotated[
    str | None, typer.Option("--queues", help=f"What it takes, by comma: {', '.join(get_args(Queue))}. Default: all.")
]


@app.callback()
def worker(context: typer.Context, queues: Queues = None, data_dir: DataDir = None, as_json: AsJson = False) -> None:
    """Work on a running stack's queues until Ctrl-C."""
    if context.invoked_subcommand is None:
        run(queues, data_dir, as_json)


@app.command("run")
def run(queues: Queues = None, data_dir: DataDir = None, as_json: AsJson = False) -> None:
    """Work on a running stack's queues until Ctrl-C. The same as `dev-tools worker` alone."""
    overrides = {"data_dir": data_dir and data_dir.absolute(), "queues": read_queues(queues)}
    asyncio.run(_run(load_settings(overrides), as_json=as_json))


def read_queues(text: str | None) -> tuple[str, ...] | None:
    """Names by comma. Raises `BadInput` for one that is none."""
    if text is None:
        return None
    known = get_args(Queue)
    names = tuple(dict.fromkeys(name.strip() for name in text.split(",") if name.strip()))
    unknown = [name for name in names if name not in known]
    if unknown or not names:
        raise BadInput(
            f"{', '.join(map(repr, unknown)) or repr(text)} is no queue; the queues are {' and '.join(known)}.",
            hint=f"dev-tools worker --queues {','.join(known)}",
        )
    return names


async def _run(settings: Settings, *, as_json: bool) -> None:
    from devtools_platform.app.worker import run_worker  # takes seconds to import: only where it is run

    stop = asyncio.Event()
    for name in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(name, stop.set)
    async with run_worker(settings, no_progress if as_json else progress) as info:
        if as_json:
            sys.stdout.write(json.dumps({"worker": info.id, "queues": list(info.queues)}) + "\n")
            sys.stdout.flush()
        else:
            progress("worker", f"{info.id} works on {' and '.join(info.queues)}. Ctrl-C ends it.")
        await stop.wait()
    if not as_json:
        err.print("  stopped")


@app.command("list")
def list_(data_dir: DataDir = None, as_json: AsJson = False) -> None:
    """Who is alive, and what each holds."""
    workers = asyncio.run(running_stack(data_dir).list_workers())
    if as_json:
        print_json([one.model_dump(mode="json") for one in workers])
        return
    for one in workers:
        silent = "" if one.status == "stopped" else f", silent for {one.silent_s:.1f} s"
        out.print(f"{one.id}  {one.status:<8} {','.join(one.queues)}  process {one.pid} on {one.host}{silent}")
        for held in one.holds:
            out.print(f"    holds {held}")
