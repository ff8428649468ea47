"""Who called what, with what outcome: noted on the call path, hashed into a chain and stored in batches beside it.

Each line's hash covers the line before it, so that a line cannot be changed or taken out unseen. A crash loses at
most the batch that was not yet written; calls under an idempotency key have their own record before they run.
"""

import asyncio
import hashlib
import logging
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from itertools import islice
from typing import Any, Protocol

import msgspec

from devtools_platform.core.errors import TooLate
from devtools_platform.core.redact import holds_secret, redact

log = logging.getLogger(__name__)

FLUSH_EVERY_S = 1.0
MAX_BATCH = 2_000
"""Lines stored in one transaction; reaching it does not wait for the time."""
MAX_HASHED_AT_ONCE = 100
"""Lines hashed before calls get their turn: a few milliseconds."""
MAX_BACKLOG = 20_000
"""Notes kept while the store is away. Beyond it calls are refused: an unaudited call must not happen."""
MAX_ARGUMENT_BYTES = 4_000
GENESIS = "0" * 64
Mask = Callable[[str], str]


@dataclass(slots=True)
class Note:
    """One call as it was seen on the call path. Small, whatever the call carried: many wait while the store is away."""

    at: float
    principal: str
    agent: str | None
    task_id: str
    server: str
    tool: str
    decision: str
    outcome: str
    duration_s: float
    trace_id: str | None
    arguments: bytes
    """JSON, secrets not yet masked."""
    result_hash: str | None


class Line(msgspec.Struct, frozen=True):
    """One line of the audit log."""

    seq: int
    at: float
    principal: str
    agent: str | None
    task_id: str
    server: str
    tool: str
    arguments: str
    """JSON, secrets masked."""
    decision: str
    outcome: str
    result_hash: str | None
    duration_s: float
    trace_id: str | None
    previous: str
    hash: str


@dataclass(frozen=True)
class Chain:
    """What a check of the log found. Keep `head` elsewhere: a later log must still contain it."""

    entries: int
    head: str
    broken_at: int | None
    """The first line that does not follow from the one before."""


class AuditStore(Protocol):
    """Where lines are kept, in order, for good."""

    async def last(self) -> tuple[int, str]:
        """Number and hash of the last line; (0, GENESIS) when there is none."""
        ...

    async def append(self, lines: Sequence[Line]) -> None:
        """All or none. Raises `TooLate` when another process has written in the meantime."""
        ...

    async def read(self, after: int, limit: int) -> Sequence[Line]: ...


class Audit:
    """Use `start` and `stop`; `note` never waits."""

    def __init__(self, store: AuditStore) -> None:
        self.store = store
        self.mask: Mask = str
        """Takes values the gateway knows out of arguments, beside those it knows the shape of."""
        self._notes: deque[Note] = deque()
        self._task: asyncio.Task[None] | None = None
        self._wake = asyncio.Event()
        self._last: tuple[int, str] | None = None
        self._lock = asyncio.Lock()

    @property
    def is_full(self) -> bool:
        return len(self._notes) >= MAX_BACKLOG

    def note(self, note: Note) -> None:
        self._notes.append(note)
        if len(self._notes) >= MAX_BATCH:
            self._wake.set()

    def start(self) -> None:
        self._task = asyncio.create_task(self._run())

    async def stop(self) -> None:
        if self._task is not None:
            self._task.cancel()
            with suppress(asyncio.CancelledError):
                await self._task
        try:
            await self.flush()
        except Exception:
            log.exception("the audit log cannot be written; %d notes are lost", len(self._notes))

    async def _run(self) -> None:
        while True:
            with suppress(TimeoutError):
                async with asyncio.timeout(FLUSH_EVERY_S):
                    await self._wake.wait()
            self._wake.clear()
            try:
                await self.flush()
            except Exception:
                log.exception("the audit log cannot be written; %d notes wait", len(self._notes))
                await asyncio.sleep(FLUSH_EVERY_S)

    async def verify(self) -> "Chain":
        """Read the whole log again and check each line against the one before."""
        entries, head = 0, GENESIS
        while lines := await self.store.read(entries, MAX_BATCH):
            if (broken_at := await asyncio.to_thread(first_broken, lines, head)) is not None:
                return Chain(entries, head, broken_at)
            entries, head = lines[-1].seq, lines[-1].hash
        return Chain(entries, head, None)

    async def flush(self) -> None:
        """Write everything noted so far."""
        async with self._lock:
            while self._notes:
                if self._last is None:
                    self._last = await self.store.last()
                lines = await self._next_lines(*self._last)
                try:
                    await self.store.append(lines)
                except TooLate:  # the chain goes on from what another gateway process wrote
                    self._last = None
                    continue
                for _ in lines:
                    self._notes.popleft()
                self._last = (lines[-1].seq, lines[-1].hash)

    async def _next_lines(self, seq: int, previous: str) -> list[Line]:
        batch = list(islice(self._notes, MAX_BATCH))
        lines: list[Line] = []
        for start in range(0, len(batch), MAX_HASHED_AT_ONCE):
            lines += chain(batch[start : start + MAX_HASHED_AT_ONCE], seq, previous, self.mask)
            seq, previous = lines[-1].seq, lines[-1].hash
            await asyncio.sleep(0)  # calls go first
        return lines


def chain(notes: Sequence[Note], seq: int, previous: str, mask: Mask = str) -> list[Line]:
    """The notes as lines that follow line `seq` with hash `previous`."""
    lines: list[Line] = []
    for note in notes:
        seq += 1
        fields = (
            seq,
            round(note.at, 6),
            note.principal,
            note.agent,
            note.task_id,
            note.server,
            note.tool,
            mask(_arguments(note.arguments)),
            note.decision,
            note.outcome,
            note.result_hash,
            round(note.duration_s, 6),
            note.trace_id,
        )
        digest = _hash(previous, fields)
        lines.append(Line(*fields, previous, digest))
        previous = digest
    return lines


def first_broken(lines: Sequence[Line], previous: str) -> int | None:
    """The number of the first line that does not follow from the one before; None when all do."""
    for line in lines:
        fields = msgspec.structs.astuple(line)[:-2]
        if line.previous != previous or line.hash != _hash(previous, fields):
            return line.seq
        previous = line.hash
    return None


def _hash(previous: str, fields: tuple[Any, ...]) -> str:
    return hashlib.sha256(previous.encode() + b"\n" + msgspec.json.encode(fields)).hexdigest()


def shorten(arguments: bytes) -> bytes:
    """The arguments as the log keeps them: beyond `MAX_ARGUMENT_BYTES` only their size and hash."""
    if len(arguments) <= MAX_ARGUMENT_BYTES:
        return arguments
    return msgspec.json.encode({"omitted": f"{len(arguments)} bytes", "sha256": hashlib.sha256(arguments).hexdigest()})


def hash_result(result: bytes) -> str | None:
    """None for a call without a result."""
    return hashlib.sha256(result).hexdigest() if result else None


def _arguments(raw: bytes) -> str:
    text = raw.decode("utf-8", "replace") or "{}"
    if not holds_secret(text) and "\\u" not in text and "\\/" not in text and "earer" not in text.lower():
        return text
    try:
        return msgspec.json.encode(redact(msgspec.json.decode(text))).decode()
    except (msgspec.MsgspecError, RecursionError):
        return msgspec.json.encode({"unreadable": f"{len(raw)} bytes"}).decode()
