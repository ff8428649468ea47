"""`dev-tools task`: hand over a task, watch it, look at it."""

import asyncio
import re
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Annotated, get_args

import typer

from devtools_platform.app.client import StackClient
from devtools_platform.app.home import Home
from devtools_platform.cli import approvals, control, history, review
from devtools_platform.cli.connection import AsJson, running_stack, show_task
from devtools_platform.cli.output import err, no_progress, out, print_json, progress
from devtools_platform.cli.stack import DataDir, stack_settings
from devtools_platform.cli.summary import describe_event
from devtools_platform.cli.tree import follow_as_tree
from devtools_platform.config import Settings
from devtools_platform.core.agents import AGENTS, MAX_NAME, NAME_PATTERN, WORKING_AGENTS, AgentName
from devtools_platform.core.errors import BadInput, NotRunning, UnknownAgent
from devtools_platform.core.tasks import MAX_TASK_TEXT, AskBefore, Status, TaskRequest, TaskResult

app = typer.Typer(no_args_is_help=True, help="Tasks.")
for group in (approvals, control, history):
    for name, command in group.COMMANDS.items():
        app.command(name)(command)
app.command("review")(review.task_review)
NO_BRANCH = 20


@app.command("run")
def run(
    text: Annotated[str, typer.Argument(help="What you want done.")],
    repo: Annotated[Path, typer.Option(help="A git repository on this machine.")] = Path(),
    agent: Annotated[
        str | None, typer.Option(help=f"Give it to one agent: {', '.join(WORKING_AGENTS)}, or one of your own.")
    ] = None,
    watch: Annotated[bool, typer.Option("--watch", help="Show every tool call as it happens.")] = False,
    ask: Annotated[
        list[str] | None,
        typer.Option(help=f"Wait for your approval before this: {', '.join(get_args(AskBefore))}. Repeatable."),
    ] = None,
    priority: Annotated[int, typer.Option(min=1, max=1000, help="The lowest number goes first.")] = 100,
    without_sandbox: Annotated[
        bool,
        typer.Option("--without-sandbox", help="Run the repository's commands unisolated; recorded in the result."),
    ] = False,
    data_dir: DataDir = None,
    as_json: AsJson = False,
) -> None:
    """Do a task on a branch of its own. Starts a stack for it if none is running."""
    request = TaskRequest(
        text=_text(text),
        repo=str(repo.absolute()),
        agent=_agent(agent),
        without_sandbox=without_sandbox,
        ask_before=_points(ask or []),
        priority=priority,
    )
    result = asyncio.run(_run(data_dir, request, watch=watch, quiet=as_json))
    show_task(result, as_json=as_json)
    if result.status != "completed":
        raise typer.Exit(NO_BRANCH)


def _text(text: str) -> str:
    if not text.strip():
        raise BadInput("The task's text is empty; say what you want done.", hint='dev-tools task run "TEXT" --repo DIR')
    if len(text) > MAX_TASK_TEXT:
        raise BadInput(
            f"The task's text has {len(text)} characters; at most {MAX_TASK_TEXT} are taken.",
            hint="Put the details in a file of the repository and name it in the text.",
        )
    return text


def _points(names: list[str]) -> tuple[AskBefore, ...]:
    known: tuple[AskBefore, ...] = get_args(AskBefore)
    if unknown := [name for name in names if name not in known]:
        raise BadInput(f"There is no point {unknown[0]!r} to ask at.", hint=f"Give --ask {' or --ask '.join(known)}.")
    return tuple(point for point in known if point in names)


def _agent(name: str | None) -> AgentName | None:
    if name is None:
        return None
    if len(name) <= MAX_NAME and re.fullmatch(NAME_PATTERN, name):
        return name  # which there are, the stack knows: a team can have its own
    raise UnknownAgent(f"There is no agent {name!r}.", hint=f"The agents are: {', '.join(AGENTS)}.")


