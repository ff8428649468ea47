"""Where GitHub and Linear knock."""

from devtools_platform.app.context_client import ContextClient
from devtools_platform.app.integrations import run_integrations
from devtools_platform.app.site import Site


async def serve_integrations(site: Site) -> None:
    receiver = await run_integrations(
        site.settings, site.home, site.store, site.parts, site.admission, site.cleanup,
        site.urls.known["webhooks"], ContextClient(site.urls.of("context"), site.token), site.progress,
    )  # fmt: skip
    await site.serving.serve(receiver, site.sockets["integrations"])
