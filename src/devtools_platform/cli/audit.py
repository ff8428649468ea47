"""`dev-tools audit`: who did what, and whether the record of it is whole."""

import asyncio
from pathlib import Path
from typing import Annotated, Any

import typer

from devtools_platform.app.gateway_client import GatewayRest
from devtools_platform.app.home import Home
from devtools_platform.cli.connection import AsJson, running_stack
from devtools_platform.cli.output import err, out, print_json
from devtools_platform.cli.stack import DataDir, stack_settings

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
    """Check every link of both chains, what people did and what was called. Exit code 1 when one does not hold."""
    chains = asyncio.run(_chains(data_dir))
    if as_json:
        print_json(chains)
    else:
        for name, chain in chains.items():
            _show(name, chain)
        err.print("Keep the heads elsewhere: later chains must still contain them.")
    if any(chain["broken_at"] is not None for chain in chains.values()):
        raise typer.Exit(1)


async def _chains(data_dir: Path | None) -> dict[str, Any]:
    client = running_stack(data_dir)
    gateway = GatewayRest.of(Home.of(stack_settings(data_dir)))
    return {"people": await client.verify_audit(), "calls": await gateway.send("GET", "/audit/verification")}


def _show(name: str, chain: dict[str, Any]) -> None:
    if chain["broken_at"] is None:
        out.print(f"{name}: whole, {chain['entries']} entries\n  head {chain['head']}")
        return
    problem = chain.get("problem") or "It does not follow from the one before."
    text = f"{name}: BROKEN at entry {chain['broken_at']}: {problem}\n  last good hash {chain['head']}"
    out.print(text, markup=False)
