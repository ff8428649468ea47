"""`dev-tools console`: let people into the console."""

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Annotated, TypeVar

import typer

from devtools_platform.app.home import Home
from devtools_platform.cli.connection import AsJson
from devtools_platform.cli.output import err, out, print_json
from devtools_platform.cli.stack import DataDir, stack_settings

app = typer.Typer(no_args_is_help=True, help="The console, and who may come in.")
Role = Annotated[str, typer.Option(help="viewer, operator or admin.")]
T = TypeVar("T")


@app.command("link")
def link(
    name: Annotated[str | None, typer.Argument(help="Who it is for. By default you.")] = None,
    role: Role = "admin",
    data_dir: DataDir = None,
    as_json: AsJson = False,
) -> None:
    """A link that signs somebody in once, within a quarter of an hour."""
    from devtools_platform.app.console import invite  # takes a second to import: only where it is run

    home = Home.of(stack_settings(data_dir))
    made = asyncio.run(invite(home.read_announcement()["urls"]["console"], home.secret("token"), name, role))
    if as_json:
        print_json(made)
        return
    typer.echo(made["url"])
    err.print(f"For {made['name']} as {made['role']}; it works once, for {made['expires_in_s'] // 60} minutes.")


@app.command("token")
def token(
    name: Annotated[str, typer.Argument(help="Who will use it.")],
    role: Role = "viewer",
    days: Annotated[float, typer.Option(help="How long it lasts, at most 366.")] = 30,
    data_dir: DataDir = None,
    as_json: AsJson = False,
) -> None:
    """Make a token to sign in with. It is shown once and stored as a hash."""
    from devtools_platform.app.console_people import create_token

    facts, text = _run(data_dir, lambda home: create_token(home, name, role, days))
    if as_json:
        print_json({**facts, "token": text})
        return
    typer.echo(text)
    err.print(f"{facts['id']}: {facts['name']} as {facts['role']}, until {facts['expires_at']}. It is not shown again.")


@app.command("tokens")
def tokens(data_dir: DataDir = None, as_json: AsJson = False) -> None:
    """All tokens that were made: who, which role, whether still valid."""
    from devtools_platform.app.console_people import list_tokens

    found = _run(data_dir, list_tokens)
    if as_json:
        print_json(found)
        return
    for one in found:
        state = "valid" if one["is_valid"] else "ended"
        out.print(f"{one['id']}  {one['name']:<24} {one['role']:<9} {state}", markup=False)
    if not found:
        err.print("No token was made yet: dev-tools console token NAME --role ROLE")


@app.command("revoke")
def revoke(
    id_: Annotated[str, typer.Argument(metavar="ID")], data_dir: DataDir = None, as_json: AsJson = False
) -> None:
    """End a token now, and every session that began with it."""
    from devtools_platform.app.console_people import revoke_token

    ended = _run(data_dir, lambda home: revoke_token(home, id_))
    if as_json:
        print_json(ended)
    else:
        out.print(f"The token of {ended['name']} has ended.", markup=False)


def _run(data_dir: Path | None, action: Callable[[Home], Awaitable[T]]) -> T:
    async def run() -> T:
        return await action(Home.of(stack_settings(data_dir)))

    return asyncio.run(run())
