"""The context service with what keeps it true: remotes that are followed, and what tasks leave behind."""

from devtools_platform.app.context_readers import readers_of
from devtools_platform.app.search_engine import follow_remotes
from devtools_platform.app.site import Site
from devtools_platform.app.team_memory import keep_learning
from devtools_platform.context.adapters.sql.task_memory import TaskMemory
from devtools_platform.context.api import build_api
from devtools_platform.context.library import Library
from devtools_platform.context.service import ContextService
from devtools_platform.gateway.identity import Identity


async def serve_context(site: Site, context: ContextService, identity: Identity) -> None:
    remotes = follow_remotes(site.settings, context, site.home.path / "context")
    await site.serve("context", build_api(context, site.token, readers_of(identity), remotes))
    site.keep_running(keep_learning(TaskMemory(site.store), Library(context)))
    site.keep_running(remotes.run())
