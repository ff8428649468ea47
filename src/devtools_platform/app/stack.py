"""All services of a stack in one process, started in the order they need each other and stopped in the reverse.

database -> tracing -> model -> code index -> gateway -> engine -> state -> console
"""

import asyncio
import contextlib
import os
import socket
import time
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import IO, Any

import sqlalchemy as sa

from devtools_platform.agents.adapters.git_workspaces import GitWorkspaces
from devtools_platform.app.admission import Admission
from devtools_platform.app.agent_door import open_agent_door
from devtools_platform.app.ci import ci_tools
from devtools_platform.app.console import addresses_of, build_stack_view, invite
from devtools_platform.app.context_client import ContextClient
from devtools_platform.app.context_readers import readers_of
from devtools_platform.app.crew import build_crew
from devtools_platform.app.delivery import deploy_tools
from devtools_platform.app.gateway_doors import open_doors
from devtools_platform.app.grants import ApprovalGrants
from devtools_platform.app.home import Home
from devtools_platform.app.integrations import has_integrations, run_integrations
from devtools_platform.app.models import ServedModel, describe_model
from devtools_platform.app.observing import Observed, sink_names
from devtools_platform.app.policy import policy_of
from devtools_platform.app.recording import log_to, trace_to
from devtools_platform.app.reviewing import workspace_tools
from devtools_platform.app.rollout_metrics import watch_rollouts
from devtools_platform.app.runtimes import Runtimes, choose_runtimes
from devtools_platform.app.search_engine import follow_remotes, open_service
from devtools_platform.app.serving import Serving, bind
from devtools_platform.app.team_memory import keep_learning
from devtools_platform.app.webhooks import build_webhooks
from devtools_platform.config import Settings
from devtools_platform.console.api import build_api as build_console
from devtools_platform.context.adapters.sql.task_memory import TaskMemory
from devtools_platform.context.api import build_api as build_context
from devtools_platform.context.library import Library
from devtools_platform.context.names import name_collection
from devtools_platform.context.service import ContextService
from devtools_platform.context.tools import ContextTools
from devtools_platform.core.errors import NotFound
from devtools_platform.core.interfaces import ToolServer
from devtools_platform.core.tools import Caller
from devtools_platform.gateway.adapters.call_records import Presence, SqlCallRecords
from devtools_platform.gateway.api import build_api as build_gateway
from devtools_platform.gateway.service import Gateway
from devtools_platform.gateway.toolsets.web import WebTools
from devtools_platform.kit import database
from devtools_platform.observability.adapters.sql import SqlSpanStore
from devtools_platform.observability.api import add_routes as add_observatory
from devtools_platform.state.adapters.dbos.control import DbosControl
from devtools_platform.state.adapters.embedded_postgres import EmbeddedPostgres
from devtools_platform.state.api import StateParts
from devtools_platform.state.api import build_api as build_state
from devtools_platform.state.approvals import ApprovalDesk
from devtools_platform.state.audit import AuditLog
from devtools_platform.state.events import EventLog
from devtools_platform.state.retention import Retention
from devtools_platform.state.rules import load_rules
from devtools_platform.state.service import StateService
from devtools_platform.state.tools import TaskTools

Progress = Callable[[str, str], None]
"""Called with a part's name and what it is doing or where it listens."""


@dataclass(frozen=True)
class Urls:
    gateway: str
    context: str
    state: str
    console: str
    webhooks: str | None = None
    """Only where GitHub or Linear is set up."""

    def as_dict(self) -> dict[str, str]:
        return {name: url for name, url in vars(self).items() if url is not None}


@dataclass(frozen=True)
class Running:
    """A stack that is up."""

    data_dir: Path
    urls: Urls
    token: str
    console_link: str
    """Opens the console once, within a quarter of an hour."""
    model: ServedModel
    started_in_s: float


