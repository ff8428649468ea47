"""`dev-tools migrate`: from self-hosted agent containers to managed agents, and back."""

import asyncio
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.text import Text

from devtools_platform.cli.agents import AsJson, Env, environment_settings
from devtools_platform.cli.output import err, no_progress, out, print_json, progress
from devtools_platform.cli.stack import DataDir
from devtools_platform.core.errors import BadInput, Forbidden

if TYPE_CHECKING:
    from devtools_platform.app.migration import Migration, Plan
    from devtools_platform.app.self_hosted import SelfHosted

app = typer.Typer(no_args_is_help=True, help="From self-hosted agent containers to managed agents, and back.")
Inspect = Annotated[
    list[Path] | None, typer.Option("--inspect", help="A file of what `docker inspect` printed; may be repeated.")
]
Compose = Annotated[Path | None, typer.Option("--compose", help="The compose file of the stack instead.")]


def _migration(data_dir: Path | None, env: str | None, *, as_json: bool) -> "Migration":
    from devtools_platform.app.migration import Migration  # takes seconds to import: only where it is run

    return Migration(environment_settings(data_dir, env), no_progress if as_json else progress)


def _read(inspect: list[Path] | None, compose: Path | None) -> "SelfHosted":
    from devtools_platform.app.self_hosted import read_compose, read_inspect

    if bool(inspect) == (compose is not None):
        raise BadInput(
            "Say where the containers are described: --inspect or --compose.",
            hint="docker inspect $(docker ps -aq) > inspect.json; dev-tools migrate plan --inspect inspect.json",
        )
    return (
        read_compose(_text(compose)) if compose is not None else read_inspect([_text(file) for file in inspect or []])
    )


def _text(file: Path) -> str:
    try:
        return file.read_text()
    except (OSError, UnicodeDecodeError) as error:
        raise BadInput(f"{str(file)!r} cannot be read: {error}.", hint="Give a file you can read.") from None


@app.command("draft")
def draft(
    file: Annotated[Path, typer.Argument(help="Where to write it; nothing is overwritten.")],
    project_id: Annotated[str, typer.Option(help="The DigitalOcean project the agents will be in.")],
    gateway_url: Annotated[str, typer.Option(help="The gateway's MCP address: https://tools.example.org/mcp.")],
    inspect: Inspect = None,
    compose: Compose = None,
    env: Env = None,
    data_dir: DataDir = None,
    as_json: AsJson = False,
) -> None:
    """An environments file to begin with, models renamed to those there are today. Look at it first."""
    from devtools_platform.app.self_hosted import draft_environments

    text = draft_environments(
        _read(inspect, compose), environment_settings(data_dir, env).environment, project_id, gateway_url
    )
    try:
        with file.open("x") as written:
            written.write(text)
    except OSError as error:
        raise BadInput(
            f"{str(file)!r} cannot be written: {error.strerror}.", hint="Give a file that is not there."
        ) from None
    if as_json:
        print_json({"file": str(file.absolute()), "text": text})
    else:
        typer.echo(text)
        err.print(f"  export DEV_TOOLS_ENVIRONMENTS_FILE={file.absolute()}", markup=False)


@app.command("plan")
def plan(
    inspect: Inspect = None,
    compose: Compose = None,
    env: Env = None,
    data_dir: DataDir = None,
    as_json: AsJson = False,
) -> None:
    """What `run` would do, and to what. Changes nothing."""
    found = _read(inspect, compose)
    shown = asyncio.run(_migration(data_dir, env, as_json=as_json).plan(found))
    if as_json:
        print_json(asdict(shown))
    else:
        _show(shown)


@app.command("run")
def run(
    inspect: Inspect = None,
    compose: Compose = None,
    env: Env = None,
    wait_s: Annotated[float, typer.Option("--wait", min=0, help="Seconds to wait until all are running.")] = 600,
    yes: Annotated[bool, typer.Option("--yes", help="Do it without asking.")] = False,
    data_dir: DataDir = None,
    as_json: AsJson = False,
) -> None:
    """Make the managed agents, test each, and only then stop the agent containers. May be run again after a failure."""
    found, work = _read(inspect, compose), _migration(data_dir, env, as_json=as_json)
    if not yes:
        _show(asyncio.run(work.plan(found)))
        if as_json or not typer.confirm("Do this?"):
            raise Forbidden("Nothing was done.", hint="Say --yes if you mean it.")
    done = asyncio.run(work.run(found, wait_s=wait_s))
    if as_json:
        print_json(asdict(done))
        return
    for agent, answer in done.answers.items():
        _line(agent, "answers", f"{answer.text!r} in {answer.duration_s:.1f} s")
    out.print(f"Stopped: {', '.join(done.stopped)}. They stay, for `dev-tools migrate back`.", markup=False)
    out.print(f"What they were told is in {done.exported}, secrets left out.", markup=False)


@app.command("back")
def back(
    env: Env = None,
    keep_managed: Annotated[bool, typer.Option("--keep-managed", help="Do not delete the managed agents.")] = False,
    data_dir: DataDir = None,
    as_json: AsJson = False,
) -> None:
    """Start the containers as they were; when all run, delete the managed agents that the migration made."""
    record = asyncio.run(_migration(data_dir, env, as_json=as_json).back(keep_managed=keep_managed))
    if as_json:
        print_json(asdict(record))
        return
    out.print(f"Started again: {', '.join(one.name for one in record.stopped)}.", markup=False)
    err.print("  Take the runtime `gradient` out of your environments file, then restart the stack.")


@app.command("status")
def status(env: Env = None, data_dir: DataDir = None, as_json: AsJson = False) -> None:
    """How far a migration has come."""
    record = _migration(data_dir, env, as_json=as_json).find_record()
    facts: dict[str, Any] = {"phase": "none"} if record is None else asdict(record)
    if as_json:
        print_json(facts)
    else:
        out.print(facts["phase"] + "".join(f"\n  {one['name']} stopped" for one in facts.get("stopped", ())))


def _show(plan: "Plan") -> None:
    changes = {change.agent: change for change in plan.changes}
    for agent, container in plan.agents.items():
        change = changes[agent]
        had = f"{container.model} in {container.name}" if container.model else container.name
        _line(agent, change.action, f"{had} -> {change.name}: {'; '.join(change.why) or 'as it should be'}")
        if container.secrets:
            _line("", "", f"not taken over: {', '.join(container.secrets)}")
    _line("stay", "", ", ".join(plan.kept) or "nothing else is named")


def _line(name: str, state: str, text: str) -> None:
    out.print(Text.assemble((f"{name:<18} ", "bold"), (f"{state:<9} ", "cyan"), text))
