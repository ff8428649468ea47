"""Old releases leave the registry and the hosts once a day, where a stack is told to see to it."""

import asyncio
import logging
import socket

from devtools_platform.app.delivery import Delivery
from devtools_platform.config import Settings
from devtools_platform.core.errors import DevToolsError
from devtools_platform.deploy.retention import Pruning

log = logging.getLogger(__name__)

EVERY_S = 86_400.0


async def keep_pruning(settings: Settings) -> None:
    """Prune now and every day, until cancelled; at once over for a stack that is not told to."""
    if not settings.prune_releases:
        return
    while True:
        try:
            done = await prune_once(settings)
            log.info("old releases: %d removed, %d kept", len(done.removed), len(done.kept))
        except DevToolsError as error:
            log.warning("old releases were not removed: %s %s", error, error.hint)
        except Exception:  # a mistake today must not end it for ever
            log.exception("removing old releases broke; it is tried again in a day")
        await asyncio.sleep(EVERY_S)


async def prune_once(settings: Settings) -> Pruning:
    """First images on the hosts, then releases in the registry: what a host keeps, the registry keeps as well.

    A rollout that was interrupted stays for a person to look at.
    """
    works = Delivery(settings, lambda part, text: log.info("%s: %s", part, text))
    rollouts = works.rollouts_as(f"stack@{socket.gethostname()}", works.progress)
    await rollouts.prune(settings.keep_releases, recover=False)
    return await works.prune(rollouts, settings.keep_releases, settings.keep_releases_days, is_done=True)
