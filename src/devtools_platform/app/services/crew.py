"""The crew of a process: what carries its agents, and the queues it works on."""

from devtools_platform.app.crew import build_crew
from devtools_platform.app.models import describe_model
from devtools_platform.app.recording import silence_banner
from devtools_platform.app.runtimes import Runtimes, choose_runtimes
from devtools_platform.app.site import ALL_SERVICES, Site
from devtools_platform.config.settings import Queue
from devtools_platform.kit.metrics import serve_metrics


async def start_models(site: Site) -> Runtimes:
    silence_banner()
    runtimes = await choose_runtimes(site.settings, site.home, lambda text: site.progress("model", text))
    site.cleanup.push_async_callback(runtimes.stop)
    site.progress("model", describe_model(runtimes.main))
    return runtimes


async def start_crew(site: Site, runtimes: Runtimes) -> None:
    port = site.settings.worker_metrics_port
    if port is not None and not site.sockets:  # a worker alone: nothing else says how it is
        site.cleanup.callback(serve_metrics(site.settings.host, port))
    crewed = build_crew(
        site.settings.model_copy(update={"queues": _queues(site)}), site.home, site.store, site.database_url,
        site.control, runtimes, gateway_url=site.urls.of("gateway"),
        context_url=site.urls.of("context") if site.has("worker") else "",
    )  # fmt: skip
    await crewed.start()
    site.cleanup.push_async_callback(crewed.stop)


def _queues(site: Site) -> tuple[Queue, ...]:
    if site.services == ALL_SERVICES:
        return site.settings.queues
    queues: dict[Queue, bool] = {"tasks": site.has("worker"), "agents": site.has("agents")}
    return tuple(queue for queue, is_here in queues.items() if is_here)
