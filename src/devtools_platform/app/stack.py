"""All services of a stack in one process, started in the order they need each other and stopped in the reverse.

PostgreSQL -> tracing -> model -> code index -> gateway -> engine -> state -> console
"""

import asyncio
import contextlib
import logging
import logging.handlers
import os
import socket
import time
from collections.abc import AsyncGenerator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import httpx2
import sqlalchemy as sa
from pydantic_ai import Agent
from pydantic_ai.durable_exec.dbos import DBOSDurability
from pydantic_ai.models.instrumented import InstrumentationSettings

from devtools_platform.agents.adapters.git_workspaces import GitWorkspaces
from devtools_platform.agents.adapters.mcp_tools import GatewayClient
from devtools_platform.agents.definitions import load_definitions
from devtools_platform.agents.orchestration import AGENT_RUN, Crew, TaskWorkflow
from devtools_platform.agents.runner import AgentRunner
from devtools_platform.agents.runs import AgentRunWorkflow
from devtools_platform.agents.toolset import DurableTools
from devtools_platform.app.admission import Admission
from devtools_platform.app.code_index import HttpCodeIndex
from devtools_platform.app.console_data import ConsoleData
from devtools_platform.app.home import Home
from devtools_platform.app.models import LedgerBridge, ServedModel, build_models, choose_model
from devtools_platform.app.preflight import StackPreflight
from devtools_platform.app.serving import Serving, bind
from devtools_platform.config import Settings
from devtools_platform.console.api import build_api as build_console
from devtools_platform.context.adapters.edge import EdgeEngine
from devtools_platform.context.adapters.minilm import MiniLm
from devtools_platform.context.adapters.qdrant_server import QdrantEngine
from devtools_platform.context.api import build_api as build_context
from devtools_platform.context.interfaces import ChunkEngine
from devtools_platform.context.service import ContextService, name_collection
from devtools_platform.context.tools import ContextTools
from devtools_platform.core.tools import Caller
from devtools_platform.gateway.adapters.call_records import SqlCallRecords
from devtools_platform.gateway.api import build_api as build_gateway
from devtools_platform.gateway.api import load_policy
from devtools_platform.gateway.service import Gateway
from devtools_platform.gateway.toolsets.workspace import WorkspaceTools
from devtools_platform.kit import database
from devtools_platform.kit.sandbox import Limits
from devtools_platform.observability.adapters.sql import SqlLedger, SqlSpanStore
from devtools_platform.observability.service import Tracing
from devtools_platform.state.adapters.dbos_engine import DbosEngine
from devtools_platform.state.adapters.embedded_postgres import EmbeddedPostgres
from devtools_platform.state.api import build_api as build_state
from devtools_platform.state.service import TASK_WORKFLOW, StateService

EXECUTOR = "embedded"
"""One stack owns a data directory (see `Home.lock`), so what this id left behind is always ours to take up again."""

Progress = Callable[[str, str], None]
"""Called with a part's name and what it is doing or where it listens."""


