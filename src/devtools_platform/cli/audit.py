"""`dev-tools audit`: who did what, and whether the record of it is whole."""

import asyncio
from typing import Annotated

import typer

from devtools_platform.cli.connection import AsJson, running_stack
from devtools_platform.cli.output import err, out, print_json
from devtools_platform.cli.stack import DataDir

app = typer.Typer(no_args_is_help=True, help="Who did what.")


@app.command("list")
def list_(
    subject: Annotated[str | None, typer.Option(help="Only about this, for example task:ID or approval:ID.")] = None,
    limit: Annotated[int, typer.Option(min=1, max=500)] = 50,
    data_dir: DataDir = None,
    as_json: AsJson = False,
) -> None:
    """The newest entries first."""
    client = running_stack(data_dir)
    entries = asyncio.run(client.list_audit(subject=subject, limit=limit))
    if as_json:
        print_json(entries)
        return
    for entry in entries:
        at, actor = str(entry["at"])[:19], str(entry["actor"])
        out.print(f"{entry['seq']:>6}  {at}  {actor:<12} {entry['action']:<16} {entry['subject']}", markup=False)
    if not entries:
        err.print("No entries.")


@app.command("verify")
def verify(data_dir: DataDir = None, as_json: AsJson = False) -> None:
    """Check every link of the chain. Exit code 1 when one does not hold."""
    chain = asyncio.run(running_stack(data_dir).verify_audit())
    broken_at = chain["broken_at"]
    if as_json:
        print_json(chain)
    elif broken_at is None:
        out.print(f"whole: {chain['entries']} entries\nhead   {chain['head']}")
        err.print("Keep the head elsewhere: a later chain must still contain it.")
    else:
        out.print(f"BROKEN at entry {broken_at}: {chain['problem']}\nlast good hash {chain['head']}", markup=False)
    if broken_at is not None:
        raise typer.Exit(1)
