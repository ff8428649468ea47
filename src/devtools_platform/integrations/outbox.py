"""The outbox at work: each subject's messages in order, with back-off, never one twice.

A message whose outcome is not known (we died, or the answer was lost) is marked as in doubt; its courier looks
whether it arrived before it sends it again. A rate limit stops everything for that service until it is over.
"""

import asyncio
import logging
import random
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta

from prometheus_client import Counter

from devtools_platform.core.errors import DevToolsError
from devtools_platform.integrations.interfaces import Courier, OutboxStore, Refused, TryLater
from devtools_platform.integrations.types import Parcel

log = logging.getLogger(__name__)

SENT = Counter("devtools_outbox_messages_total", "Messages to services outside", ["service", "outcome"])

POLL_S = 0.5
FIRST_WAIT_S = 1.0
LONGEST_WAIT_S = 300.0
AT_ONCE = 8
GIVE_UP_AFTER = 40
"""Attempts, which with the longest wait are about three hours; waits the service asked for come on top."""


@dataclass
class Outbox:
    store: OutboxStore
    couriers: Mapping[str, Courier]
    poll_s: float = POLL_S
    first_wait_s: float = FIRST_WAIT_S
    _blocked: dict[str, datetime] = field(default_factory=dict[str, datetime])
    _wake: asyncio.Event = field(default_factory=asyncio.Event)

    def wake(self) -> None:
        """There is something new."""
        self._wake.set()

    async def run(self) -> None:
        """Send, until cancelled."""
        await self.store.recover()
        while True:
            try:
                sent = await self.send_due()
            except DevToolsError as error:
                log.warning("the outbox waits: %s", error)
                sent = 0
            except Exception:
                log.exception("the outbox broke; it is tried again")
                sent = 0
            if not sent:
                await self._rest()

    async def send_due(self) -> int:
        """One round; returns how many messages it took up."""
        parcels = await self.store.take(AT_ONCE)
        await asyncio.gather(*(self._send(parcel) for parcel in parcels))
        return len(parcels)

    async def _rest(self) -> None:
        self._wake.clear()
        try:
            async with asyncio.timeout(self.poll_s):
                await self._wake.wait()
        except TimeoutError:
            return

    async def _send(self, parcel: Parcel) -> None:
        service = parcel.message.service
        blocked = self._blocked.get(service)
        if blocked is not None and blocked > _now():
            await self.store.postpone(parcel, blocked, "a rate limit", is_in_doubt=False)
            return
        try:
            remote_id = await self.couriers[service].send(parcel)
        except TryLater as error:
            await self._postpone(parcel, error)
        except Refused as error:
            await self._fail(parcel, str(error))
        except Exception as error:
            log.exception("message %s broke its courier", parcel.message.key)
            await self._postpone(parcel, TryLater(f"{type(error).__name__} in our courier", is_in_doubt=True))
        else:
            await self.store.arrive(parcel, remote_id)
            SENT.labels(service, "arrived").inc()

    async def _postpone(self, parcel: Parcel, error: TryLater) -> None:
        service = parcel.message.service
        if parcel.attempts + 1 >= GIVE_UP_AFTER:
            await self._fail(parcel, f"given up after {parcel.attempts + 1} attempts: {error}")
            return
        wait = error.after_s if error.after_s is not None else self._back_off(parcel.attempts)
        until = _now() + timedelta(seconds=wait)
        if error.is_for_all:
            self._blocked[service] = max(until, self._blocked.get(service, until))
        await self.store.postpone(parcel, until, str(error), is_in_doubt=error.is_in_doubt)
        SENT.labels(service, "postponed").inc()

    async def _fail(self, parcel: Parcel, why: str) -> None:
        log.error("%s did not take message %s: %s", parcel.message.service, parcel.message.key, why)
        await self.store.fail(parcel, why)
        SENT.labels(parcel.message.service, "failed").inc()

    def _back_off(self, attempts: int) -> float:
        wait = min(self.first_wait_s * 2**attempts, LONGEST_WAIT_S)
        return wait * random.uniform(0.75, 1.25)  # noqa: S311 - so that many do not come back at once


def _now() -> datetime:
    return datetime.now(UTC)
