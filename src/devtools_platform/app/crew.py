"""The workflows of a process that works, wired: `task`, which mostly waits, and `agent_run`, which does the work."""

import asyncio
from dataclasses import dataclass

import sqlalchemy as sa
from pydantic import SecretStr
from pydantic_ai.durable_exec.dbos import DBOSDurability

from devtools_platform.agents.adapters.git_workspaces import GitWorkspaces
from devtools_platform.agents.adapters.mcp_tools import GatewayClient
from devtools_platform.agents.definitions import load_definitions
from devtools_platform.agents.orchestration import AGENT_RUN, Crew, TaskLimits, TaskWorkflow
from devtools_platform.agents.questions import People
from devtools_platform.agents.routing import load_router
from devtools_platform.agents.runner import AgentRunner
from devtools_platform.agents.runs import AgentRunWorkflow
from devtools_platform.agents.tool_calls import DurableTools
from devtools_platform.app.code_index import HttpCodeIndex
from devtools_platform.app.home import Home
from devtools_platform.app.ledger import build_ledger
from devtools_platform.app.models import NO_MODEL_HINT, ServedModel, build_models
from devtools_platform.app.preflight import StackPreflight
from devtools_platform.config import Settings
from devtools_platform.state.adapters.dbos.control import DbosControl
from devtools_platform.state.adapters.dbos.engine import AgentLimits, DbosEngine
from devtools_platform.state.approvals import ApprovalDesk
from devtools_platform.state.journal import Journal
from devtools_platform.state.rules import load_rules
from devtools_platform.state.service import TASK_WORKFLOW
from devtools_platform.state.supervision import Supervisor, new_worker_id


@dataclass
class Crewed:
    """The engine of this process and its supervision, ready to start."""

    engine: DbosEngine
    supervisor: Supervisor

    async def start(self) -> None:
        await self.engine.launch()
        await self.supervisor.start()

    async def stop(self) -> None:
        # The engine first: what it drops is free for others as soon as this worker says good-bye.
        await self.engine.close()
        await self.supervisor.stop()


def build_crew(
    settings: Settings,
    home: Home,
    store: sa.Engine,
    database_url: str,
    control: DbosControl,
    served: ServedModel,
    *,
    gateway_url: str,
    context_url: str,
) -> Crewed:
    """Everything a process needs to work on its queues. At most one per process."""
    worker_id = new_worker_id()
    limits = AgentLimits(settings.agent_concurrency, settings.agent_runs_per_minute)
    engine = DbosEngine(database_url, control, worker_id=worker_id, limits=limits, queues=settings.queues)
    journal = Journal(store, worker_id)
    ledger = build_ledger(settings, store, journal, served)
    token, secret = _secret(settings.stack_token, home, "token"), _secret(settings.stack_secret, home, "secret")
    client = GatewayClient(f"{gateway_url}/mcp", secret, timeout_s=settings.command_timeout_s + 30)
    tools = DurableTools(client, engine, journal)
    crew = Crew(
        durable=engine,
        log=journal,
        ledger=ledger,
        workspaces=GitWorkspaces(home.workspaces, settings.min_free_disk_mb),
        tools=tools,
        index=HttpCodeIndex(context_url, token),
        preflight=StackPreflight(settings, served),
        people=People(
            ApprovalDesk(store, control), journal, ledger, load_rules(settings.approval_rules), settings.environment
        ),
        slots=asyncio.Semaphore(settings.concurrent_tasks),
        model=served.info,
        max_review_rounds=settings.max_review_rounds,
        limits=TaskLimits(settings.max_replans, settings.max_agent_runs),
        router=load_router(settings.routing),
    )
    runner = AgentRunner(
        load_definitions(),
        build_models(served, ledger, settings.model_timeout_s),
        tools,
        durable=lambda: DBOSDurability(parallel_execution_mode="sequential"),
        max_turns=settings.max_agent_turns,
    )
    engine.register(TASK_WORKFLOW, TaskWorkflow(crew))
    missing = "" if served.endpoint else f"{served.missing or 'No model is configured.'} {NO_MODEL_HINT}"
    agent_run = AgentRunWorkflow(runner, served.is_small, served.needs_judge, settings.max_candidates, journal, missing)
    engine.register(AGENT_RUN, agent_run)
    return Crewed(engine, Supervisor(store, engine, worker_id))


def _secret(given: SecretStr | None, home: Home, name: str) -> str:
    """The stack's own, or what a worker on another host was given in its place."""
    return home.secret(name) if given is None else given.get_secret_value()
