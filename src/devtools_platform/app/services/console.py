"""The console, over the parts of its own process and over HTTP of those that run elsewhere."""

from typing import TYPE_CHECKING

from devtools_platform.agents.carriers import Carriers
from devtools_platform.app.console import addresses_of, build_stack_view
from devtools_platform.app.context_client import ContextClient
from devtools_platform.app.policy import policy_of
from devtools_platform.app.remote_carriers import RemoteCarriers
from devtools_platform.app.remote_context import RemoteContext
from devtools_platform.app.site import Site
from devtools_platform.console.api import build_api

if TYPE_CHECKING:
    from devtools_platform.app.runtimes import Runtimes
    from devtools_platform.context.service import ContextService


async def serve_console(site: Site, context: "ContextService | None", runtimes: "Runtimes | None") -> None:
    settings, token = site.settings, site.token
    view = build_stack_view(
        settings, site.store, site.parts, policy_of(settings.agent_definitions),
        context or RemoteContext(ContextClient(site.urls.of("context"), token)),
        _carriers(site, runtimes), site.urls, token, site.admission,
    )  # fmt: skip
    site.cleanup.push_async_callback(view.delivery.aclose)
    await site.serve("console", build_api(view, token=token, secret=site.secret, addresses=addresses_of(settings)))


def _carriers(site: Site, runtimes: "Runtimes | None") -> Carriers:
    if runtimes is None or not site.has("agents"):
        return RemoteCarriers(site.urls.of("agents"), site.token, site.settings.model_timeout_s)
    from devtools_platform.app.carriers import OwnCarriers

    return OwnCarriers(site.settings, runtimes, site.store)
