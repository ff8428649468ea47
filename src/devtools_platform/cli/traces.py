"""`dev-tools traces`: what agents did, call by call, and whether the record of it is whole."""

import asyncio
import json
from collections.abc import Iterator
from datetime import datetime
from typing import Annotated, Any

import typer
from rich.text import Text

from devtools_platform.cli.connection import AsJson, running_stack
from devtools_platform.cli.output import err, out, print_json
from devtools_platform.cli.stack import DataDir
from devtools_platform.core.errors import NotFound

app = typer.Typer(no_args_is_help=True, help="Traces: the spans of tasks, and where they are sent.")

USAGE = "langfuse.observation.usage_details"
COST = "langfuse.observation.cost_details"


@app.command("show")
def show(task_id: str, data_dir: DataDir = None, as_json: AsJson = False) -> None:
    """The spans of a task as a tree, with times, tokens and cost."""
    spans = asyncio.run(running_stack(data_dir).read_trace(task_id))
    if as_json:
        print_json(spans)
        return
    for depth, span in walk(spans):
        out.print(_line(depth, span))
    if not spans:
        err.print("No spans yet: they are stored half a second after they end.")


@app.command("validate")
def validate(
    task: Annotated[str | None, typer.Option("--task", help="Only this task; else the newest twenty.")] = None,
    langfuse: Annotated[bool, typer.Option("--langfuse", help="Also ask Langfuse whether it has every span.")] = False,
    data_dir: DataDir = None,
    as_json: AsJson = False,
) -> None:
    """Check that each model and tool call has its span, and that both agree.

    Exit code 1 names what is missing; 3 says that there is no task yet, so nothing to judge.
    """
    found = asyncio.run(running_stack(data_dir).validate_traces(task, langfuse=langfuse))
    if as_json:
        print_json(found)
    else:
        for problem in found["problems"]:
            out.print(f"missing  {problem}", markup=False)
        checked = f"{found['model_calls']} model calls, {found['tool_calls']} tool calls, {found['spans']} spans"
        verdict = "whole" if found["is_whole"] else f"{len(found['problems'])} problems"
        out.print(f"{verdict}: {checked} of {len(found['tasks'])} tasks", markup=False)
        if not found["tasks"]:
            err.print("No task has ended yet: there was nothing to check.")
        if found["unchecked"]:
            err.print(f"{found['unchecked']} model calls are older than this check.")
    if not found["tasks"]:
        raise typer.Exit(NotFound.exit_code)
    if not found["is_whole"]:
        raise typer.Exit(1)


@app.command("sinks")
def sinks(data_dir: DataDir = None, as_json: AsJson = False) -> None:
    """Who else gets the spans, how many wait for them, and why. Exit code 1 when one takes none."""
    found = asyncio.run(running_stack(data_dir).list_sinks())
    if as_json:
        print_json(found)
    else:
        for sink in found:
            pending = "?" if sink["pending"] is None else sink["pending"]
            out.print(f"{sink['name']:<10} {sink['url']}", markup=False)
            out.print(f"  {sink['sent']} sent, {pending} waiting, {sink['lost']} lost since the start", markup=False)
            if sink["last_error"]:
                out.print(f"  failing: {sink['last_error']}", markup=False)
        if not found:
            err.print("None. Set LANGFUSE_PUBLIC_KEY and LANGFUSE_SECRET_KEY, or OTEL_EXPORTER_OTLP_ENDPOINT.")
    if any(sink["last_error"] for sink in found):
        raise typer.Exit(1)


def walk(spans: list[dict[str, Any]]) -> Iterator[tuple[int, dict[str, Any]]]:
    """Each span with its depth, parents first, in the order they began. Spans whose parent is missing are roots."""
    known = {span["span_id"] for span in spans}
    below: dict[str | None, list[dict[str, Any]]] = {}
    for span in sorted(spans, key=lambda span: str(span["started_at"])):
        parent = span["parent_id"] if span["parent_id"] in known else None
        below.setdefault(parent, []).append(span)
    stack = [(0, span) for span in reversed(below.get(None, []))]
    while stack:
        depth, span = stack.pop()
        yield depth, span
        stack += [(depth + 1, child) for child in reversed(below.get(span["span_id"], []))]


def _line(depth: int, span: dict[str, Any]) -> Text:
    attributes = span["attributes"]
    began, ended = (datetime.fromisoformat(span[name]) for name in ("started_at", "ended_at"))
    facts = [f"{(ended - began).total_seconds():.2f} s", str(span["agent"] or "")]
    if USAGE in attributes:
        used = json.loads(attributes[USAGE])
        facts.append(f"{used.get('input', 0) + used.get('input_cached_tokens', 0)} + {used.get('output', 0)} tokens")
    if COST in attributes:
        facts.append(f"${json.loads(attributes[COST])['total']:.6f}")
    is_bad = span["status"] == "error" or attributes.get("devtools.tool.is_error")
    name = "".join(char if char.isprintable() else "?" for char in str(span["name"]))
    return Text.assemble(
        "  " * depth, (name, "red" if is_bad else "bold"), ("  " + ", ".join(filter(None, facts)), "dim")
    )
