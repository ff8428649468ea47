"""`dev-tools agents`: who is in the crew, what each runs on, and the managed ones at DigitalOcean."""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import asdict
from datetime import timedelta
from typing import Annotated, Any, TypeVar, get_args

import typer
from rich.text import Text

from devtools_platform.cli.output import no_progress, out, print_json, progress
from devtools_platform.cli.stack import DataDir, stack_settings
from devtools_platform.config import Settings
from devtools_platform.config.environments import EnvironmentName
from devtools_platform.core.errors import BadInput

app = typer.Typer(no_args_is_help=True, help="The crew: what each agent runs on, and the managed ones.")
AsJson = Annotated[bool, typer.Option("--json", help="Print the result as JSON.")]
Env = Annotated[str | None, typer.Option("--env", help="The environment; by default this stack's.")]
T = TypeVar("T")

FAILED = 1


def _environment(settings: Settings, given: str | None) -> EnvironmentName:
    for known in get_args(EnvironmentName):
        if known == (given or settings.environment):
            return known
    raise BadInput(f"There is no environment {given!r}.", hint=f"One of {', '.join(get_args(EnvironmentName))}.")


def environment_settings(data_dir: Any, env: str | None) -> Settings:
    """The settings, of the environment that `--env` names."""
    settings = stack_settings(data_dir)
    return settings.model_copy(update={"environment": _environment(settings, env)})


def _with_sync(data_dir: Any, env: str | None, act: Callable[[Any], Awaitable[T]], *, as_json: bool) -> T:
    from devtools_platform.app.agent_sync import AgentSync

    async def run() -> T:
        settings = environment_settings(data_dir, env)
        tell = no_progress if as_json else progress
        async with AgentSync.open(settings, settings.environment, tell) as sync:
            return await act(sync)

    return asyncio.run(run())


def _line(name: str, state: str, text: str) -> None:
    out.print(Text.assemble((f"{name:<18} ", "bold"), (f"{state:<12} ", "cyan"), text))


@app.command("list")
def list_agents(env: Env = None, data_dir: DataDir = None, as_json: AsJson = False) -> None:
    """Every agent, and what the environments file has it run on."""
    from devtools_platform.app.runtimes import describe_runtimes

    listed = describe_runtimes(environment_settings(data_dir, env))
    if as_json:
        print_json(listed)
        return
    for one in listed:
        chain = ", then ".join(_words(runtime) for runtime in one["runtimes"])
        _line(one["name"], "", f"{chain:<46} {one['role']}")


def _words(runtime: dict[str, Any]) -> str:
    return " ".join(str(part) for part in (runtime["runtime"], runtime.get("model")) if part)


@app.command("sync")
def sync(
    env: Env = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what would be done.")] = False,
    wait_s: Annotated[float, typer.Option("--wait", min=0, help="Seconds to wait until all are running.")] = 0,
    data_dir: DataDir = None,
    as_json: AsJson = False,
) -> None:
    """Make the managed agents what the environments file says. Needs the running stack, whose gateway they get."""

    async def act(sync: Any) -> tuple[list[Any], bool]:
        changes = await sync.sync(is_dry=dry_run)
        return changes, wait_s == 0 or dry_run or await sync.wait(wait_s)

    changes, is_well = _with_sync(data_dir, env, act, as_json=as_json)
    if as_json:
        print_json([asdict(change) for change in changes])
    else:
        for change in changes:
            _line(change.name, change.action, "; ".join(change.why) or "as it should be")
    if not is_well:
        raise typer.Exit(FAILED)


@app.command("status")
def status(env: Env = None, data_dir: DataDir = None, as_json: AsJson = False) -> None:
    """The managed agents as DigitalOcean has them now. Ends with 1 when one is not running."""
    listed = _with_sync(data_dir, env, lambda sync: sync.status(), as_json=as_json)
    if as_json:
        print_json(listed)
    else:
        for one in listed:
            state = (one["status"] or "missing").removeprefix("STATUS_").lower()
            private = (one["visibility"] or "").removeprefix("VISIBILITY_").lower()
            _line(one["name"], state, " ".join(part for part in (one["model"], private, one["url"]) if part))
    if any(one["status"] != "STATUS_RUNNING" for one in listed):
        raise typer.Exit(FAILED)


@app.command("rotate-keys")
def rotate_keys(
    env: Env = None,
    overlap_s: Annotated[
        float | None, typer.Option("--overlap", min=0, help="Seconds the old keys count on; by default one model call.")
    ] = None,
    older_than: Annotated[float, typer.Option("--older-than", min=0, help="Only keys older than these days.")] = 0,
    data_dir: DataDir = None,
    as_json: AsJson = False,
) -> None:
    """New access keys for the managed agents; the running stack takes them at its next call."""

    async def act(sync: Any) -> list[Any]:
        overlap = sync.settings.model_timeout_s if overlap_s is None else overlap_s
        return await sync.rotate_keys(overlap, older_than=timedelta(days=older_than))

    rotated = _with_sync(data_dir, env, act, as_json=as_json)
    if as_json:
        print_json(rotated)
    else:
        for one in rotated:
            _line(one["name"], "rotated", f"{one['ended'] or 'no key'} ended, {one['new']} counts")


@app.command("versions")
def versions(agent: str, env: Env = None, data_dir: DataDir = None, as_json: AsJson = False) -> None:
    """The versions of a managed agent, the newest first."""
    listed = _with_sync(data_dir, env, lambda sync: sync.versions(agent), as_json=as_json)
    if as_json:
        print_json([version.model_dump(mode="json") for version in listed])
        return
    for version in listed:
        state = "in force" if version.currently_applied else ""
        _line(version.version_hash[:16], state, f"{version.created_at or ''} {version.trigger_action or ''}")


@app.command("rollback")
def roll_back(
    agent: str,
    to: Annotated[str | None, typer.Option("--to", help="A version's whole hash; by default the one before.")] = None,
    env: Env = None,
    data_dir: DataDir = None,
    as_json: AsJson = False,
) -> None:
    """Put an earlier version of a managed agent in force. The next `sync` makes it what the definition says again."""
    version = _with_sync(data_dir, env, lambda sync: sync.roll_back(agent, to), as_json=as_json)
    if as_json:
        print_json(version.model_dump(mode="json"))
    else:
        out.print(f"{agent} is back at version {version.version_hash[:16]}.")


@app.command("test")
def ask_agent(agent: str, env: Env = None, data_dir: DataDir = None, as_json: AsJson = False) -> None:
    """Ask one agent's runtimes, each in turn, for one word: does it answer, and how fast?"""
    from devtools_platform.app.agent_probe import probe_runtimes

    tell = no_progress if as_json else progress
    results = asyncio.run(probe_runtimes(environment_settings(data_dir, env), agent, tell))
    if as_json:
        print_json([asdict(result) for result in results])
    else:
        for result in results:
            said = f"{result.text!r} in {result.duration_s:.1f} s" if result.ok else f"{result.text} {result.hint}"
            _line(result.runtime, "ok" if result.ok else "failed", said)
    if not results[0].ok:
        raise typer.Exit(FAILED)
