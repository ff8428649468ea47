"""Sends spans from the store to other receivers, each at its own pace, until they have them.

Each sink has a loop of its own. What it could not send waits in the outbox through restarts, is counted, and is
sent when the sink is back; only what the sink refuses for good, or what retention has removed, is lost, and
counted too.
"""

import asyncio
import contextlib
import logging
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Protocol

import httpx2

from devtools_platform.core.errors import DevToolsError
from devtools_platform.kit.tls import tls_context
from devtools_platform.observability.interfaces import Batch, SpanRow
from devtools_platform.observability.metrics import EXPORT_FAILURES, SPANS_LOST, SPANS_PENDING, SPANS_SENT

log = logging.getLogger(__name__)

BATCH = 200
IDLE_S = 1.0
FIRST_WAIT_S = 1.0
LONGEST_WAIT_S = 60.0


class SinkAway(Exception):
    """The sink did not take a batch now; it may later."""


class Rejected(Exception):
    """The sink will never take this batch as it is."""


class Sink(Protocol):
    @property
    def name(self) -> str: ...

    @property
    def url(self) -> str: ...

    async def send(self, http: httpx2.AsyncClient, rows: Sequence[SpanRow]) -> int:
        """Returns how many were taken. Raises `SinkAway` or `Rejected`."""
        ...


class Outbox(Protocol):
    async def read(self, sink: str, limit: int) -> Batch: ...

    async def remove(self, sink: str, rows: Sequence[SpanRow]) -> None: ...


@dataclass
class SinkState:
    """How a sink does, for people."""

    name: str
    url: str
    pending: int | None = None
    """None until it was looked at."""
    sent: int = 0
    lost: int = 0
    last_sent_at: datetime | None = None
    last_error: str | None = None
    """None since the last batch that was taken."""


@dataclass
class Forwarder:
    """Use `run`. `states` may be read at any time."""

    outbox: Outbox
    sinks: Sequence[Sink]
    first_wait_s: float = FIRST_WAIT_S
    states: dict[str, SinkState] = field(default_factory=dict[str, SinkState])

    def __post_init__(self) -> None:
        self.states = {sink.name: SinkState(sink.name, sink.url) for sink in self.sinks}

    async def run(self) -> None:
        """Until cancelled."""
        async with httpx2.AsyncClient(verify=tls_context()) as http, asyncio.TaskGroup() as group:
            for sink in self.sinks:
                group.create_task(self._feed(http, sink))

    async def flush(self, for_s: float) -> None:
        """Send what waits, for at most so long: for the end of a process."""
        with contextlib.suppress(TimeoutError, SinkAway, DevToolsError):
            async with asyncio.timeout(for_s), httpx2.AsyncClient(verify=tls_context()) as http:
                for sink in self.sinks:
                    while await self._send_some(http, sink):
                        pass

    async def _feed(self, http: httpx2.AsyncClient, sink: Sink) -> None:
        wait = self.first_wait_s
        while True:
            try:
                is_more = await self._send_some(http, sink)
                wait = self.first_wait_s
                await asyncio.sleep(0 if is_more else IDLE_S)
            except (SinkAway, DevToolsError) as error:
                self._note_failure(sink, error)
                await asyncio.sleep(wait)
                wait = min(wait * 2, LONGEST_WAIT_S)
            except Exception:  # a loop that ends would be a silent loss
                log.exception("sending spans to %s broke; it goes on", sink.name)
                EXPORT_FAILURES.labels(sink.name).inc()
                await asyncio.sleep(LONGEST_WAIT_S)

    async def _send_some(self, http: httpx2.AsyncClient, sink: Sink) -> bool:
        """One batch. Returns whether more may wait."""
        batch = await self.outbox.read(sink.name, BATCH)
        state = self.states[sink.name]
        self._count_pending(state, batch.pending)
        if batch.gone:
            self._lose(state, batch.gone, "they were removed before the sink took them")
        if not batch.rows:
            return False
        taken = await self._send(http, sink, batch.rows)
        state.sent += taken
        state.last_sent_at, state.last_error = datetime.now(UTC), None
        SPANS_SENT.labels(sink.name).inc(taken)
        self._count_pending(state, batch.pending - len(batch.rows))
        return len(batch.rows) == BATCH

    async def _send(self, http: httpx2.AsyncClient, sink: Sink, rows: Sequence[SpanRow]) -> int:
        """All of `rows`; a batch that is refused is halved until the span that spoils it is found."""
        try:
            taken = await sink.send(http, rows)
            if taken < len(rows):
                self._lose(self.states[sink.name], len(rows) - taken, "the sink rejected them")
        except Rejected as error:
            if len(rows) > 1:
                half = len(rows) // 2
                return await self._send(http, sink, rows[:half]) + await self._send(http, sink, rows[half:])
            self._lose(self.states[sink.name], 1, f"{rows[0].name} {rows[0].span_id}: {error}")
            taken = 0
        await self.outbox.remove(sink.name, rows)
        return taken

    def _note_failure(self, sink: Sink, error: Exception) -> None:
        EXPORT_FAILURES.labels(sink.name).inc()
        state = self.states[sink.name]
        if state.last_error is None:  # once per outage, not once per attempt
            log.warning("%s at %s takes no spans: %s; they wait in the store", sink.name, sink.url, error)
        state.last_error = str(error)[:500]

    def _lose(self, state: SinkState, number: int, why: str) -> None:
        state.lost += number
        SPANS_LOST.labels(state.name).inc(number)
        log.warning("%d spans are lost to %s: %s", number, state.name, why)

    def _count_pending(self, state: SinkState, pending: int) -> None:
        state.pending = pending
        SPANS_PENDING.labels(state.name).set(pending)
