"""The state service, and what one process of a stack does for all: retention, news, what rollouts come to."""

from datetime import timedelta

from devtools_platform.agents.adapters.git_workspaces import GitWorkspaces
from devtools_platform.app.observing import Observed
from devtools_platform.app.release_retention import keep_pruning
from devtools_platform.app.rollout_metrics import watch_rollouts
from devtools_platform.app.site import Site
from devtools_platform.app.webhooks import build_webhooks
from devtools_platform.config import Settings
from devtools_platform.observability.adapters.sql import SqlSpanStore
from devtools_platform.observability.api import add_routes as add_observatory
from devtools_platform.state.api import build_api
from devtools_platform.state.retention import Retention
from devtools_platform.state.stranded import Stranded


async def serve_state(site: Site, observed: Observed) -> None:
    workspaces = GitWorkspaces(site.home.workspaces, site.settings.min_free_disk_mb)
    site.keep_running(Retention(site.store, site.control, workspaces, *_keeping(site.settings)).run())
    site.keep_running(site.parts.service.keep_starting())
    site.keep_running(Stranded(site.store, site.control).run())
    site.keep_running(watch_rollouts(site.settings))
    site.keep_running(keep_pruning(site.settings))
    site.keep_running(build_webhooks(site.settings, site.home, site.store).run())
    api = build_api(site.parts, admit=site.admission.admit, traces=SqlSpanStore(site.store), token=site.token)
    add_observatory(api, observed)
    await site.serve("state", api)


def _keeping(settings: Settings) -> tuple[timedelta, timedelta]:
    return timedelta(days=settings.keep_workspaces_days), timedelta(days=settings.keep_tasks_days)
