"""Tells what takes long, with one timer for all: a timer for each call costs more than most calls need it."""

import asyncio
from collections.abc import Callable

Late = Callable[[], object]


class Overdue:
    """Calls back for what is still held after `after_s`, at the latest after twice as long. Belongs to one event loop
    at a time; what is held in a loop that has ended is forgotten."""

    def __init__(self, after_s: float) -> None:
        self.after_s = after_s
        self._loop: asyncio.AbstractEventLoop | None = None
        self._young: dict[object, Late] = {}
        self._old: dict[object, Late] = {}

    @property
    def loop(self) -> asyncio.AbstractEventLoop:
        """The running loop. Python 3.11 asks the system for the process id whenever it is asked for it."""
        if self._loop is None or not self._loop.is_running():
            self._young, self._old = {}, {}
            self._loop = asyncio.get_running_loop()
            self._loop.call_later(self.after_s, self._tick, self._loop)
        return self._loop

    def hold(self, key: object, late: Late) -> None:
        """Until `release`. `late` is called once at most."""
        _ = self.loop
        self._young[key] = late

    def release(self, key: object) -> None:
        if self._young.pop(key, None) is None:
            self._old.pop(key, None)

    def _tick(self, loop: asyncio.AbstractEventLoop) -> None:
        if loop is not self._loop:
            return
        late, self._old, self._young = self._old, self._young, {}
        if self._old:
            loop.call_later(self.after_s, self._tick, loop)
        else:
            self._loop = None
        for call in late.values():
            call()
