"""Old releases leave the registry and the hosts once a day, where a stack is told to see to it."""

import logging
import socket

from devtools_platform.app.delivery import Delivery
from devtools_platform.config import Settings
from devtools_platform.deploy.retention import Pruning
from devtools_platform.kit.recurring import keep_doing

log = logging.getLogger(__name__)

EVERY_S = 86_400.0


async def keep_pruning(settings: Settings) -> None:
    """Prune now and every day, until cancelled; at once over for a stack that is not told to."""
    if not settings.prune_releases:
        return
    await keep_doing("removing old releases", lambda: prune_once(settings), EVERY_S)


async def prune_once(settings: Settings) -> Pruning:
    """First images on the hosts, then releases in the registry: what a host keeps, the registry keeps as well.

    A rollout that was interrupted stays for a person to look at.
    """
    works = Delivery(settings, lambda part, text: log.info("%s: %s", part, text))
    rollouts = works.rollouts_as(f"stack@{socket.gethostname()}", works.progress)
    await rollouts.prune(settings.keep_releases, recover=False)
    done = await works.prune(rollouts, settings.keep_releases, settings.keep_releases_days, is_done=True)
    log.info("old releases: %d removed, %d kept", len(done.removed), len(done.kept))
    return done