async def _run(data_dir: Path | None, request: TaskRequest, *, watch: bool, quiet: bool) -> TaskResult:
    async with _client(stack_settings(data_dir), quiet=quiet) as client:
        task = await client.create_task(request)
        if not quiet:
            err.print(f"  task {task.id}: branch task/{task.id} of {request.repo}")
        await _follow(client, task, watch=watch, quiet=quiet, data_dir=data_dir)
        return await client.get_task(task.id)


@asynccontextmanager
async def _client(settings: Settings, *, quiet: bool) -> AsyncGenerator[StackClient]:
    """The running stack, or one started for this command on free ports."""
    home = Home.of(settings)
    try:
        yield StackClient.of(home)
        return
    except NotRunning:
        pass
    if not quiet:
        err.print("  no stack is running: starting one for this task")
    from devtools_platform.app.stack import Stack  # takes seconds to import: only where it is run

    own = stack_settings(settings.data_dir, free_ports=True)
    async with Stack(own, no_progress if quiet else progress).run() as running:
        yield StackClient(running.urls.of("state"), running.token)


@app.command("list")
def list_(
    status: Annotated[list[str] | None, typer.Option(help="Only with this status. Repeatable.")] = None,
    text: Annotated[str | None, typer.Option(help="Only those whose text contains this.")] = None,
    limit: Annotated[int, typer.Option(min=1, max=500)] = 20,
    cursor: Annotated[str | None, typer.Option(help="Where the page before said to go on.")] = None,
    data_dir: DataDir = None,
    as_json: AsJson = False,
) -> None:
    """The newest tasks. With --json: the tasks as `items`, and the next page's cursor as `next`."""
    wanted = [_status(name) for name in status or []]
    page = asyncio.run(running_stack(data_dir).list_tasks(limit, status=wanted, text=text, cursor=cursor))
    if as_json:
        print_json(page.model_dump(mode="json"))
        return
    for task in page.items:
        line = f"{task.id}  {task.status:<14} {task.reason or '':<15} {task.text.splitlines()[0][:60]}"
        out.print(line, markup=False)
    if page.next:
        err.print(f"More: --cursor {page.next}", markup=False)
    if not page.items:
        err.print('No such tasks. Hand one over: dev-tools task run "TEXT" --repo DIR')


def _status(name: str) -> Status:
    known: tuple[Status, ...] = get_args(Status)
    for status in known:
        if name == status:
            return status
    raise BadInput(f"There is no status {name!r}.", hint=f"They are: {', '.join(known)}.")


@app.command("show")
def show(task_id: str, data_dir: DataDir = None, as_json: AsJson = False) -> None:
    """One task: plan, tests, review, branch, cost."""
    show_task(asyncio.run(running_stack(data_dir).get_task(task_id)), as_json=as_json)


@app.command("watch")
def watch(task_id: str, data_dir: DataDir = None, as_json: AsJson = False) -> None:
    """Follow a task until it ends."""
    show_task(asyncio.run(_watch(data_dir, task_id, quiet=as_json)), as_json=as_json)


async def _watch(data_dir: Path | None, task_id: str, *, quiet: bool) -> TaskResult:
    client = running_stack(data_dir)
    await _follow(client, await client.get_task(task_id), watch=True, quiet=quiet, data_dir=data_dir)
    return await client.get_task(task_id)


async def _follow(client: StackClient, task: TaskResult, *, watch: bool, quiet: bool, data_dir: Path | None) -> None:
    """A tree for a person at a terminal, a line per event for what is piped, nothing for `--json`."""
    events = client.follow_events(task.id)
    if err.is_terminal and not quiet:
        title = f"task {task.id}: {task.text}".splitlines()[0]
        await follow_as_tree(events, title, err, in_full=watch, data_dir=data_dir)
        return
    async for event in events:
        line = describe_event(event, in_full=watch, data_dir=data_dir)
        if line and not quiet:
            err.print(line)
