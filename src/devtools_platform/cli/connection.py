"""How a command finds the stack it speaks to, and the options that all such commands share."""

from pathlib import Path
from typing import Annotated

import typer

from devtools_platform.app.client import StackClient
from devtools_platform.app.home import Home
from devtools_platform.cli.output import out, print_json
from devtools_platform.cli.stack import stack_settings
from devtools_platform.cli.summary import summarise
from devtools_platform.core.tasks import TaskResult

AsJson = Annotated[bool, typer.Option("--json", help="Print the result as JSON.")]


def running_stack(data_dir: Path | None) -> StackClient:
    """The stack that runs on the data directory. Raises `NotRunning`."""
    return StackClient.of(Home.of(stack_settings(data_dir)))


def show_task(task: TaskResult, *, as_json: bool) -> None:
    if as_json:
        print_json(task.model_dump(mode="json"))
    else:
        out.print(summarise(task))
