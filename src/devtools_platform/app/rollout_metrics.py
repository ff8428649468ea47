"""The hosts of the inventory, asked every minute how their rollouts stand, for the stack's metrics."""

import logging

from devtools_platform.app.delivery import Delivery
from devtools_platform.config import Settings
from devtools_platform.core.errors import DevToolsError
from devtools_platform.deploy.inventory import load_hosts
from devtools_platform.deploy.metrics import show_host, show_silence
from devtools_platform.deploy.rollouts import Rollouts
from devtools_platform.kit.recurring import keep_doing

log = logging.getLogger(__name__)

EVERY_S = 60.0


async def watch_rollouts(settings: Settings) -> None:
    """Until cancelled; at once over for a stack without an inventory."""
    if not settings.hosts_file.is_file():
        return
    works = Delivery(settings, lambda _part, _text: None)

    async def look() -> None:
        for host in load_hosts(settings.hosts_file, None):
            await look_at(host.name, works.rollouts(host.name))

    await keep_doing("reading the state of rollouts", look, EVERY_S)


async def look_at(host: str, rollouts: Rollouts) -> None:
    """One host, by rollouts over it alone. Changes nothing there: an interrupted rollout stays for a person."""
    try:
        found = await rollouts.status(recover=False)
        audit = {} if found.unreachable else await rollouts.history()
    except DevToolsError as error:
        log.warning("host %r was not read: %s", host, error)
        show_silence(host)
        return
    if found.unreachable:
        show_silence(host)
    else:
        show_host(host, found.states[host], audit[host])
