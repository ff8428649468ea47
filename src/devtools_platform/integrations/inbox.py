"""The inbox: deliveries are stored in one transaction a batch, acknowledged, and worked afterwards, in order."""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta

from prometheus_client import Counter

from devtools_platform.core.errors import DevToolsError, Unavailable
from devtools_platform.integrations.interfaces import InboxStore
from devtools_platform.integrations.types import Delivery, Outcome, Received

log = logging.getLogger(__name__)

WORKED = Counter("devtools_webhooks_worked_total", "Webhooks by what became of them", ["service", "outcome"])

Handler = Callable[[Received], Awaitable[Outcome]]

POLL_S = 0.5
BATCH = 100
GIVE_UP_AFTER = 30
LONGEST_WAIT_S = 60.0


@dataclass
class Intake:
    """Stores deliveries of many requests together: a transaction each would not bear a burst."""

    store: InboxStore
    _waiting: list[tuple[Delivery, asyncio.Future[bool]]] = field(
        default_factory=list[tuple[Delivery, asyncio.Future[bool]]]
    )
    _writer: asyncio.Task[None] | None = None

    async def put(self, delivery: Delivery) -> bool:
        """Whether it is new. Returns when it is on disk; raises `Away` when the database is."""
        result: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
        self._waiting.append((delivery, result))
        if self._writer is None or self._writer.done():
            self._writer = asyncio.create_task(self._write())
        return await result

    async def _write(self) -> None:
        while self._waiting:
            batch, self._waiting = self._waiting, []
            try:
                news = await self.store.put([delivery for delivery, _ in batch])
            except Exception as error:  # noqa: BLE001 - it belongs to those who wait
                for _, result in batch:
                    if not result.done():
                        result.set_exception(error)
                continue
            for (_, result), is_new in zip(batch, news, strict=True):
                if not result.done():
                    result.set_result(is_new)


@dataclass
class Inbox:
    store: InboxStore
    handlers: Mapping[str, Handler]
    poll_s: float = POLL_S
    _wake: asyncio.Event = field(default_factory=asyncio.Event)

    def wake(self) -> None:
        """Something has come in."""
        self._wake.set()

    async def run(self) -> None:
        """Work, until cancelled."""
        while True:
            try:
                worked = await self.work_due()
            except DevToolsError as error:
                log.warning("the inbox waits: %s", error)
                worked = 0
            except Exception:
                log.exception("the inbox broke; it is tried again")
                worked = 0
            if not worked:
                self._wake.clear()
                with suppress(TimeoutError):
                    async with asyncio.timeout(self.poll_s):
                        await self._wake.wait()

    async def work_due(self) -> int:
        """Work what is due; returns how many deliveries."""
        received = await self.store.take(BATCH)
        for delivery in received:
            await self._work(delivery)
        return len(received)

    async def _work(self, delivery: Received) -> None:
        try:
            outcome = await self.handlers[delivery.service](delivery)
        except Unavailable as error:
            await self._postpone(delivery, str(error))
        except DevToolsError as error:
            await self._fail(delivery, str(error))
        except Exception as error:
            log.exception("delivery %s broke its handler", delivery.id)
            await self._postpone(delivery, type(error).__name__)
        else:
            await self.store.finish(delivery.number, outcome)
            WORKED.labels(delivery.service, outcome.state).inc()

    async def _postpone(self, delivery: Received, why: str) -> None:
        if delivery.attempts + 1 >= GIVE_UP_AFTER:
            await self._fail(delivery, why)
            return
        wait = min(2.0**delivery.attempts, LONGEST_WAIT_S)
        await self.store.postpone(delivery.number, datetime.now(UTC) + timedelta(seconds=wait), why)

    async def _fail(self, delivery: Received, why: str) -> None:
        log.warning("delivery %s of %s was not worked: %s", delivery.id, delivery.service, why)
        await self.store.fail(delivery.number, why)
        WORKED.labels(delivery.service, "failed").inc()
