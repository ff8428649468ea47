"""Work of a service that comes round again: a heartbeat, a clean-up, a look for what was left behind."""

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import NoReturn

from devtools_platform.core.errors import DevToolsError

log = logging.getLogger(__name__)


async def keep_doing(what: str, work: Callable[[], Awaitable[object]], every_s: float) -> NoReturn:
    """Do it now and `every_s` seconds after each end, until cancelled; one failure, of whatever kind, does not end it.

    `what` names it in the log: `cleaning up`.
    """
    while True:
        try:
            await work()
        except DevToolsError as error:
            log.warning("%s did not work this time: %s %s", what, error, error.hint)
        except Exception:
            log.exception("%s broke; it is tried again in %g s", what, every_s)
        await asyncio.sleep(every_s)
