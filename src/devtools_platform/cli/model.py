"""`dev-tools model`: the embedded model, fetched once."""

import asyncio
from typing import Annotated

import typer
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TransferSpeedColumn

from devtools_platform.app.embedded import CODER, fetch, find_cached
from devtools_platform.cli.output import err, print_json
from devtools_platform.config import load_settings

app = typer.Typer(no_args_is_help=True, help="The embedded model.")


@app.command("pull")
def pull(
    source: Annotated[str | None, typer.Option(help="A file, a URL or oci://host/repository:tag to try first.")] = None,
    as_json: Annotated[bool, typer.Option("--json")] = False,
) -> None:
    """Fetch the embedded model (about 1 GB) and verify its SHA-256."""
    settings = load_settings()
    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TransferSpeedColumn())
    with Progress(*columns, console=err, disable=as_json) as bar:
        shown = bar.add_task("embedded model", total=None)

        def report(done: int, total: int, what: str) -> None:
            bar.update(shown, completed=done, total=total, description=what)

        work = fetch(settings.cache_dir, source=source or settings.model_source, progress=report)
        path = asyncio.run(work)
    facts = {
        "path": str(path),
        "sha256": CODER.sha256,
        "licence": CODER.licence,
    }
    if as_json:
        print_json(facts)
    else:
        err.print(f"  {path}\n  SHA-256 {facts['sha256']}, {facts['licence']}")


@app.command("show")
def show(as_json: Annotated[bool, typer.Option("--json")] = False) -> None:
    """Whether the embedded model is fetched, and where."""
    settings = load_settings()
    path = find_cached(settings.cache_dir)
    facts = {"name": CODER.name, "path": str(path) if path else None}
    if as_json:
        print_json(facts)
    else:
        typer.echo(f"{facts['name']}: {path or 'not fetched; run `dev-tools model pull`'}")
