"""What every service of a process stands on: settings, data directory, database, addresses, and what ends with it."""

import asyncio
import contextlib
import socket
from collections.abc import Callable, Coroutine, Mapping
from contextlib import AsyncExitStack
from dataclasses import dataclass
from typing import Any, get_args

import sqlalchemy as sa
from starlette.types import ASGIApp

from devtools_platform.app.admission import Admission
from devtools_platform.app.home import Home
from devtools_platform.app.serving import Serving
from devtools_platform.config import Settings
from devtools_platform.config.settings import Service
from devtools_platform.core.errors import BadInput
from devtools_platform.state.adapters.dbos.control import DbosControl
from devtools_platform.state.parts import StateParts

Progress = Callable[[str, str], None]
"""Called with a part's name and what it is doing or where it listens."""

ALL_SERVICES: frozenset[Service] = frozenset(get_args(Service))


@dataclass(frozen=True)
class Urls:
    """Where the services of a stack are, as far as this process knows."""

    known: Mapping[str, str]

    def of(self, service: Service) -> str:
        """Raises `BadInput` naming the setting for a service that runs elsewhere, nobody said where."""
        if service not in self.known:
            name = f"DEV_TOOLS_{service.upper()}_URL"
            raise BadInput(f"This service needs {name}.", hint=f"Set {name} to where `up --only {service}` listens.")
        return self.known[service].rstrip("/")


@dataclass(frozen=True)
class Site:
    """One process of a stack: all services, or the few it was started with."""

    settings: Settings
    home: Home
    services: frozenset[Service]
    store: sa.Engine
    database_url: str
    urls: Urls
    control: DbosControl
    parts: StateParts
    sockets: Mapping[str, socket.socket]
    serving: Serving
    cleanup: AsyncExitStack
    progress: Progress

    @property
    def token(self) -> str:
        return self.home.secret("token")

    @property
    def secret(self) -> str:
        return self.home.secret("secret")

    @property
    def admission(self) -> Admission:
        return Admission(self.settings, runs_commands=self.has("gateway"))

    def has(self, service: Service) -> bool:
        return service in self.services

    async def serve(self, service: Service, app: ASGIApp) -> None:
        """Returns when it answers. It ends with the process's other services, in the reverse order."""
        await self.serving.serve(app, self.sockets[service])
        self.progress(service, self.urls.of(service))

    def keep_running(self, work: Coroutine[Any, Any, None]) -> None:
        """In the background until the process ends."""
        self.cleanup.push_async_callback(cancel, asyncio.create_task(work))


def has_integrations(settings: Settings) -> bool:
    """Whether GitHub or Linear may knock."""
    return settings.github_webhook_secret is not None or settings.linear_webhook_secret is not None


async def cancel(task: "asyncio.Task[None]") -> None:
    task.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await task
