"""`dev-tools task`: hand over a task, watch it, look at it, cancel it."""

import asyncio
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Annotated

import typer

from devtools_platform.app.client import StackClient
from devtools_platform.app.home import Home
from devtools_platform.cli.output import err, no_progress, out, print_json, progress
from devtools_platform.cli.stack import DataDir, stack_settings
from devtools_platform.cli.summary import describe_event, summarise
from devtools_platform.config import Settings
from devtools_platform.core.agents import AGENTS, WORKING_AGENTS, AgentName
from devtools_platform.core.errors import BadInput, NotRunning, UnknownAgent
from devtools_platform.core.tasks import MAX_TASK_TEXT, TaskRequest, TaskResult

app = typer.Typer(no_args_is_help=True, help="Tasks.")
AsJson = Annotated[bool, typer.Option("--json", help="Print the result as JSON.")]
NO_BRANCH = 20


@app.command("run")
def run(
    text: Annotated[str, typer.Argument(help="What you want done.")],
    repo: Annotated[Path, typer.Option(help="A git repository on this machine.")] = Path(),
    agent: Annotated[str | None, typer.Option(help=f"Give it to one agent: {', '.join(WORKING_AGENTS)}.")] = None,
    watch: Annotated[bool, typer.Option("--watch", help="Show every tool call as it happens.")] = False,
    without_sandbox: Annotated[
        bool,
        typer.Option("--without-sandbox", help="Run the repository's commands unisolated; recorded in the result."),
    ] = False,
    data_dir: DataDir = None,
    as_json: AsJson = False,
) -> None:
    """Do a task on a branch of its own. Starts a stack for it if none is running."""
    request = _request(text, repo, agent, without_sandbox=without_sandbox)
    result = asyncio.run(_run(stack_settings(data_dir), request, watch=watch, quiet=as_json))
    _show(result, as_json=as_json)
    if result.status != "completed":
        raise typer.Exit(NO_BRANCH)


def _request(text: str, repo: Path, agent: str | None, *, without_sandbox: bool) -> TaskRequest:
    if not text.strip():
        raise BadInput("The task's text is empty; say what you want done.", hint='dev-tools task run "TEXT" --repo DIR')
    if len(text) > MAX_TASK_TEXT:
        raise BadInput(
            f"The task's text has {len(text)} characters; at most {MAX_TASK_TEXT} are taken.",
            hint="Put the details in a file of the repository and name it in the text.",
        )
    return TaskRequest(text=text, repo=str(repo.absolute()), agent=_agent(agent), without_sandbox=without_sandbox)


def _agent(name: str | None) -> AgentName | None:
    if name is None:
        return None
    for known in AGENTS:
        if name == known:
            return known
    raise UnknownAgent(f"There is no agent {name!r}.", hint=f"The agents are: {', '.join(AGENTS)}.")


async def _run(settings: Settings, request: TaskRequest, *, watch: bool, quiet: bool) -> TaskResult:
    async with _client(settings, quiet=quiet) as client:
        task = await client.create_task(request)
        if not quiet:
            err.print(f"  task {task.id}: branch task/{task.id} of {request.repo}")
        async for event in client.follow_events(task.id):
            line = describe_event(event, in_full=watch)
            if line and not quiet:
                err.print(line)
        return await client.get_task(task.id)


@asynccontextmanager
async def _client(settings: Settings, *, quiet: bool) -> AsyncGenerator[StackClient]:
    """The running stack, or one started for this command on free ports."""
    home = Home(settings.data_dir)
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
        yield StackClient(running.urls.state, running.token)


@app.command("list")
def list_(limit: int = 20, data_dir: DataDir = None, as_json: AsJson = False) -> None:
    """The newest tasks."""
    tasks = asyncio.run(_running(data_dir).list_tasks(limit))
    if as_json:
        print_json([task.model_dump(mode="json") for task in tasks])
        return
    for task in tasks:
        out.print(f"{task.id}  {task.status:<10} {task.reason or '':<15} {task.text.splitlines()[0][:60]}")
    if not tasks:
        err.print('No tasks yet. Hand one over: dev-tools task run "TEXT" --repo DIR')


@app.command("show")
def show(task_id: str, data_dir: DataDir = None, as_json: AsJson = False) -> None:
    """One task: plan, tests, review, branch, cost."""
    _show(asyncio.run(_running(data_dir).get_task(task_id)), as_json=as_json)


@app.command("watch")
def watch(task_id: str, data_dir: DataDir = None, as_json: AsJson = False) -> None:
    """Follow a task until it ends."""
    _show(asyncio.run(_watch(_running(data_dir), task_id, quiet=as_json)), as_json=as_json)


async def _watch(client: StackClient, task_id: str, *, quiet: bool) -> TaskResult:
    async for event in client.follow_events(task_id):
        line = describe_event(event, in_full=True)
        if line and not quiet:
            err.print(line)
    return await client.get_task(task_id)


@app.command("cancel")
def cancel(task_id: str, data_dir: DataDir = None, as_json: AsJson = False) -> None:
    """Stop a task."""
    _show(asyncio.run(_running(data_dir).cancel_task(task_id)), as_json=as_json)


def _running(data_dir: Path | None) -> StackClient:
    return StackClient.of(Home(stack_settings(data_dir).data_dir))


def _show(task: TaskResult, *, as_json: bool) -> None:
    if as_json:
        print_json(task.model_dump(mode="json"))
    else:
        out.print(summarise(task))
