"""Webhooks out over SQL and HTTP: who is told, what is new for them, and the courier that brings it."""

import secrets
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

import httpx2
import sqlalchemy as sa

from devtools_platform.core.errors import BadInput, Forbidden, NotFound, Unavailable
from devtools_platform.integrations.interfaces import Refused, TryLater
from devtools_platform.integrations.types import Parcel
from devtools_platform.integrations.webhooks import Happened, Hook, content_of, headers_of, read_hook, secret_of
from devtools_platform.kit import schema
from devtools_platform.kit.database import in_thread

OVERLAP = timedelta(seconds=60)
"""A transaction may become visible later than its time says. What is read twice is stored once, by its key."""
MAX_HOOKS = 50
GONE = 410

Fetch = Callable[[httpx2.Request], Awaitable[httpx2.Response]]


@dataclass(frozen=True)
class SqlHooks:
    database: sa.Engine

    async def add(self, url: str, events: Sequence[str]) -> Hook:
        """Told of what happens from now on. Raises `BadInput`."""
        where, wanted = read_hook(url, events)
        if len(await self.list_hooks()) >= MAX_HOOKS:
            raise BadInput(f"There are {MAX_HOOKS} webhooks already.", hint="Remove one: `dev-tools webhooks list`.")
        hook = Hook(secrets.token_hex(4), where, wanted, datetime.now(UTC))
        row = {"id": hook.id, "url": where, "events": list(wanted), "told_at": hook.told_at}
        await in_thread(self.database, lambda c: c.execute(sa.insert(schema.webhooks).values(row)))
        return hook

    async def list_hooks(self) -> list[Hook]:
        """Those that have not ended, oldest first."""
        table = schema.webhooks
        query = sa.select(table).where(table.c.ended_at.is_(None)).order_by(table.c.created_at, table.c.id)
        rows = await in_thread(self.database, lambda c: c.execute(query).all())
        return [_hook(row) for row in rows]

    async def find(self, id_: str) -> Hook:
        """Raises `NotFound` for one that is not there any more."""
        found = next((hook for hook in await self.list_hooks() if hook.id == id_), None)
        if found is None:
            raise NotFound(f"There is no webhook {id_!r}.", hint="See `dev-tools webhooks list`.")
        return found

    async def end(self, id_: str, note: str) -> Hook:
        """Nothing is sent there any more, what waits in the outbox among it. Raises `NotFound`."""
        hook = await self.find(id_)
        table = schema.webhooks
        change = sa.update(table).where(table.c.id == id_).values(ended_at=datetime.now(UTC), note=note)
        await in_thread(self.database, lambda c: c.execute(change))
        return hook

    async def list_news(self, hook: Hook) -> Sequence[Happened]:
        """What happened since the hook was told, and a little before; of tasks that live or have just ended."""
        tasks, events = schema.tasks, schema.events
        since = hook.told_at - OVERLAP
        query = (
            sa.select(events)
            .join(tasks, tasks.c.id == events.c.task_id)
            .where(
                sa.or_(tasks.c.ended_at.is_(None), tasks.c.ended_at > since),
                events.c.at > since,
                events.c.at > (hook.created_at or since),
                events.c.kind.in_(hook.kinds),
            )
            .order_by(events.c.task_id, events.c.seq)
        )
        rows = await in_thread(self.database, lambda c: c.execute(query).all())
        return [Happened(row.task_id, row.seq, row.kind, row.agent, dict(row.data), row.at) for row in rows]

    async def set_told(self, hook: Hook, at: datetime) -> None:
        table = schema.webhooks
        change = sa.update(table).where(table.c.id == hook.id).values(told_at=at)
        await in_thread(self.database, lambda c: c.execute(change))


@dataclass(frozen=True)
class HookCourier:
    """See `interfaces.Courier`. `secret` is the stack's."""

    hooks: SqlHooks
    fetch: Fetch
    secret: str

    async def send(self, parcel: Parcel) -> str | None:
        """Anything but 2xx is tried again for hours; 410 ends the hook."""
        body: dict[str, Any] = dict(parcel.message.body)
        try:
            hook = await self.hooks.find(body["hook"])
        except NotFound as error:
            raise Refused(str(error), hint=error.hint) from None
        try:
            answer = await self.fetch(request_for(hook, self.secret, parcel.message.key, content_of(body)))
        except (BadInput, Forbidden) as error:
            raise Refused(str(error), hint=error.hint) from None
        except Unavailable as error:
            raise TryLater(str(error)) from None
        if answer.status_code == GONE:
            await self.hooks.end(hook.id, "it answered 410 Gone")
            raise Refused(f"{hook.url} is gone.", hint="Add another one.")
        if not answer.is_success:
            raise TryLater(f"{hook.url} answered HTTP {answer.status_code}")
        return None


def request_for(hook: Hook, stack_secret: str, key: str, content: bytes) -> httpx2.Request:
    """A signed request, of now."""
    headers = headers_of(secret_of(stack_secret, hook.id), key, content, int(time.time()))
    return httpx2.Request("POST", hook.url, headers=headers, content=content)


def _hook(row: sa.Row[Any]) -> Hook:
    return Hook(row.id, row.url, tuple(row.events), row.told_at, row.created_at, row.ended_at, row.note)
