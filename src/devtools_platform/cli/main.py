"""Every error ends with the next command; every command has `--json`.

Exit codes: 0 done; 20 a task ended without a branch, a review that blocks, or a replay that departs; 21 a rollout
was undone; 2-11 see `core.errors`; 130 interrupted.
"""

import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from devtools_platform import __version__
from devtools_platform.cli import (
    agents,
    audit,
    backup,
    console,
    context,
    cost,
    demo,
    dev,
    history,
    host,
    integrations,
    migrate,
    model,
    release,
    review,
    rollout,
    stack,
    task,
    tools,
    traces,
    webhooks,
    worker,
)
from devtools_platform.cli.output import fail, print_json
from devtools_platform.config import explain, find_problems, load_settings
from devtools_platform.core.errors import BadInput, DevToolsError, NotFound

app = typer.Typer(no_args_is_help=True, pretty_exceptions_enable=False, rich_markup_mode=None, help=__doc__)
app.add_typer(task.app, name="task")
app.add_typer(worker.app, name="worker")
app.add_typer(history.app, name="eval")
app.add_typer(audit.app, name="audit")
app.add_typer(backup.app, name="backup")
app.command("restore")(backup.restore)
app.add_typer(console.app, name="console")
app.add_typer(context.app, name="context")
app.add_typer(cost.app, name="cost")
app.add_typer(traces.app, name="traces")
app.add_typer(model.app, name="model")
app.add_typer(migrate.app, name="migrate")
app.add_typer(integrations.app, name="integrations")
app.add_typer(webhooks.app, name="webhooks")
app.add_typer(dev.app, name="dev")
app.add_typer(tools.app, name="tools")
app.add_typer(agents.app, name="agents")
app.add_typer(tools.token_app, name="token")
app.add_typer(release.app, name="release")
app.add_typer(rollout.app, name="rollout")
app.add_typer(host.app, name="host")
app.command("debug")(host.debug)
app.command("up")(stack.up)
app.command("doctor")(stack.doctor)
app.command("demo")(demo.demo)
app.command("review")(review.review)

config = typer.Typer(no_args_is_help=True, help="Settings.")
app.add_typer(config, name="config")


@config.command("show")
def show_config(as_json: Annotated[bool, typer.Option("--json")] = False) -> None:
    """Every setting and its present value; secrets are shown as ***."""
    settings = load_settings()
    values = {name: _shown(getattr(settings, name)) for name in type(settings).model_fields}
    if as_json:
        print_json(values)
        return
    for name, value in values.items():
        typer.echo(f"DEV_TOOLS_{name.upper():28} {'' if value is None else value}")


@config.command("explain")
def explain_config(
    name: Annotated[str | None, typer.Argument(help="A part of a setting's name; by default all.")] = None,
    as_json: Annotated[bool, typer.Option("--json")] = False,
) -> None:
    """What each setting means, its present value, and where that came from."""
    found = [one for one in explain(load_settings()) if name is None or name.lower() in one.variable.lower()]
    if not found:
        raise NotFound(f"No setting's name contains {name!r}.", hint="Run `dev-tools config show` for all of them.")
    if as_json:
        print_json([vars(one) for one in found])
        return
    for one in found:
        typer.echo(f"{one.variable} = {'(not set)' if one.value is None else one.value}  [{one.source}]")
        if one.meaning:
            typer.echo(f"    {one.meaning}")


@config.command("check")
def check_config(as_json: Annotated[bool, typer.Option("--json")] = False) -> None:
    """Whether the settings can be used: every name known, every value valid, nothing half. Exit code 2 when not."""
    settings = load_settings(check_names=False)
    changed, problems = [one for one in explain(settings) if one.source != "default"], find_problems(settings)
    if as_json:
        facts = {"ok": not problems, "set": [one.variable for one in changed], "problems": [vars(p) for p in problems]}
        print_json(facts)
    for problem in () if as_json else problems:
        typer.echo(f"FIX  {problem.what}\n     -> {problem.hint}", err=True)
    if problems:
        raise typer.Exit(BadInput.exit_code)
    if as_json:
        return
    typer.echo(f"The settings can be used; {len(changed)} differ from their defaults.")
    for one in changed:
        typer.echo(f"  {one.variable} = {'(not set)' if one.value is None else one.value}  [{one.source}]")


def _shown(value: Any) -> Any:
    if isinstance(value, Path):
        return str(value)
    return "***" if value is not None and hasattr(value, "get_secret_value") else value


@app.command("version")
def show_version(as_json: Annotated[bool, typer.Option("--json")] = False) -> None:
    """The version and the commit it was built from."""
    release = stack.release()
    if as_json:
        print_json({"version": release.version, "git_sha": release.git_sha})
    else:
        typer.echo(f"dev-tools {__version__} ({release.git_sha or 'no commit known'})")


def main() -> None:
    """Run the command; turn an expected error into its message, hint and exit code."""
    try:
        app()
    except DevToolsError as error:
        fail(error, as_json="--json" in sys.argv)
