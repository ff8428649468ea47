"""`dev-tools state`: the stack's database into a file, and back."""

import asyncio
from pathlib import Path
from typing import Annotated

import typer

from devtools_platform.cli.connection import AsJson
from devtools_platform.cli.output import err, no_progress, print_json, program, progress
from devtools_platform.cli.stack import DataDir, stack_settings

app = typer.Typer(no_args_is_help=True, help="The stack's database: backup and restore.")


@app.command("backup")
def backup(
    file: Annotated[Path, typer.Argument(help="Where to write it; an older file of that name is replaced.")],
    data_dir: DataDir = None,
    as_json: AsJson = False,
) -> None:
    """Write the database to a file, also while tasks run: tasks, approvals, audit, traces and workflow histories."""
    from devtools_platform.app.backup import Backup  # takes seconds to import: only where it is run

    work = Backup(stack_settings(data_dir), no_progress if as_json else progress)
    size = asyncio.run(work.save(file.absolute()))
    if as_json:
        print_json({"file": str(file.absolute()), "bytes": size})
    else:
        err.print(f"  {file} written, {size} bytes; only you can read it", markup=False)


@app.command("restore")
def restore(
    file: Annotated[Path, typer.Argument(help="A file that `state backup` has written.")],
    replace: Annotated[
        bool, typer.Option("--replace", help="Also where the database holds tasks; they are backed up first.")
    ] = False,
    data_dir: DataDir = None,
    as_json: AsJson = False,
) -> None:
    """Put a backup in place of the database, wholly or not at all. The stack must be down."""
    from devtools_platform.app.backup import Backup  # takes seconds to import: only where it is run

    work = Backup(stack_settings(data_dir), no_progress if as_json else progress)
    restored = asyncio.run(work.restore(file.absolute(), replace=replace))
    kept = restored.safety_backup
    if as_json:
        print_json({"tasks": restored.tasks, "safety_backup": None if kept is None else str(kept)})
        return
    err.print(f"  {restored.tasks} tasks restored from {file}", markup=False)
    if kept is not None:
        err.print(f"  What was there before is in {kept}", markup=False)
    err.print(f"  Start the stack: {program()} up", markup=False)