@dataclass
class Stack:
    """One stack. Use `run`, which also stops it."""

    settings: Settings
    progress: Progress

    @asynccontextmanager
    async def run(self) -> AsyncGenerator[Running]:
        """Start everything, yield when it answers, stop it on the way out whatever happened."""
        began = time.perf_counter()
        home = Home(self.settings.data_dir)
        home.prepare()
        async with AsyncExitStack() as cleanup:
            cleanup.enter_context(_own(home))
            cleanup.enter_context(log_to(home.logs / "stack.log"))
            sockets = self._bind(cleanup)
            running = await self._start(home, sockets, cleanup, began)
            home.announce({"pid": os.getpid(), "urls": running.urls.as_dict(), "model": describe_model(running.model)})
            cleanup.callback(home.withdraw)
            yield running

    def _bind(self, cleanup: AsyncExitStack) -> dict[str, socket.socket]:
        ports = {
            "gateway": self.settings.gateway_port,
            "context": self.settings.context_port,
            "state": self.settings.state_port,
            "console": self.settings.console_port,
        }
        if has_integrations(self.settings):
            ports["webhooks"] = self.settings.webhook_port
        sockets: dict[str, socket.socket] = {}
        for name, port in ports.items():
            sockets[name] = bind(self.settings.host, port, _port_setting(name))
            cleanup.callback(sockets[name].close)
        return sockets

    async def _start(
        self, home: Home, sockets: dict[str, socket.socket], cleanup: AsyncExitStack, began: float
    ) -> Running:
        token, secret = home.secret("token"), home.secret("secret")
        urls = Urls(**{name: f"http://{self.settings.host}:{s.getsockname()[1]}" for name, s in sockets.items()})
        store, url = await self._start_database(cleanup)
        spans = SqlSpanStore(store, sink_names(self.settings))
        observed = Observed(self.settings, home, store)
        cleanup.push_async_callback(observed.stop)
        observed.start(cleanup.enter_context(trace_to(spans, self.settings)))
        runtimes = await self._start_models(home, cleanup)
        context = await self._start_context(home, store, cleanup)
        presence = await _open_presence(store, cleanup)
        serving = _open_serving(cleanup)

        control = DbosControl(store)
        workspaces = GitWorkspaces(home.workspaces, self.settings.min_free_disk_mb)
        state = StateService(store, control, workspaces)
        parts = StateParts(state, EventLog(store), ApprovalDesk(store, control), AuditLog(store))
        ci, http = ci_tools(self.settings, state.get_request)
        if http is not None:
            cleanup.push_async_callback(http.aclose)
        gateway = self._build_gateway(home, store, context, parts, ci, presence)
        doors = open_doors(self.settings, home, store, gateway, context.embedder)
        remotes = follow_remotes(self.settings, context, home.path / "context")
        await serving.serve(build_context(context, token, readers_of(doors["identity"]), remotes), sockets["context"])
        self.progress("context", urls.context)
        door = open_agent_door(
            build_gateway(gateway, token=token, secret=secret, **doors),
            doors["identity"], self.settings, runtimes, store, url=urls.gateway, token=token, secret=secret,
        )  # fmt: skip
        await serving.serve(door, sockets["gateway"])
        self.progress("gateway", urls.gateway)

        crewed = build_crew(
            self.settings, home, store, url, control, runtimes, gateway_url=urls.gateway, context_url=urls.context
        )
        await crewed.start()
        cleanup.push_async_callback(crewed.stop)
        retention = Retention(store, control, workspaces, *_keeping(self.settings))
        cleanup.push_async_callback(_cancel, asyncio.create_task(retention.run()))
        learning = keep_learning(TaskMemory(store), Library(context))
        cleanup.push_async_callback(_cancel, asyncio.create_task(learning))
        cleanup.push_async_callback(_cancel, asyncio.create_task(remotes.run()))
        cleanup.push_async_callback(_cancel, asyncio.create_task(state.keep_starting()))
        cleanup.push_async_callback(_cancel, asyncio.create_task(watch_rollouts(self.settings)))
        state_api = build_state(parts, admit=Admission(self.settings).admit, traces=spans, token=token)
        add_observatory(state_api, observed)
        await serving.serve(state_api, sockets["state"])
        self.progress("state", urls.state)
        if "webhooks" in sockets:
            receiver = await run_integrations(
                self.settings,
                home,
                store,
                parts,
                cleanup,
                urls.webhooks,
                ContextClient(urls.context, token),
                self.progress,
            )
            await serving.serve(receiver, sockets["webhooks"])
        cleanup.push_async_callback(_cancel, asyncio.create_task(build_webhooks(self.settings, home, store).run()))
        home.keep_secret("database_url", url)
        view = build_stack_view(self.settings, store, parts, gateway, context, runtimes, urls.as_dict(), token)
        cleanup.push_async_callback(view.delivery.aclose)
        await serving.serve(
            build_console(view, token=token, secret=secret, addresses=addresses_of(self.settings)), sockets["console"]
        )
        self.progress("console", urls.console)
        link = (await invite(urls.console, token))["url"]
        return Running(home.path, urls, token, link, runtimes.main, time.perf_counter() - began)

    async def _start_database(self, cleanup: AsyncExitStack) -> tuple[sa.Engine, str]:
        if self.settings.database_url is not None:
            url = self.settings.database_url.get_secret_value()
            self.progress("database", "where DATABASE_URL says")
        else:
            postgres = EmbeddedPostgres(self.settings.data_dir)
            url = await postgres.start(lambda text: self.progress("database", text))
            cleanup.push_async_callback(postgres.stop)
            watch = asyncio.create_task(postgres.watch())
            cleanup.push_async_callback(_cancel, watch)
        engine = database.connect(url)
        cleanup.callback(engine.dispose)
        await asyncio.to_thread(database.migrate, engine)
        return engine, url

    async def _start_models(self, home: Home, cleanup: AsyncExitStack) -> Runtimes:
        runtimes = await choose_runtimes(self.settings, home, lambda text: self.progress("model", text))
        cleanup.push_async_callback(runtimes.stop)
        self.progress("model", describe_model(runtimes.main))
        return runtimes

    async def _start_context(self, home: Home, store: sa.Engine, cleanup: AsyncExitStack) -> ContextService:
        service = await open_service(self.settings, home.path / "context", store, self.progress, cleanup)
        await service.resume_all()
        return service

    def _build_gateway(
        self,
        home: Home,
        store: sa.Engine,
        context: ContextService,
        parts: StateParts,
        ci: Sequence[ToolServer],
        presence: Presence,
    ) -> Gateway:
        async def collection_of(caller: Caller) -> str | None:
            try:
                request = await parts.service.get_request(caller.task_id)
            except NotFound:  # somebody with a token of their own, or whose task retention took
                return None
            return name_collection(Path(request.repo))

        tasks = TaskTools(parts.service, parts.events, Admission(self.settings).admit)
        workspace = workspace_tools(self.settings, home.workspaces)
        return Gateway(
            [workspace, ContextTools(context, collection_of), tasks, WebTools(), *deploy_tools(self.settings), *ci],
            policy_of(self.settings.agent_definitions),
            SqlCallRecords(store, presence.id),
            rules=load_rules(self.settings.approval_rules),
            grants=ApprovalGrants(parts.approvals),
            environment=self.settings.environment,
        )


async def _open_presence(store: sa.Engine, cleanup: AsyncExitStack) -> Presence:
    """Opened before what serves: a gateway is there for others until it has answered its last."""
    presence = Presence(store)
    await presence.start()
    cleanup.push_async_callback(presence.stop)
    return presence


def _open_serving(cleanup: AsyncExitStack) -> Serving:
    serving = Serving()
    cleanup.push_async_callback(serving.stop)
    return serving


def _port_setting(service: str) -> str:
    return f"DEV_TOOLS_{service.upper().removesuffix('S')}_PORT"


def _keeping(settings: Settings) -> tuple[timedelta, timedelta]:
    return timedelta(days=settings.keep_workspaces_days), timedelta(days=settings.keep_tasks_days)


async def _cancel(task: asyncio.Task[None]) -> None:
    task.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await task


@contextlib.contextmanager
def _own(home: Home) -> Any:
    lock: IO[str] = home.lock()
    try:
        yield
    finally:
        lock.close()
