"""The services of a stack, each started on a `Site`: the same code for all in one process and for one in a container.

A service that another one needs is used in process where both run here, and over HTTP with the stack's token where not.
"""

from datetime import timedelta
from pathlib import Path

from starlette.types import ASGIApp

from devtools_platform.agents.adapters.git_workspaces import GitWorkspaces
from devtools_platform.app.admission import Admission
from devtools_platform.app.agent_door import AgentDoor, build_agents
from devtools_platform.app.carriers import OwnCarriers, RemoteCarriers
from devtools_platform.app.ci import ci_tools
from devtools_platform.app.console import addresses_of, build_stack_view
from devtools_platform.app.context_client import ContextClient
from devtools_platform.app.context_readers import readers_of
from devtools_platform.app.crew import build_crew
from devtools_platform.app.delivery import deploy_tools
from devtools_platform.app.gateway_doors import open_doors, open_identity
from devtools_platform.app.grants import ApprovalGrants
from devtools_platform.app.integrations import run_integrations
from devtools_platform.app.models import describe_model
from devtools_platform.app.observing import Observed
from devtools_platform.app.policy import policy_of
from devtools_platform.app.remote_context import RemoteContext
from devtools_platform.app.reviewing import workspace_tools
from devtools_platform.app.rollout_metrics import watch_rollouts
from devtools_platform.app.runtimes import Runtimes, choose_runtimes
from devtools_platform.app.search_engine import choose_embedder, follow_remotes, open_service
from devtools_platform.app.site import ALL_SERVICES, Site
from devtools_platform.app.team_memory import keep_learning
from devtools_platform.app.webhooks import build_webhooks
from devtools_platform.config import Settings
from devtools_platform.config.settings import Queue
from devtools_platform.console.api import build_api as build_console
from devtools_platform.context.adapters.sql.task_memory import TaskMemory
from devtools_platform.context.api import build_api as build_context
from devtools_platform.context.library import Library
from devtools_platform.context.names import name_collection
from devtools_platform.context.service import ContextService
from devtools_platform.context.tools import ContextTools
from devtools_platform.core.errors import NotFound
from devtools_platform.core.tools import Caller
from devtools_platform.gateway.adapters.call_records import Presence, SqlCallRecords
from devtools_platform.gateway.api import build_api as build_gateway
from devtools_platform.gateway.identity import Identity
from devtools_platform.gateway.service import Gateway
from devtools_platform.gateway.toolsets.web import WebTools
from devtools_platform.kit.metrics import serve_metrics
from devtools_platform.observability.adapters.sql import SqlSpanStore
from devtools_platform.observability.api import add_routes as add_observatory
from devtools_platform.state.api import build_api as build_state
from devtools_platform.state.retention import Retention
from devtools_platform.state.rules import load_rules
from devtools_platform.state.tools import TaskTools


async def start_services(site: Site, observed: Observed | None) -> Runtimes | None:
    """Those of the site, in the order they need each other. What carries the agents, where that is started here."""
    runtimes = await _start_models(site) if site.has("agents") or site.has("worker") else None
    context = await _open_context(site) if site.has("context") else None
    presence = await _open_presence(site) if site.has("gateway") else None
    # All that serves ends before what it stands on, and a gateway is there for others until it has answered its last.
    site.cleanup.push_async_callback(site.serving.stop)
    identity = open_identity(site.settings, site.home, site.store)
    if context is not None:
        await _serve_context(site, context, identity)
    if presence is not None or site.has("agents"):
        await _serve_tools(site, context, identity, runtimes, presence)
    if runtimes is not None:
        await _start_crew(site, runtimes)
    if observed is not None:
        await _serve_state(site, observed)
    if site.has("integrations") and "integrations" in site.sockets:
        receiver = await run_integrations(
            site.settings, site.home, site.store, site.parts, _admission(site), site.cleanup,
            site.urls.known["webhooks"], ContextClient(site.urls.of("context"), site.token), site.progress,
        )  # fmt: skip
        await site.serving.serve(receiver, site.sockets["integrations"])
    if site.has("console"):
        await _serve_console(site, context, runtimes)
    return runtimes


