"""The services of a stack, each started on a `Site`: the same code for all in one process and for one in a container.

A service that another one needs is used in process where both run here, and over HTTP with the stack's token where not.
Each is imported only where it runs: a process that has no agents is spared half of its memory (`bench/footprint.py`).
"""

from typing import TYPE_CHECKING

from devtools_platform.app.site import Site
from devtools_platform.gateway.identity import Identity

if TYPE_CHECKING:
    from devtools_platform.app.observing import Observed
    from devtools_platform.app.runtimes import Runtimes
    from devtools_platform.context.service import ContextService
    from devtools_platform.gateway.adapters.call_records import Presence


async def start_services(site: Site, observed: "Observed | None") -> "Runtimes | None":
    """Those of the site, in the order they need each other. What carries the agents, where that is started here."""
    runtimes: Runtimes | None = None
    if site.has("agents") or site.has("worker"):
        from devtools_platform.app.services.crew import start_models

        runtimes = await start_models(site)
    context = await _open_context(site) if site.has("context") else None
    presence = await _open_presence(site) if site.has("gateway") else None
    # All that serves ends before what it stands on, and a gateway is there for others until it has answered its last.
    site.cleanup.push_async_callback(site.serving.stop)
    identity = _open_identity(site)
    await identity.load()
    site.keep_running(identity.follow())
    if context is not None:
        from devtools_platform.app.services.context import serve_context

        await serve_context(site, context, identity)
    await _serve_tools(site, context, identity, runtimes, presence)
    if runtimes is not None:
        from devtools_platform.app.services.crew import start_crew

        await start_crew(site, runtimes)
    if observed is not None:
        from devtools_platform.app.services.state import serve_state

        await serve_state(site, observed)
    if site.has("integrations") and "integrations" in site.sockets:
        from devtools_platform.app.services.integrations import serve_integrations

        await serve_integrations(site)
    if site.has("console"):
        from devtools_platform.app.services.console import serve_console

        await serve_console(site, context, runtimes)
    return runtimes


async def _open_context(site: Site) -> "ContextService":
    from devtools_platform.app.search_engine import open_service

    service = await open_service(site.settings, site.home.path / "context", site.store, site.progress, site.cleanup)
    await service.resume_all()
    return service


async def _open_presence(site: Site) -> "Presence":
    from devtools_platform.gateway.adapters.call_records import Presence

    presence = Presence(site.store)
    await presence.start()
    site.cleanup.push_async_callback(presence.stop)
    return presence


def _open_identity(site: Site) -> Identity:
    from devtools_platform.app.identity import open_identity

    return open_identity(site.settings, site.home, site.store)


async def _serve_tools(
    site: Site,
    context: "ContextService | None",
    identity: Identity,
    runtimes: "Runtimes | None",
    presence: "Presence | None",
) -> None:
    """The gateway with the agents on its port, or either of them alone."""
    agents = None
    if site.has("agents") and runtimes is not None:
        from devtools_platform.app.agent_door import build_agents

        agents = build_agents(
            site.settings, runtimes, site.store,
            gateway_url=site.urls.of("gateway"), token=site.token, secret=site.secret,
        )  # fmt: skip
    if presence is not None:
        from devtools_platform.app.services.gateway import serve_gateway

        await serve_gateway(site, context, identity, agents, presence)
    elif agents is not None:
        from devtools_platform.app.agent_door import AgentDoor

        await site.serve("agents", AgentDoor(agents, agents, identity, site.token))
