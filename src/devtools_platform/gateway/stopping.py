"""Long calls of tasks that were cancelled meanwhile are stopped: nobody waits for them, and the workspace must be free.

A caller that hangs up does not stop its call, as it may come again with the same key (`service`). So what counts is the
task, in whichever process its agent runs: one question a second for all long calls of this process.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Collection
from typing import TypeVar

T = TypeVar("T")
FindCancelled = Callable[[Collection[str]], Awaitable[set[str]]]
"""Of these tasks, the ones that were cancelled."""

LOOK_EVERY_S = 1.0
"""A shorter call is not asked about."""

log = logging.getLogger(__name__)


class Stopped(Exception):
    """The task was cancelled, and so was the call."""


class Stopping:
    def __init__(self, find_cancelled: FindCancelled) -> None:
        self._find_cancelled = find_cancelled
        self._calls: dict[asyncio.Task[object], tuple[str, float]] = {}
        """The task whose call it is, and when it began by the loop's clock."""
        self._stopped: set[asyncio.Task[object]] = set()
        self._watch: asyncio.Task[None] | None = None

    async def guard(self, task_id: str, call: Awaitable[T]) -> T:
        """The call's result. Raises `Stopped` when its task was cancelled first."""
        loop, task = asyncio.get_running_loop(), asyncio.current_task()
        assert task is not None  # noqa: S101 - we are in one
        self._calls[task] = (task_id, loop.time())
        if self._watch is None or self._watch.done():
            self._watch = loop.create_task(self._look())
        try:
            return await call
        except asyncio.CancelledError:
            if task not in self._stopped:
                raise
            task.uncancel()
            raise Stopped from None
        finally:
            del self._calls[task]
            self._stopped.discard(task)

    async def _look(self) -> None:
        while self._calls:
            await asyncio.sleep(LOOK_EVERY_S)
            began_before = asyncio.get_running_loop().time() - LOOK_EVERY_S
            long = {call: id_ for call, (id_, began) in self._calls.items() if began <= began_before}
            if not long:
                continue
            try:
                cancelled = await self._find_cancelled(set(long.values()))
            except Exception:  # the database is away, or worse: the calls go on, and so does this
                log.exception("it is not known whether tasks with long calls were cancelled; asked again in a second")
                continue
            for call, id_ in long.items():
                if id_ in cancelled and call in self._calls and call not in self._stopped:
                    self._stopped.add(call)
                    call.cancel()
