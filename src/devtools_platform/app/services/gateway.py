"""The gateway with its own tools, and the agents on its port where they run beside it."""

from pathlib import Path
from typing import TYPE_CHECKING

from starlette.types import ASGIApp

from devtools_platform.app.embedder import choose_embedder
from devtools_platform.app.gateway_doors import open_doors
from devtools_platform.app.grants import ApprovalGrants
from devtools_platform.app.policy import policy_of
from devtools_platform.app.reviewing import workspace_tools
from devtools_platform.app.site import Site
from devtools_platform.context.names import name_collection
from devtools_platform.context.tools import ContextTools
from devtools_platform.core.errors import NotFound
from devtools_platform.core.interfaces import ToolServer
from devtools_platform.core.tools import Caller
from devtools_platform.gateway.adapters.call_records import Presence, SqlCallRecords
from devtools_platform.gateway.api import build_api
from devtools_platform.gateway.identity import Identity
from devtools_platform.gateway.service import Gateway
from devtools_platform.gateway.toolsets.web import WebTools
from devtools_platform.state.rules import load_rules
from devtools_platform.state.tools import TaskTools

if TYPE_CHECKING:
    from devtools_platform.context.interfaces import Reader
    from devtools_platform.context.service import ContextService


async def serve_gateway(
    site: Site, context: "ContextService | None", identity: Identity, agents: ASGIApp | None, presence: Presence
) -> None:
    reader = context or _remote_context(site)
    embedder = context.embedder if context else choose_embedder(site.settings, site.progress)
    gateway = _build_gateway(site, reader, presence)
    doors = open_doors(site.settings, site.home, gateway, embedder, site.store, identity)
    app: ASGIApp = build_api(gateway, token=site.token, secret=site.secret, **doors)
    if agents is not None:
        from devtools_platform.app.agent_door import AgentDoor

        app = AgentDoor(app, agents, identity, site.token)
    await site.serve("gateway", app)


def _remote_context(site: Site) -> "Reader":
    from devtools_platform.app.context_client import ContextClient
    from devtools_platform.app.remote_context import RemoteContext

    return RemoteContext(ContextClient(site.urls.of("context"), site.token))


def _build_gateway(site: Site, context: "Reader", presence: Presence) -> Gateway:
    settings, parts = site.settings, site.parts

    async def collection_of(caller: Caller) -> str | None:
        try:
            request = await parts.service.get_request(caller.task_id)
        except NotFound:  # somebody with a token of their own, or whose task retention took
            return None
        return name_collection(Path(request.repo))

    tasks = TaskTools(parts.service, parts.events, site.admission.admit)
    workspace = workspace_tools(settings, site.home.workspaces)
    return Gateway(
        [workspace, ContextTools(context, collection_of), tasks, WebTools(), *_outside_tools(site)],
        policy_of(settings.agent_definitions),
        SqlCallRecords(site.store, presence.id),
        rules=load_rules(settings.approval_rules),
        grants=ApprovalGrants(parts.approvals),
        environment=settings.environment,
        find_cancelled=parts.service.find_cancelled,
    )


def _outside_tools(site: Site) -> list[ToolServer]:
    """Those that reach out of the stack. What they need is imported where the settings ask for them only."""
    found: list[ToolServer] = []
    if site.settings.hosts_file.is_file():
        from devtools_platform.app.delivery import deploy_tools

        found += deploy_tools(site.settings)
    if site.settings.github_repositories:
        from devtools_platform.app.ci import ci_tools

        ci, http = ci_tools(site.settings, site.parts.service.get_request)
        site.cleanup.push_async_callback(http.aclose)
        found += ci
    return found
