"""Messages that came while nobody listened: the library is told of each by PostgreSQL, on one connection.

Where that connection is lost, with the server or alone, it makes another a second later. What was sent in between
is in its table, and who waits for it would look there minutes later. Here it is looked for as soon as the new
connection is there, once for all who wait.
"""

import asyncio
import logging
from typing import Any

import sqlalchemy as sa
from dbos import DBOS

log = logging.getLogger(__name__)

LOOK_S = 1.0
LOOKS = 3
"""How often it is looked for after a new connection, which hears nothing for a moment yet."""


class Messages:
    """Of the workflows that wait in this process."""

    def __init__(self, dbos: DBOS) -> None:
        self._system: Any = dbos._sys_db  # noqa: SLF001 # pyright: ignore[reportPrivateUsage]

    async def follow(self) -> None:
        """Until cancelled. On SQLite there is no such connection, and the library polls."""
        seen, due = None, 0
        while True:
            await asyncio.sleep(LOOK_S)
            connection = getattr(self._system, "notification_conn", None)
            if connection is not seen:
                seen, due = connection, LOOKS
            if connection is None or not due:
                continue
            try:
                await asyncio.to_thread(self._deliver)
                due -= 1
            except Exception as error:  # noqa: BLE001 - the next look comes in any case
                log.debug("messages that nobody was told of could not be looked for: %s", error)

    def _deliver(self) -> None:
        waiting = self._system.notifications_map.snapshot()
        if not waiting:
            return
        table = self._system.tables.notifications
        unread = sa.select(table.c.destination_uuid, table.c.topic).where(
            table.c.consumed.is_(False), table.c.destination_uuid.in_({to for _, (to, _, _), _ in waiting})
        )
        with self._system.engine.begin() as connection:
            found = {tuple(row) for row in connection.execute(unread)}
        for _, (to, topic, _), signal in waiting:
            if (to, topic) in found:
                signal.set()
