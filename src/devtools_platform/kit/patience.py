"""Waiting for a part of our own stack that is away: a database that restarts, a gateway that is being replaced; or for
another trouble that passes, where a caller says so."""

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable
from typing import TypeVar

from devtools_platform.core.errors import Away, DevToolsError

T = TypeVar("T")

log = logging.getLogger(__name__)

PATIENCE_S = 900.0
"""Longest absence a running task bears. A database fail-over or an upgrade takes minutes, not a quarter of an hour."""
FIRST_WAIT_S = 0.1
LONGEST_WAIT_S = 3.0


async def patiently(
    call: Callable[[], Awaitable[T]], *, for_s: float = PATIENCE_S, while_: type[DevToolsError] = Away
) -> T:
    """`call`'s result; it is called again, ever less often, while it raises `while_` and `for_s` is not over."""
    deadline, wait = time.monotonic() + for_s, FIRST_WAIT_S
    while True:
        try:
            return await call()
        except while_ as error:
            if time.monotonic() + wait > deadline:
                raise
            log.warning("waiting, and trying again: %s", error)
        await asyncio.sleep(wait)
        wait = min(wait * 2, LONGEST_WAIT_S)
