"""`dev-tools tools login` and `logout`: a person signs in at a server that wants OAuth."""

import asyncio
import webbrowser
from typing import Annotated, Any

import typer

from devtools_platform.cli.output import err, out, print_json
from devtools_platform.cli.stack import DataDir, stack_settings

Server = Annotated[str, typer.Argument(help="A server of the catalogue that says `auth: oauth`.")]
PORT = 8017
"""One that stays the same: some authorization servers compare the whole address, and registrations are used again."""
AsJson = Annotated[bool, typer.Option("--json", help="Print the result as JSON.")]


def login(
    server: Server,
    scope: Annotated[
        list[str] | None, typer.Option(help="Ask for this scope beside what was granted before; may be repeated.")
    ] = None,
    port: Annotated[int, typer.Option(help="The port of this machine the browser comes back to.")] = PORT,
    no_browser: Annotated[bool, typer.Option("--no-browser", help="Only print the address.")] = False,
    paste: Annotated[
        bool, typer.Option("--paste", help="The browser is on another machine: paste the address it ends up at.")
    ] = False,
    data_dir: DataDir = None,
    as_json: AsJson = False,
) -> None:
    """Sign in at a server, in a browser. The running gateway uses it within seconds."""
    from devtools_platform.app.sign_in import SignIns  # takes long to import: only where it is run

    sign_ins = SignIns.open(stack_settings(data_dir), server)

    def show(url: str) -> None:
        err.print("Open this address to sign in:")
        typer.echo(url, err=True)
        if not no_browser and not paste:
            webbrowser.open(url)

    async def ask() -> str:
        return await asyncio.to_thread(typer.prompt, "The address the browser ended up at", err=True)

    scopes = tuple(part for given in scope or () for part in given.split())
    made = asyncio.run(sign_ins.sign_in(scopes=scopes, port=port, show=show, paste=ask if paste else None))
    facts: dict[str, Any] = {
        "server": server,
        "issuer": made.issuer,
        "client_id": made.client.client_id,
        "scope": made.scope,
        "expires_at": made.expires_at,
        "is_renewed": made.renew_at is not None,
    }
    if as_json:
        print_json(facts)
        return
    out.print(f"Signed in at {server} by {made.issuer}, scope {made.scope or '(the server chose)'}.", markup=False)
    if made.expires_at is not None and made.renew_at is None:
        out.print("It cannot be renewed: sign in again when it has expired.")


def logout(server: Server, data_dir: DataDir = None, as_json: AsJson = False) -> None:
    """Forget the sign-in at a server, and tell its issuer."""
    from devtools_platform.app.sign_in import SignIns

    forgotten = asyncio.run(SignIns.open(stack_settings(data_dir), server).sign_out())
    if as_json:
        print_json([{"issuer": made.issuer, "is_revoked": is_revoked} for made, is_revoked in forgotten])
        return
    for made, is_revoked in forgotten:
        told = "it was revoked there" if is_revoked else "it could not be revoked there"
        out.print(f"The sign-in by {made.issuer} is forgotten; {told}.", markup=False)
    if not forgotten:
        out.print(f"Nobody was signed in at {server}.", markup=False)
