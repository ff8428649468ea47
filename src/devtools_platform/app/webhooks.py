"""Webhooks out, wired: a loop that finds news of tasks, an outbox of their own, and what the commands do."""

import asyncio
import hashlib
import logging
import time
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import sqlalchemy as sa

from devtools_platform.app.client import actor
from devtools_platform.app.home import Home
from devtools_platform.config import Settings
from devtools_platform.core.errors import DevToolsError, NotRunning
from devtools_platform.gateway.upstreams.fetch import Fetch
from devtools_platform.integrations.adapters.sql import SqlOutbox
from devtools_platform.integrations.adapters.webhooks import HookCourier, SqlHooks, request_for
from devtools_platform.integrations.outbox import Outbox
from devtools_platform.integrations.webhooks import Hook, content_of, secret_of, to_message
from devtools_platform.kit import database
from devtools_platform.kit.tls import tls_context
from devtools_platform.state.audit import Deed, record

log = logging.getLogger(__name__)

POLL_S = 1.0
IDLE_S = 5.0
"""How often a stack without webhooks looks whether there is one now."""


@dataclass(frozen=True)
class Webhooks:
    """Tells, until cancelled."""

    hooks: SqlHooks
    store: SqlOutbox
    outbox: Outbox
    poll_s: float = POLL_S

    async def run(self) -> None:
        sending: asyncio.Task[None] | None = None
        try:
            while True:
                hooks = await self._tell()
                if hooks and sending is None:
                    sending = asyncio.create_task(self.outbox.run())
                await asyncio.sleep(self.poll_s if sending else IDLE_S)
        finally:
            if sending is not None:
                sending.cancel()

    async def _tell(self) -> int:
        try:
            hooks = await self.hooks.list_hooks()
            for hook in hooks:
                await self.tell(hook)
        except DevToolsError as error:
            log.warning("webhooks are not told for now: %s", error)
            return 0
        except Exception:
            log.exception("telling webhooks broke; it is tried again")
            return 0
        return len(hooks)

    async def tell(self, hook: Hook) -> None:
        """Put what is new into the outbox. What is there already, by its key, stays as it is."""
        now = datetime.now(UTC)
        news = [to_message(hook, event) for event in await self.hooks.list_news(hook)]
        if news:
            await self.store.put(news)
            self.outbox.wake()
        await self.hooks.set_told(hook, now)


def build_webhooks(settings: Settings, home: Home, store: sa.Engine) -> Webhooks:
    hooks = SqlHooks(store)
    owner = hashlib.sha256(f"webhooks:{home.path.resolve()}".encode()).hexdigest()[:16]
    outbox = SqlOutbox(store, owner, ("webhook",))
    courier = HookCourier(hooks, _fetch(settings), home.secret("secret"))
    return Webhooks(hooks, outbox, Outbox(outbox, {"webhook": courier}))


# -- for commands ----------------------------------------------------------------------------------------------------


async def add_webhook(home: Home, url: str, events: list[str]) -> dict[str, Any]:
    """The new webhook, its secret among it. Raises `BadInput`."""
    async with _open(home) as hooks:
        hook = await hooks.add(url, events)
        await _note(hooks, "webhook.add", hook)
    return {**_shown(hook), "secret": secret_of(home.secret("secret"), hook.id)}


async def list_webhooks(home: Home) -> list[dict[str, Any]]:
    async with _open(home) as hooks:
        return [_shown(hook) for hook in await hooks.list_hooks()]


async def remove_webhook(home: Home, id_: str) -> dict[str, Any]:
    """Raises `NotFound`."""
    async with _open(home) as hooks:
        hook = await hooks.end(id_, "removed")
        await _note(hooks, "webhook.remove", hook)
    return _shown(hook)


async def try_webhook(settings: Settings, home: Home, id_: str) -> dict[str, Any]:
    """Send one signed `dev-tools.test` now. Raises `NotFound`, and what says that nobody could be reached."""
    async with _open(home) as hooks:
        hook = await hooks.find(id_)
    body = {"type": "dev-tools.test", "timestamp": datetime.now(UTC).isoformat(), "data": {"webhook": hook.id}}
    began = time.perf_counter()
    request = request_for(hook, home.secret("secret"), f"test:{time.time_ns()}", content_of(body))
    answer = await _fetch(settings)(request)
    return {**_shown(hook), "status": answer.status_code, "duration_s": round(time.perf_counter() - began, 3)}


def _fetch(settings: Settings) -> Fetch:
    return Fetch(tls_context(), settings.webhooks_allow_private)


@asynccontextmanager
async def _open(home: Home) -> AsyncGenerator[SqlHooks]:
    url = home.find_secret("database_url")
    if url is None:
        raise NotRunning(f"No stack has ever run on {str(home.path)!r}.", hint="Start one with `dev-tools up`.")
    home.read_announcement()
    engine = database.connect(url)
    try:
        yield SqlHooks(engine)
    finally:
        engine.dispose()


async def _note(hooks: SqlHooks, action: str, hook: Hook) -> None:
    deed = Deed(actor(), action, f"webhook:{hook.id}", {"url": hook.url, "events": list(hook.events)})
    await database.in_thread(hooks.database, lambda c: record(c, deed))


def _shown(hook: Hook) -> dict[str, Any]:
    return {"id": hook.id, "url": hook.url, "events": list(hook.events) or ["all"]}
