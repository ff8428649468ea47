"""`dev-tools integrations`: how GitHub and Linear are connected, and what went wrong there."""

from typing import Annotated, Literal

import typer

from devtools_platform.cli.connection import AsJson
from devtools_platform.cli.output import out, print_json
from devtools_platform.cli.stack import DataDir, stack_settings
from devtools_platform.core.errors import BadInput

app = typer.Typer(no_args_is_help=True, help="GitHub and Linear.")


@app.command("show")
def show(data_dir: DataDir = None, as_json: AsJson = False) -> None:
    """Webhooks and messages by state, and the newest that were given up, with the reason."""
    from devtools_platform.app.integration_status import read_status  # takes seconds to import

    status = read_status(stack_settings(data_dir))
    if as_json:
        print_json(status.as_dict())
        return
    for name, counts in (("webhooks", status.inbox), ("messages", status.outbox)):
        out.print(f"{name:<10} {', '.join(f'{n} {state}' for state, n in sorted(counts.items())) or 'none'}")
    for failure in status.failures:
        out.print(f"  {failure['service']} {failure['what']}: {failure['why']}", markup=False)


@app.command("connect")
def connect(
    service: Annotated[Literal["linear"], typer.Argument(help="GitHub needs no such step: its App has a key.")],
    data_dir: DataDir = None,
    as_json: AsJson = False,
) -> None:
    """The link by which an admin of the workspace lets the agent in. It counts for a quarter of an hour."""
    from devtools_platform.app.home import Home
    from devtools_platform.app.linear_sign_in import authorize_link

    settings = stack_settings(data_dir)
    if settings.linear_client_id is None or settings.public_webhook_url is None:
        raise BadInput(
            "DEV_TOOLS_LINEAR_CLIENT_ID and DEV_TOOLS_PUBLIC_WEBHOOK_URL are needed for the link.",
            hint="See docs/how-to/linear.md.",
        )
    link = authorize_link(settings.linear_client_id, Home.of(settings).secret("secret"), settings.public_webhook_url)
    if as_json:
        print_json({"service": service, "link": link})
    else:
        out.print(link, markup=False)
