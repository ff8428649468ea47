"""`dev-tools dev`: for work on Dev-Tools itself, from a checkout."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Annotated

import typer

from devtools_platform.core.errors import BadInput

app = typer.Typer(no_args_is_help=True, help="For work on Dev-Tools itself.")


@app.command("fakes")
def fakes(
    folder: Annotated[Path, typer.Option(help="Where the fake GitHub keeps its repositories.")] = Path("fakes"),
    github_port: Annotated[int, typer.Option(min=0, max=65535)] = 0,
    linear_port: Annotated[int, typer.Option(min=0, max=65535)] = 0,
) -> None:
    """Start fakes of GitHub and Linear, print the settings that point a stack at them, and run until Ctrl-C."""
    tests = Path(__file__).parents[3] / "tests"
    if not (tests / "fakes" / "services.py").is_file():
        raise BadInput("The fakes are part of the checkout, not of the package.", hint="Run this from a git clone.")
    command = [sys.executable, "-m", "fakes.services", str(folder.absolute()), str(github_port), str(linear_port)]
    path = os.pathsep.join([str(tests), str(tests.parent / "src")])
    # Only PATH and where Python looks: the fakes need nothing of ours.
    raise typer.Exit(subprocess.run(["env", f"PYTHONPATH={path}", *command], check=False).returncode)
