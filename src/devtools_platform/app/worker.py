"""A process that only works: it takes runs from the queues of a stack that is up elsewhere, here or on another host.

On the stack's own host everything it needs stands in the data directory. On another one it is told by settings:
`database_url`, `gateway_url`, `stack_secret`. There it cannot take tasks, whose clones lie beside the stack.
"""

import os
from collections.abc import AsyncGenerator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass

from devtools_platform.app.crew import build_crew
from devtools_platform.app.home import Home
from devtools_platform.app.models import describe_model
from devtools_platform.app.recording import log_to, silence_banner, trace_to
from devtools_platform.app.runtimes import choose_runtimes
from devtools_platform.app.sinks import sink_names
from devtools_platform.config import Settings
from devtools_platform.core.errors import BadInput, NotRunning
from devtools_platform.kit import database
from devtools_platform.kit.metrics import serve_metrics
from devtools_platform.observability.adapters.sql import SqlSpanStore
from devtools_platform.state.adapters.dbos.control import DbosControl

Progress = Callable[[str, str], None]


@dataclass(frozen=True)
class StackAddress:
    """What a worker must know of the stack it works for."""

    database_url: str
    gateway_url: str
    context_url: str
    """Empty on another host: only tasks ask the code index directly."""


@dataclass(frozen=True)
class WorkerInfo:
    id: str
    queues: tuple[str, ...]


@asynccontextmanager
async def run_worker(settings: Settings, progress: Progress) -> AsyncGenerator[WorkerInfo]:
    """Start, yield while it works, and leave what is unfinished to others on the way out."""
    home = Home.of(settings)
    address = find_stack(settings, home)
    home.prepare()
    async with AsyncExitStack() as cleanup:
        cleanup.enter_context(log_to(home.logs / f"worker-{os.getpid()}.log"))
        store = database.connect(address.database_url)
        cleanup.callback(store.dispose)
        await database.read_in_thread(store, database.require_current)
        cleanup.enter_context(trace_to(SqlSpanStore(store, sink_names(settings)), settings))
        silence_banner()
        if settings.worker_metrics_port is not None:
            cleanup.callback(serve_metrics(settings.host, settings.worker_metrics_port))
        runtimes = await choose_runtimes(settings, home, lambda text: progress("model", text))
        cleanup.push_async_callback(runtimes.stop)
        progress("model", describe_model(runtimes.main))
        crewed = build_crew(
            settings, home, store, address.database_url, DbosControl(store), runtimes,
            gateway_url=address.gateway_url, context_url=address.context_url,
        )  # fmt: skip
        await crewed.start()
        cleanup.push_async_callback(crewed.stop)
        yield WorkerInfo(crewed.supervisor.worker_id, settings.queues)


def find_stack(settings: Settings, home: Home) -> StackAddress:
    """By the settings, else by the data directory. Raises `NotRunning`, or `BadInput` naming what is missing."""
    if settings.gateway_url is not None:
        return _given(settings, home)
    urls = home.read_announcement()["urls"]
    url = settings.database_url.get_secret_value() if settings.database_url else home.find_secret("database_url")
    if url is None:
        raise NotRunning(
            f"The stack on {str(home.path)!r} has not said where its database is.",
            hint="Start it again: `dev-tools up`.",
        )
    return StackAddress(url, urls["gateway"], settings.context_url or urls["context"])


def _given(settings: Settings, home: Home) -> StackAddress:
    is_here = home.is_locked()
    kept = home.find_secret("database_url") if is_here else None
    url = settings.database_url.get_secret_value() if settings.database_url else kept
    missing = [
        name
        for name, is_missing in (
            ("DATABASE_URL", url is None),
            ("DEV_TOOLS_STACK_SECRET", settings.stack_secret is None and not is_here),
        )
        if is_missing
    ]
    if url is None or missing:
        raise BadInput(
            f"A worker away from its stack needs {' and '.join(missing)}, beside DEV_TOOLS_GATEWAY_URL.",
            hint="The stack's data directory holds them in the files `database_url` and `secret`.",
        )
    if "tasks" in settings.queues and not is_here:
        raise BadInput(
            "Tasks need the clones in the stack's data directory, and no stack is running on this one.",
            hint="Let this worker carry agents only: `dev-tools worker --queues agents`.",
        )
    return StackAddress(url, str(settings.gateway_url).rstrip("/"), (settings.context_url or "").rstrip("/"))
