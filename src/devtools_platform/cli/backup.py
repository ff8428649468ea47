"""`dev-tools backup` and `dev-tools restore`: everything of a stack into one encrypted file, and back."""

import asyncio
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from devtools_platform.cli.connection import AsJson
from devtools_platform.cli.output import err, no_progress, out, print_json, program, progress
from devtools_platform.cli.stack import DataDir, stack_settings
from devtools_platform.core.errors import BadInput

if TYPE_CHECKING:
    from devtools_platform.app.backup import Backup

app = typer.Typer(no_args_is_help=True, help="Everything of a stack in one encrypted file.")
File = Annotated[Path, typer.Argument(help="A file that `backup create` has written.")]
Key = Annotated[Path, typer.Option("--key", help="The private key's file, as `backup keygen` made it.")]


def _backup(data_dir: Path | None, *, as_json: bool) -> "Backup":
    from devtools_platform.app.backup import Backup  # takes seconds to import: only where it is run

    return Backup(stack_settings(data_dir), no_progress if as_json else progress)


@app.command("keygen")
def keygen(
    file: Annotated[Path, typer.Argument(help="Where to write the private key.")], as_json: AsJson = False
) -> None:
    """A key pair for backups. Keep the private key elsewhere: without it no backup can be read."""
    from devtools_platform.kit.archive import make_key

    public = make_key(file)
    if as_json:
        print_json({"file": str(file.absolute()), "public_key": public})
        return
    out.print(public, markup=False)
    err.print(f"  The private key is in {file}: keep it apart from the backups. To use it every time:", markup=False)
    err.print(f"  export DEV_TOOLS_BACKUP_RECIPIENT={public}", markup=False)


@app.command("create")
def create(
    file: Annotated[Path, typer.Argument(help="Where to write it; an older file of that name is replaced.")],
    to: Annotated[
        str | None, typer.Option("--to", help="The public key; by default DEV_TOOLS_BACKUP_RECIPIENT.")
    ] = None,
    verify_with: Annotated[
        Path | None, typer.Option("--verify", help="A private key: restore the new file in a place of its own at once.")
    ] = None,
    has_index: Annotated[
        bool, typer.Option("--index/--no-index", help="The code index, which can also be made again.")
    ] = True,
    data_dir: DataDir = None,
    as_json: AsJson = False,
) -> None:
    """Write database, index, workspaces, keys, locks and settings to a file, also while tasks run."""
    work = _backup(data_dir, as_json=as_json)
    public_key = to or work.settings.backup_recipient
    if public_key is None:
        raise BadInput(
            "A backup holds every secret of the stack, so it is made for a key.",
            hint="Run `dev-tools backup keygen FILE`, then give --to or set DEV_TOOLS_BACKUP_RECIPIENT.",
        )
    made = asyncio.run(work.create(file.absolute(), public_key, with_index=has_index))
    if not as_json:
        err.print(f"  {file} written, {made.bytes} bytes", markup=False)
    if verify_with is not None:
        _verify(work, file, verify_with, as_json=as_json)
    elif as_json:
        print_json({"file": str(made.file), "bytes": made.bytes, **asdict(made.contents)})


@app.command("verify")
def verify(file: File, key: Key, data_dir: DataDir = None, as_json: AsJson = False) -> None:
    """Restore a backup in a place of its own, look at what came, and throw it away. Ends with 1 when it is no good."""
    _verify(_backup(data_dir, as_json=as_json), file, key, as_json=as_json)


def _verify(work: "Backup", file: Path, key: Path, *, as_json: bool) -> None:
    found = asyncio.run(work.verify(file.absolute(), key))
    if as_json:
        print_json({"file": str(file.absolute()), "bytes": file.stat().st_size, **asdict(found)})
    else:
        chunks = "no index" if found.chunks is None else f"{found.chunks} chunks"
        out.print(
            f"{found.tasks} tasks, {found.audit_entries} audit entries, {found.workspaces} workspaces, {chunks}, "
            f"made {found.contents.created_at:%Y-%m-%d %H:%M} UTC by {found.contents.version}",
            markup=False,
        )
        for problem in found.problems:
            out.print(f"  ! {problem}", markup=False)
    if found.problems:
        raise typer.Exit(1)


def restore(file: File, key: Key, data_dir: DataDir = None, as_json: AsJson = False) -> None:
    """Make an empty data directory the stack that is in a backup. Overwrites nothing; no stack may run there."""
    restored = asyncio.run(_backup(data_dir, as_json=as_json).restore(file.absolute(), key))
    if as_json:
        print_json(asdict(restored))
        return
    chunks = "no index" if restored.chunks is None else f"{restored.chunks} chunks"
    err.print(f"  {restored.tasks} tasks, {restored.workspaces} workspaces, {chunks}", markup=False)
    err.print(f"  Its settings, which nothing reads by itself, are in {restored.settings}", markup=False)
    err.print(f"  Start the stack: {program()} up", markup=False)