async def _start_models(site: Site) -> Runtimes:
    runtimes = await choose_runtimes(site.settings, site.home, lambda text: site.progress("model", text))
    site.cleanup.push_async_callback(runtimes.stop)
    site.progress("model", describe_model(runtimes.main))
    return runtimes


async def _open_presence(site: Site) -> Presence:
    presence = Presence(site.store)
    await presence.start()
    site.cleanup.push_async_callback(presence.stop)
    return presence


async def _open_context(site: Site) -> ContextService:
    service = await open_service(site.settings, site.home.path / "context", site.store, site.progress, site.cleanup)
    await service.resume_all()
    return service


async def _serve_context(site: Site, context: ContextService, identity: Identity) -> None:
    remotes = follow_remotes(site.settings, context, site.home.path / "context")
    await site.serve("context", build_context(context, site.token, readers_of(identity), remotes))
    site.keep_running(keep_learning(TaskMemory(site.store), Library(context)))
    site.keep_running(remotes.run())


async def _serve_tools(
    site: Site,
    context: ContextService | None,
    identity: Identity,
    runtimes: Runtimes | None,
    presence: Presence | None,
) -> None:
    """The gateway with the agents on its port, or either of them alone."""
    agents: ASGIApp | None = None
    if site.has("agents") and runtimes is not None:
        agents = build_agents(
            site.settings, runtimes, site.store,
            gateway_url=site.urls.of("gateway"), token=site.token, secret=site.secret,
        )  # fmt: skip
    if presence is None:
        if agents is not None:
            await site.serve("agents", AgentDoor(agents, agents, identity, site.token))
        return
    reader = context or RemoteContext(ContextClient(site.urls.of("context"), site.token))
    embedder = context.embedder if context else choose_embedder(site.settings, site.progress)
    gateway = _build_gateway(site, reader, presence)
    doors = open_doors(site.settings, site.home, gateway, embedder, site.store, identity)
    app: ASGIApp = build_gateway(gateway, token=site.token, secret=site.secret, **doors)
    await site.serve("gateway", app if agents is None else AgentDoor(app, agents, identity, site.token))


def _build_gateway(site: Site, context: ContextService | RemoteContext, presence: Presence) -> Gateway:
    settings, parts = site.settings, site.parts

    async def collection_of(caller: Caller) -> str | None:
        try:
            request = await parts.service.get_request(caller.task_id)
        except NotFound:  # somebody with a token of their own, or whose task retention took
            return None
        return name_collection(Path(request.repo))

    tasks = TaskTools(parts.service, parts.events, _admission(site).admit)
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


async def _start_crew(site: Site, runtimes: Runtimes) -> None:
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


async def _serve_state(site: Site, observed: Observed) -> None:
    workspaces = GitWorkspaces(site.home.workspaces, site.settings.min_free_disk_mb)
    site.keep_running(Retention(site.store, site.control, workspaces, *_keeping(site.settings)).run())
    site.keep_running(site.parts.service.keep_starting())
    site.keep_running(watch_rollouts(site.settings))
    site.keep_running(build_webhooks(site.settings, site.home, site.store).run())
    traces = SqlSpanStore(site.store)
    api = build_state(site.parts, admit=_admission(site).admit, traces=traces, token=site.token)
    add_observatory(api, observed)
    await site.serve("state", api)


async def _serve_console(site: Site, context: ContextService | None, runtimes: Runtimes | None) -> None:
    settings, token = site.settings, site.token

    carriers = (
        OwnCarriers(settings, runtimes, site.store)
        if runtimes is not None and site.has("agents")
        else RemoteCarriers(site.urls.of("agents"), token, settings.model_timeout_s)
    )
    view = build_stack_view(
        settings, site.store, site.parts, policy_of(settings.agent_definitions),
        context or RemoteContext(ContextClient(site.urls.of("context"), token)),
        carriers, site.urls, token, _admission(site),
    )  # fmt: skip
    site.cleanup.push_async_callback(view.delivery.aclose)
    await site.serve("console", build_console(view, token=token, secret=site.secret, addresses=addresses_of(settings)))


def _admission(site: Site) -> Admission:
    return Admission(site.settings, runs_commands=site.has("gateway"))


def _keeping(settings: Settings) -> tuple[timedelta, timedelta]:
    return timedelta(days=settings.keep_workspaces_days), timedelta(days=settings.keep_tasks_days)
