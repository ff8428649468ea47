"""`dev-tools up` and `dev-tools doctor`."""

import asyncio
import signal
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, get_args

import typer
from rich.text import Text

from devtools_platform.app.releases import Release, current_release
from devtools_platform.cli.apart import become
from devtools_platform.cli.output import err, out, print_json, program, progress
from devtools_platform.config import Settings, load_settings
from devtools_platform.config.settings import Service
from devtools_platform.core.errors import BadInput

if TYPE_CHECKING:
    from devtools_platform.app.stack import Running

SERVICES: tuple[Service, ...] = get_args(Service)
PORTS = ("gateway_port", "context_port", "state_port", "console_port", "agents_port", "webhook_port")
DataDir = Annotated[Path | None, typer.Option("--data-dir", help="Where the stack keeps its data.")]


def up(
    data_dir: DataDir = None,
    host: Annotated[str | None, typer.Option(help="Address to listen on.")] = None,
    free_ports: Annotated[bool, typer.Option("--free-ports", help="Take any free ports.")] = False,
    only: Annotated[str | None, typer.Option(help=f"Only these services, by comma: {', '.join(SERVICES)}.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print where it listens as JSON, then keep running.")] = False,
) -> None:
    """Start all services in this terminal; Ctrl-C ends them.

    With `--only` one or a few of them, as in a container: they find the others by DEV_TOOLS_GATEWAY_URL and its like.
    """
    services = read_services(only)
    settings = stack_settings(data_dir, host=host, free_ports=free_ports)
    if only is not None:
        become(_overrides(data_dir, host, free_ports=free_ports), services, as_json=as_json)
    from devtools_platform.app.serving import run  # takes seconds to import: only where it is run

    run(_up(settings, services, as_json=as_json))


def stack_settings(data_dir: Path | None, *, host: str | None = None, free_ports: bool = False) -> Settings:
    """The settings with this command's flags on top."""
    return load_settings(_overrides(data_dir, host, free_ports=free_ports))


def _overrides(data_dir: Path | None, host: str | None, *, free_ports: bool) -> dict[str, Any]:
    overrides: dict[str, Any] = {"data_dir": data_dir and data_dir.absolute(), "host": host}
    return overrides | (dict.fromkeys(PORTS, 0) if free_ports else {})


def read_services(text: str | None) -> frozenset[Service]:
    """Names by comma; all for None. Raises `BadInput` for one that is none."""
    if text is None:
        return frozenset(SERVICES)
    names = {name.strip() for name in text.split(",") if name.strip()}
    unknown = sorted(names - set(SERVICES))
    if unknown or not names:
        raise BadInput(
            f"{', '.join(map(repr, unknown)) or repr(text)} is no service; they are {', '.join(SERVICES)}.",
            hint="dev-tools up --only gateway",
        )
    return frozenset(name for name in SERVICES if name in names)


async def _up(settings: Settings, services: frozenset[Service], *, as_json: bool) -> None:
    from devtools_platform.app.stack import Stack, facts_of  # takes seconds to import: only where it is run

    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for name in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(name, stop.set)
    async with Stack(settings, progress, services).run() as running:
        if as_json:
            print_json(facts_of(running))
            sys.stdout.flush()
        else:
            _greet(running)
        await stop.wait()
        err.print("  stopping")
    err.print("  stopped")


def _greet(running: "Running") -> None:
    err.print(Text(f"  up in {running.started_in_s:.1f} s. Ctrl-C ends it.", style="bold green"))
    if running.console_link is None:
        return
    typer.echo(f"\n  console  {running.console_link}")
    typer.echo(f'  try      {program()} task run "Fix the failing test" --repo DIR\n')


def doctor(data_dir: DataDir = None, as_json: Annotated[bool, typer.Option("--json")] = False) -> None:
    """Check what a stack needs; say what is missing, what will be before long, and the command that mends it.

    Ends with 1 when something must be mended.
    """
    from devtools_platform.app.doctor import examine

    checks = asyncio.run(examine(stack_settings(data_dir)))
    if as_json:
        print_json([vars(check) for check in checks])
    else:
        for check in checks:
            mark = (
                ("FIX  ", "bold red") if not check.is_ok else ("SOON ", "yellow") if check.fix else ("ok   ", "green")
            )
            out.print(Text.assemble(mark, (f"{check.name:<15}", "bold"), check.found))
            if check.fix:
                out.print(Text(f"    -> {check.fix}"))
    if not all(check.is_ok for check in checks):
        raise typer.Exit(1)


def release() -> Release:
    return current_release()
