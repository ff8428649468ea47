"""The gateway with its own tools, and the agents on its port where they run beside it."""

from pathlib import Path

from starlette.types import ASGIApp

from devtools_platform.app.ci import ci_tools
from devtools_platform.app.context_client import ContextClient
from devtools_platform.app.delivery import deploy_tools
from devtools_platform.app.gateway_doors import open_doors
from devtools_platform.app.grants import ApprovalGrants
from devtools_platform.app.policy import policy_of
from devtools_platform.app.remote_context import RemoteContext
from devtools_platform.app.reviewing import workspace_tools
from devtools_platform.app.search_engine import choose_embedder
from devtools_platform.app.site import Site
from devtools_platform.context.names import name_collection
from devtools_platform.context.service import ContextService
from devtools_platform.context.tools import ContextTools
from devtools_platform.core.errors import NotFound
from devtools_platform.core.tools import Caller
from devtools_platform.gateway.adapters.call_records import Presence, SqlCallRecords
from devtools_platform.gateway.api import build_api
from devtools_platform.gateway.identity import Identity
from devtools_platform.gateway.service import Gateway
from devtools_platform.gateway.toolsets.web import WebTools
from devtools_platform.state.rules import load_rules
from devtools_platform.state.tools import TaskTools


async def serve_gateway(
    site: Site, context: ContextService | None, identity: Identity, agents: ASGIApp | None, presence: Presence
) -> None:
    reader = context or RemoteContext(ContextClient(site.urls.of("context"), site.token))
    embedder = context.embedder if context else choose_embedder(site.settings, site.progress)
    gateway = _build_gateway(site, reader, presence)
    doors = open_doors(site.settings, site.home, gateway, embedder, site.store, identity)
    app: ASGIApp = build_api(gateway, token=site.token, secret=site.secret, **doors)
    if agents is not None:
        from devtools_platform.app.agent_door import AgentDoor

        app = AgentDoor(app, agents, identity, site.token)
    await site.serve("gateway", app)


def _build_gateway(site: Site, context: ContextService | RemoteContext, presence: Presence) -> Gateway:
    settings, parts = site.settings, site.parts

    async def collection_of(caller: Caller) -> str | None:
        try:
            request = await parts.service.get_request(caller.task_id)
        except NotFound:  # somebody with a token of their own, or whose task retention took
            return None
        return name_collection(Path(request.repo))

    tasks = TaskTools(parts.service, parts.events, site.admission.admit)
    workspace = workspace_tools(settings, site.home.workspaces)
    ci, http = ci_tools(settings, parts.service.get_request)
    if http is not None:
        site.cleanup.push_async_callback(http.aclose)
    return Gateway(
        [workspace, ContextTools(context, collection_of), tasks, WebTools(), *deploy_tools(settings), *ci],
        policy_of(settings.agent_definitions),
        SqlCallRecords(site.store, presence.id),
        rules=load_rules(settings.approval_rules),
        grants=ApprovalGrants(parts.approvals),
        environment=settings.environment,
    )
