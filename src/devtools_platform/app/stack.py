"""A process of a stack: all services in the order they need each other, or the few that `up --only` names.

database -> tracing -> model -> code index -> gateway -> engine -> state -> console, and stopped in the reverse.
"""

import asyncio
import contextlib
import os
import socket
import time
from collections.abc import AsyncGenerator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

import sqlalchemy as sa

from devtools_platform.agents.adapters.git_workspaces import GitWorkspaces
from devtools_platform.app.home import Home
from devtools_platform.app.recording import log_to, log_to_terminal, trace_to
from devtools_platform.app.services import start_services
from devtools_platform.app.serving import Serving, bind
from devtools_platform.app.sinks import sink_names
from devtools_platform.app.site import ALL_SERVICES, Progress, Site, Urls, cancel, has_integrations
from devtools_platform.config import Settings
from devtools_platform.config.settings import Service
from devtools_platform.core.errors import BadInput
from devtools_platform.kit import database
from devtools_platform.observability.adapters.sql import SqlSpanStore
from devtools_platform.state.adapters.dbos.control import DbosControl
from devtools_platform.state.approvals import ApprovalDesk
from devtools_platform.state.audit import AuditLog
from devtools_platform.state.events import EventLog
from devtools_platform.state.parts import StateParts
from devtools_platform.state.service import StateService

if TYPE_CHECKING:
    from devtools_platform.app.models import ServedModel
    from devtools_platform.app.observing import Observed

_PUBLISHED_AS = {"integrations": "webhooks"}
"""What of a service is at its address, where that is not all of it."""
_SEPARATE_PORTS: tuple[Service, ...] = ("gateway", "context", "state", "console")


@dataclass(frozen=True)
class Running:
    """What is up."""

    data_dir: Path
    urls: Urls
    token: str
    console_link: str | None
    """Opens the console once, within a quarter of an hour; None where the console runs elsewhere."""
    model: "ServedModel | None"
    """None where no agents run."""
    started_in_s: float


def facts_of(running: Running) -> dict[str, Any]:
    """What `up --json` prints."""
    info = running.model.info if running.model else None
    return {
        "urls": dict(running.urls.known),
        "console_link": running.console_link,
        "model": info.model_dump() if info else None,
        "started_in_s": round(running.started_in_s, 2),
    }


