"""`dev-tools task replay` and `dev-tools eval`: tasks gone through again from their records, or done anew."""

import asyncio
from collections.abc import Callable
from typing import Annotated, Any

import typer

from devtools_platform.cli.connection import AsJson
from devtools_platform.cli.output import err, no_progress, out, print_json, progress
from devtools_platform.cli.stack import DataDir, stack_settings

app = typer.Typer(no_args_is_help=True, help="A team's own tasks as the measure of models and prompts.")
DEPARTED = 20


@app.callback()
def group() -> None:
    """Keeps `from-history` a command of its own."""


@app.command("from-history")
def from_history(
    task_ids: Annotated[list[str] | None, typer.Argument(help="Only these tasks; by default the newest.")] = None,
    model: Annotated[str | None, typer.Option(help="Another model at the endpoint the settings name.")] = None,
    limit: Annotated[int, typer.Option(min=1, max=500, help="How many of the newest tasks.")] = 20,
    data_dir: DataDir = None,
    as_json: AsJson = False,
) -> None:
    """Do ended tasks anew with another model, prompt or version, and compare what they come to.

    The settings of this command say what is other: --model, DEV_TOOLS_MODEL_BASE_URL, DEV_TOOLS_AGENT_DEFINITIONS,
    DEV_TOOLS_ROUTING. Works in sandboxed clones at the commits of then; publishes nothing. Model calls cost money.
    """
    from devtools_platform.app.rerun import run_history  # takes a second to import

    settings = stack_settings(data_dir)
    if model is not None:
        settings = settings.model_copy(update={"model": model})
    tell = no_progress if as_json else progress
    found = asyncio.run(run_history(settings, limit, task_ids or [], tell))
    if as_json:
        print_json({**found.model_dump(mode="json"), "summary": found.summary()})
        return
    for one in found.tasks:
        out.print(f"{one.task_id}  {one.text.splitlines()[0][:70]}", markup=False)
        for line in [one.problem] if one.problem else one.differences or ["no difference"]:
            out.print(f"  {line}", markup=False)
    out.print(f"{'':<12}{'solved':>8}{'calls':>8}{'tokens in':>12}{'out':>10}{'cost':>12}{'work s':>10}")
    summary = found.summary()
    for name in ("recorded", "again"):
        row = summary[name]
        figures = [_figure(row[key]) for key in ("model_calls", "input_tokens", "output_tokens", "cost_usd", "work_s")]
        calls, given, made, cost, seconds = figures
        out.print(f"{name:<12}{row['solved']:>8}{calls:>8}{given:>12}{made:>10}{cost:>12}{seconds:>10}")
    if summary["not_done"]:
        err.print(f"{summary['not_done']} could not be done anew and are not counted.")


def _figure(value: float | None) -> str:
    return "unknown" if value is None else f"{value:g}"


def replay(task_id: str, data_dir: DataDir = None, as_json: AsJson = False) -> None:
    """Go through an ended task again from its records, with models and tools answered from the log.

    Says where this version, with these settings and agent definitions, would have done otherwise; then the exit
    code is 20. Nothing is called, changed or paid.
    """
    from devtools_platform.app.replaying import replay_task  # takes a second to import

    found = asyncio.run(replay_task(stack_settings(data_dir), task_id))
    if as_json:
        print_json(found.model_dump(mode="json"))
    else:
        for one in found.departures:
            out.print(f"{one.workflow} step {one.step}: {one.what}", markup=False)
            out.print(f"  recorded  {one.recorded}\n  today     {one.today}", markup=False)
        verdict = f"{len(found.departures)} departures" if found.departures else "no departure"
        out.print(f"{verdict}: {found.steps} steps of {found.workflows} workflows", markup=False)
    if found.departures:
        raise typer.Exit(DEPARTED)


COMMANDS: dict[str, Callable[..., Any]] = {"replay": replay}