@dataclass(frozen=True)
class Urls:
    gateway: str
    context: str
    state: str
    console: str

    def as_dict(self) -> dict[str, str]:
        return dict(vars(self))


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
            cleanup.enter_context(_log_to(home))
            sockets = self._bind(cleanup)
            running = await self._start(home, sockets, cleanup, began)
            home.announce({"pid": os.getpid(), "urls": running.urls.as_dict(), "model": _describe(running.model)})
            cleanup.callback(home.withdraw)
            yield running

    def _bind(self, cleanup: AsyncExitStack) -> dict[str, socket.socket]:
        ports = {
            "gateway": self.settings.gateway_port,
            "context": self.settings.context_port,
            "state": self.settings.state_port,
            "console": self.settings.console_port,
        }
        sockets: dict[str, socket.socket] = {}
        for name, port in ports.items():
            sockets[name] = bind(self.settings.host, port, f"DEV_TOOLS_{name.upper()}_PORT")
            cleanup.callback(sockets[name].close)
        return sockets

    async def _start(
        self, home: Home, sockets: dict[str, socket.socket], cleanup: AsyncExitStack, began: float
    ) -> Running:
        token, secret = home.secret("token"), home.secret("secret")
        urls = Urls(**{name: f"http://{self.settings.host}:{s.getsockname()[1]}" for name, s in sockets.items()})
        store, url = await self._start_database(cleanup)
        spans, ledger = SqlSpanStore(store), SqlLedger(store)
        self._start_tracing(spans, cleanup)
        served = await self._start_model(home, cleanup)
        context = await self._start_context(home, cleanup)
        serving = Serving()
        cleanup.push_async_callback(serving.stop)

        engine = DbosEngine(url, executor_id=EXECUTOR, concurrency=self.settings.concurrent_tasks)
        state = StateService(store, engine)
        gateway = self._build_gateway(home, store, context, state)
        await serving.serve(build_context(context, token=token), sockets["context"])
        self.progress("context", urls.context)
        await serving.serve(build_gateway(gateway, token=token, secret=secret), sockets["gateway"])
        self.progress("gateway", urls.gateway)

        bridge = LedgerBridge(ledger, state, served)
        self._register_workflows(engine, home, state, bridge, served, urls)
        await engine.launch()
        cleanup.push_async_callback(engine.close)
        await serving.serve(
            build_state(state, admit=Admission(self.settings).admit, traces=spans, token=token), sockets["state"]
        )
        self.progress("state", urls.state)
        data = ConsoleData(state, Admission(self.settings), gateway, served, urls.as_dict())
        await serving.serve(
            build_console(data, data, data, token=token, secret=secret, host=self.settings.host), sockets["console"]
        )
        self.progress("console", urls.console)
        link = await _login_link(urls.console, token)
        return Running(home.path, urls, token, link, served, time.perf_counter() - began)

    async def _start_database(self, cleanup: AsyncExitStack) -> tuple[sa.Engine, str]:
        if self.settings.database_url is not None:
            url = self.settings.database_url.get_secret_value()
            self.progress("database", "the server of DATABASE_URL")
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

    def _start_tracing(self, spans: SqlSpanStore, cleanup: AsyncExitStack) -> None:
        tracing = Tracing(spans, environment=self.settings.environment)
        cleanup.callback(tracing.close)
        Agent.instrument_all(InstrumentationSettings(tracer_provider=tracing.provider))

    async def _start_model(self, home: Home, cleanup: AsyncExitStack) -> ServedModel:
        served = await choose_model(self.settings, home.logs, lambda text: self.progress("model", text))
        if served.server is not None:
            cleanup.push_async_callback(served.server.stop)
        self.progress("model", _describe(served))
        return served

    async def _start_context(self, home: Home, cleanup: AsyncExitStack) -> ContextService:
        embedder = MiniLm() if self.settings.embeddings == "local" else None
        if embedder is not None and (missing := embedder.find_missing()):
            self.progress("context", f"search by words only: {missing}")
            embedder = None
        index = self._choose_index(home)
        cleanup.push_async_callback(index.aclose)
        await index.count()  # starts the engine's process, or meets the server, now: not in the middle of a task
        service = ContextService(index, home.path / "context" / "manifests", embedder)
        cleanup.push_async_callback(service.aclose)
        await service.resume()
        return service

    def _choose_index(self, home: Home) -> ChunkEngine:
        if self.settings.qdrant_url is None:
            return EdgeEngine(home.path / "context" / "edge-384")
        key = self.settings.qdrant_api_key
        self.progress("context", f"the Qdrant server at {self.settings.qdrant_url}")
        return QdrantEngine.connect(self.settings.qdrant_url, key.get_secret_value() if key else None)

    def _build_gateway(self, home: Home, store: sa.Engine, context: ContextService, state: StateService) -> Gateway:
        async def collection_of(caller: Caller) -> str:
            request = await state.get_request(caller.task_id)
            return name_collection(Path(request.repo))

        workspace = WorkspaceTools(
            home.workspaces,
            limits=Limits(self.settings.command_timeout_s, self.settings.command_memory_mb),
            sandbox_program=self.settings.sandbox_program,
        )
        servers = [workspace, ContextTools(context, collection_of)]
        return Gateway(servers, load_policy(), SqlCallRecords(store))

    def _register_workflows(
        self,
        engine: DbosEngine,
        home: Home,
        state: StateService,
        bridge: LedgerBridge,
        served: ServedModel,
        urls: Urls,
    ) -> None:
        token, secret = home.secret("token"), home.secret("secret")
        client = GatewayClient(f"{urls.gateway}/mcp", secret, timeout_s=self.settings.command_timeout_s + 30)
        tools = DurableTools(client, engine, state)
        runner = AgentRunner(
            load_definitions(),
            build_models(served, bridge, self.settings.model_timeout_s),
            tools,
            durable=lambda: DBOSDurability(parallel_execution_mode="sequential"),
            max_turns=self.settings.max_agent_turns,
        )
        crew = Crew(
            durable=engine,
            log=state,
            ledger=bridge,
            workspaces=GitWorkspaces(home.workspaces, self.settings.min_free_disk_mb),
            tools=tools,
            index=HttpCodeIndex(urls.context, token),
            preflight=StackPreflight(self.settings, served),
            model=served.info,
            max_review_rounds=self.settings.max_review_rounds,
        )
        engine.register(TASK_WORKFLOW, TaskWorkflow(crew))
        engine.register(
            AGENT_RUN,
            AgentRunWorkflow(runner, served.is_small, served.needs_judge, self.settings.max_candidates),
        )


async def _login_link(console: str, token: str) -> str:
    async with httpx2.AsyncClient(trust_env=False) as http:
        response = await http.post(f"{console}/login-links", headers={"Authorization": f"Bearer {token}"})
        response.raise_for_status()
        return str(response.json()["url"])


def _describe(served: ServedModel) -> str:
    if served.info is None:
        return f"none: {served.missing}"
    return f"{served.info.name} ({served.info.provider}, tier {served.info.tier})"


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


@contextlib.contextmanager
def _log_to(home: Home) -> Any:
    """Everything the process logs goes to a bounded file; the terminal is for progress."""
    handler = logging.handlers.RotatingFileHandler(home.logs / "stack.log", maxBytes=5_000_000, backupCount=2)
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s %(message)s"))
    root = logging.getLogger()
    root.addHandler(handler)
    logging.raiseExceptions = False  # a log on a full disk must not write tracebacks over the progress
    try:
        yield
    finally:
        root.removeHandler(handler)
        handler.close()
