"""`dev-tools host` and `dev-tools debug`: the droplets themselves, and a service on them that is in trouble."""

import asyncio
import time
from pathlib import Path
from typing import Annotated, Any

import typer

from devtools_platform.app.host_program import bootstrap_script, read_ssh_key
from devtools_platform.cli.connection import AsJson
from devtools_platform.cli.output import err, out, print_json, write_file
from devtools_platform.cli.release import delivery

app = typer.Typer(no_args_is_help=True, help="Prepare a droplet, and check it.")


@app.command("bootstrap")
def bootstrap(
    ssh_key: Annotated[Path, typer.Option("--ssh-key", help="The deployer's public SSH key.")],
    file: Annotated[Path | None, typer.Option("--out", help="Write the script here instead of printing it.")] = None,
    as_json: AsJson = False,
) -> None:
    """Print the script that prepares a droplet. Read it, then run it there as root; it may be run again."""
    works = delivery(as_json=as_json)
    releases = works.releases()
    script = bootstrap_script(
        application=releases.application,
        registry=releases.prefix,
        release_key=works.public_key(),
        ssh_key=read_ssh_key(ssh_key),
    )
    if file is not None:
        write_file(file, script)
        file.chmod(0o700)
    if as_json:
        print_json({"script": script if file is None else str(file)})
    elif file is None:
        out.print(script, markup=False)
    else:
        err.print(f"  next: ssh root@HOST sh -s < {file}")


@app.command("check")
def check(
    host: Annotated[str | None, typer.Argument(help="A host of the inventory; all by default.")] = None,
    as_json: AsJson = False,
) -> None:
    """Whether each host could take a rollout now: engine, compose, disk, clock, Caddy."""
    found = asyncio.run(delivery(as_json=as_json).rollouts(host).check(time.time()))
    if as_json:
        print_json(found)
        return
    for name, facts in found.items():
        out.print(f"ok  {name:<16} " + ", ".join(f"{key} {value}" for key, value in facts.items()), markup=False)


def debug(
    service: Annotated[str, typer.Argument(help="A service of the release or of the data project, or an agent.")],
    host: Annotated[str | None, typer.Option("--host", help="Only this host.")] = None,
    lines: Annotated[int, typer.Option(min=1, max=2000, help="Log lines to show.")] = 100,
    as_json: AsJson = False,
) -> None:
    """What the hosts know of a service: state, health log, last lines, release, ports, disk, recent audit."""
    found = asyncio.run(delivery(as_json=as_json).rollouts(host).debug(service, lines))
    if as_json:
        print_json(found)
        return
    for name, facts in found.items():
        _show(name, facts)


def _show(host: str, facts: dict[str, Any]) -> None:
    current = facts["current"]
    out.print(
        f"{host}: release {current['seq'] if current else 'none'} on {facts['live']}, engine {facts['engine']}, "
        f"{facts['free_mb']} MB free",
        markup=False,
    )
    for one in facts["containers"]:
        mark = {True: "", False: " (not the current release)", None: ""}[one["is_current"]]
        out.print(f"  {one['project']}: {one['state']}, {one['restarts']} restarts, release {one['release']}{mark}")
        out.print(f"    image {one['image']}\n    ports {one['ports']}", markup=False)
        for entry in one["health"]:
            out.print(f"    health {entry['exit_code']} {entry['output']}", markup=False)
        out.print("    " + one["log"].rstrip().replace("\n", "\n    "), markup=False)
    for entry in facts["audit"]:
        out.print(
            f"  audit {entry['seq']} {entry['actor']} {entry['action']} {entry['data'].get('seq', '')}", markup=False
        )