@dataclass
class Stack:
    """One stack, or the services of one that are named. Use `run`, which also stops it."""

    settings: Settings
    progress: Progress
    services: frozenset[Service] = ALL_SERVICES

    @asynccontextmanager
    async def run(self) -> AsyncGenerator[Running]:
        """Start everything, yield when it answers, stop it on the way out whatever happened."""
        began = time.perf_counter()
        self._check()
        home = Home.of(self.settings)
        home.prepare()
        async with AsyncExitStack() as cleanup:
            cleanup.enter_context(_own(home))
            # Alone in a container, what a service logs belongs to the container's log.
            cleanup.enter_context(log_to(home.logs / "stack.log") if self._is_whole else log_to_terminal())
            sockets = self._bind(cleanup)
            running = await self._start(home, sockets, cleanup, began)
            home.announce({"pid": os.getpid(), "urls": dict(running.urls.known), "model": _describe(running.model)})
            cleanup.callback(home.withdraw)
            yield running

    @property
    def _is_whole(self) -> bool:
        return self.services == ALL_SERVICES

    def _check(self) -> None:
        """Raises `BadInput` for services that cannot run apart with these settings."""
        if self._is_whole:
            return
        names = ", ".join(sorted(self.services))
        if self.settings.database_url is None:
            raise BadInput(
                f"{names} alone need a database that the other services reach.", hint="Set DATABASE_URL, or its _FILE."
            )
        if "integrations" in self.services and not has_integrations(self.settings):
            raise BadInput(
                "The integrations have nothing to listen for.",
                hint="Set DEV_TOOLS_GITHUB_WEBHOOK_SECRET or DEV_TOOLS_LINEAR_WEBHOOK_SECRET.",
            )

    def _bind(self, cleanup: AsyncExitStack) -> dict[str, socket.socket]:
        settings = self.settings
        ports: dict[str, int] = {
            name: getattr(settings, f"{name}_port") for name in _SEPARATE_PORTS if name in self.services
        }
        if "agents" in self.services and "gateway" not in self.services:
            ports["agents"] = settings.agents_port
        if "integrations" in self.services and has_integrations(settings):
            ports["integrations"] = settings.webhook_port
        sockets: dict[str, socket.socket] = {}
        for name, port in ports.items():
            sockets[name] = bind(settings.host, port, _port_setting(name))
            cleanup.callback(sockets[name].close)
        return sockets

    def _urls(self, sockets: dict[str, socket.socket]) -> Urls:
        given = {name: getattr(self.settings, f"{name}_url") for name in (*_SEPARATE_PORTS, "agents")}
        elsewhere = {name: url for name, url in given.items() if url is not None and not self._is_whole}
        here = {
            _PUBLISHED_AS.get(name, name): f"http://{self.settings.host}:{s.getsockname()[1]}"
            for name, s in sockets.items()
        }
        return Urls({**elsewhere, **here})

    async def _start(
        self, home: Home, sockets: dict[str, socket.socket], cleanup: AsyncExitStack, began: float
    ) -> Running:
        store, url = await self._start_database(cleanup)
        spans = SqlSpanStore(store, sink_names(self.settings))
        observed = self._observe(home, store)
        if observed is not None:
            cleanup.push_async_callback(observed.stop)
        tracing = cleanup.enter_context(trace_to(spans, self.settings))
        if observed is not None:
            observed.start(tracing)
        serving = Serving()
        control = DbosControl(store)
        state = StateService(store, control, GitWorkspaces(home.workspaces, self.settings.min_free_disk_mb))
        parts = StateParts(state, EventLog(store), ApprovalDesk(store, control), AuditLog(store))
        urls = self._urls(sockets)
        site = Site(
            self.settings, home, self.services, store, url, urls, control, parts, sockets, serving, cleanup,
            self.progress,
        )  # fmt: skip
        home.keep_secret("database_url", url)
        runtimes = await start_services(site, observed)
        link = await self._invite(site)
        model = runtimes.main if runtimes else None
        return Running(home.path, urls, site.token, link, model, time.perf_counter() - began)

    def _observe(self, home: Home, store: sa.Engine) -> "Observed | None":
        if "state" not in self.services:
            return None
        from devtools_platform.app.observing import Observed

        return Observed(self.settings, home, store)

    async def _invite(self, site: Site) -> str | None:
        if "console" not in self.services:
            return None
        from devtools_platform.app.console import invite

        return (await invite(site.urls.of("console"), site.token))["url"]

    async def _start_database(self, cleanup: AsyncExitStack) -> tuple[sa.Engine, str]:
        if self.settings.database_url is not None:
            url = self.settings.database_url.get_secret_value()
            self.progress("database", "where DATABASE_URL says")
        else:
            from devtools_platform.state.adapters.embedded_postgres import EmbeddedPostgres

            postgres = EmbeddedPostgres(self.settings.data_dir)
            url = await postgres.start(lambda text: self.progress("database", text))
            cleanup.push_async_callback(postgres.stop)
            watch = asyncio.create_task(postgres.watch())
            cleanup.push_async_callback(cancel, watch)
        engine = database.connect(url)
        cleanup.callback(engine.dispose)
        await asyncio.to_thread(database.migrate, engine)
        return engine, url


def _describe(model: "ServedModel | None") -> str | None:
    if model is None:
        return None
    from devtools_platform.app.models import describe_model

    return describe_model(model)


def _port_setting(service: str) -> str:
    return "DEV_TOOLS_WEBHOOK_PORT" if service == "integrations" else f"DEV_TOOLS_{service.upper()}_PORT"


@contextlib.contextmanager
def _own(home: Home) -> Any:
    lock: IO[str] = home.lock()
    try:
        yield
    finally:
        lock.close()
