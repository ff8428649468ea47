"""A gateway process among others on one database: it says that it lives, so that its running calls are let alone."""

import asyncio
import logging
import uuid
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any

import sqlalchemy as sa

from devtools_platform.core.errors import DevToolsError
from devtools_platform.kit.database import in_thread
from devtools_platform.kit.life import DEAD_AFTER_S, HEARTBEAT_S, Life
from devtools_platform.kit.recurring import keep_doing
from devtools_platform.kit.schema import CurrentTime, gateways

log = logging.getLogger(__name__)

FORGET_AFTER = timedelta(days=1)


@dataclass
class Presence:
    """Of this process. Its id is of this life and no other: a gateway that starts again holds nothing."""

    database: sa.Engine
    id: str = field(default_factory=lambda: uuid.uuid4().hex)
    _task: asyncio.Task[None] | None = field(default=None, repr=False)

    async def start(self) -> None:
        """Say that this gateway is there, and go on saying it. Raises `Away` when the database is."""
        await in_thread(self.database, self._say_alive)
        await in_thread(self.database, _forget)
        self._task = asyncio.create_task(self._run())

    async def stop(self) -> None:
        """What this gateway had begun and not ended is from now on known to be interrupted."""
        if self._task is not None:
            self._task.cancel()
            with suppress(asyncio.CancelledError):
                await self._task
        try:
            await in_thread(self.database, lambda c: c.execute(sa.delete(gateways).where(gateways.c.id == self.id)))
        except DevToolsError as error:
            log.warning("could not say good-bye; others will notice: %s", error)

    async def _run(self) -> None:
        await asyncio.sleep(HEARTBEAT_S)
        await keep_doing("the gateway's heartbeat", lambda: in_thread(self.database, self._say_alive), HEARTBEAT_S)

    def _say_alive(self, connection: sa.Connection) -> None:
        mine = sa.update(gateways).where(gateways.c.id == self.id)
        if not connection.execute(mine.values(heartbeat_at=CurrentTime())).rowcount:
            connection.execute(sa.insert(gateways).values(id=self.id, **Life.own().facts()))


def is_alive(connection: sa.Connection, id_: str | None) -> bool:
    """Whether a gateway may still be at work. By the database's clock: hosts disagree about the time."""
    found = connection.execute(sa.select(gateways, CurrentTime().label("now")).where(gateways.c.id == id_)).first()
    return found is not None and _silent_s(found) <= DEAD_AFTER_S and _life(found).may_run()


def _forget(connection: sa.Connection) -> None:
    """Those that are long gone."""
    for row in connection.execute(sa.select(gateways, CurrentTime().label("now"))).all():
        if row.now - row.heartbeat_at > FORGET_AFTER:
            connection.execute(sa.delete(gateways).where(gateways.c.id == row.id))


def _life(row: sa.Row[Any]) -> Life:
    return Life(row.process_space, row.pid, row.process_started_at)


def _silent_s(row: sa.Row[Any]) -> float:
    return (row.now - row.heartbeat_at).total_seconds()
