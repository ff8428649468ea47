"""`dev-tools webhooks`: who outside is told of tasks, signed as Standard Webhooks has it."""

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Annotated, TypeVar

import typer

from devtools_platform.app.home import Home
from devtools_platform.cli.connection import AsJson
from devtools_platform.cli.output import err, out, print_json
from devtools_platform.cli.stack import DataDir, stack_settings

app = typer.Typer(no_args_is_help=True, help="Tell other programs of tasks.")
Id = Annotated[str, typer.Argument(metavar="ID")]
T = TypeVar("T")


@app.command("add")
def add(
    url: Annotated[str, typer.Argument(help="Where it is sent: https://example.org/hooks")],
    event: Annotated[
        list[str] | None, typer.Option(help="Only this event, such as `task.finished`. Repeatable; all by default.")
    ] = None,
    data_dir: DataDir = None,
    as_json: AsJson = False,
) -> None:
    """Tell an address of tasks from now on. Shows the secret its signatures are checked with."""
    from devtools_platform.app.webhooks import add_webhook  # takes a second to import: only where it is run

    made = _run(data_dir, lambda home: add_webhook(home, url, event or []))
    if as_json:
        print_json(made)
        return
    out.print(f"{made['id']}  {made['url']}  {', '.join(made['events'])}", markup=False)
    typer.echo(made["secret"])
    err.print(f"The second line is its secret; it is not shown again. Next: dev-tools webhooks test {made['id']}")


@app.command("list")
def list_(data_dir: DataDir = None, as_json: AsJson = False) -> None:
    """Who is told, and of what."""
    from devtools_platform.app.webhooks import list_webhooks

    found = _run(data_dir, list_webhooks)
    if as_json:
        print_json(found)
        return
    for one in found:
        out.print(f"{one['id']}  {one['url']}  {', '.join(one['events'])}", markup=False)
    if not found:
        err.print("Nobody is told yet: dev-tools webhooks add URL")


@app.command("remove")
def remove(id_: Id, data_dir: DataDir = None, as_json: AsJson = False) -> None:
    """Send nothing there any more."""
    from devtools_platform.app.webhooks import remove_webhook

    ended = _run(data_dir, lambda home: remove_webhook(home, id_))
    if as_json:
        print_json(ended)
    else:
        out.print(f"{ended['url']} is not told any more.", markup=False)


@app.command("test")
def send_test(id_: Id, data_dir: DataDir = None, as_json: AsJson = False) -> None:
    """Send one signed message now and show what is answered. Exit code 1 when that is not 2xx."""
    from devtools_platform.app.webhooks import try_webhook

    settings = stack_settings(data_dir)
    told = asyncio.run(try_webhook(settings, Home.of(settings), id_))
    if as_json:
        print_json(told)
    else:
        out.print(f"{told['url']} answered HTTP {told['status']} in {told['duration_s']:.2f} s", markup=False)
    if not 200 <= told["status"] < 300:  # noqa: PLR2004 - HTTP's own numbers
        raise typer.Exit(1)


def _run(data_dir: Path | None, action: Callable[[Home], Awaitable[T]]) -> T:
    async def run() -> T:
        return await action(Home.of(stack_settings(data_dir)))

    return asyncio.run(run())
