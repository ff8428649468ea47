"""The workflows of a process that works, wired: `task`, which mostly waits, and `agent_run`, which does the work."""

import asyncio
from dataclasses import dataclass
from typing import cast

import sqlalchemy as sa
from pydantic_ai.durable_exec.dbos import DBOSDurability, StepConfig

from devtools_platform.agents.adapters.git_workspaces import GitWorkspaces
from devtools_platform.agents.adapters.mcp_tools import GatewayClient
from devtools_platform.agents.crew import AGENT_RUN, Crew, TaskLimits
from devtools_platform.agents.definitions import load_definitions, working_agents
from devtools_platform.agents.orchestration import TaskWorkflow
from devtools_platform.agents.questions import People
from devtools_platform.agents.routing import load_router
from devtools_platform.agents.runner import AgentRunner
from devtools_platform.agents.runs import AgentRunWorkflow
from devtools_platform.agents.tool_calls import DurableTools
from devtools_platform.app.code_index import HttpCodeIndex
from devtools_platform.app.estimates import LedgerEstimates
from devtools_platform.app.home import Home
from devtools_platform.app.ledger import LedgerBridge, build_ledger
from devtools_platform.app.models import ServedModel
from devtools_platform.app.preflight import StackPreflight
from devtools_platform.app.runtimes import RuntimeModels, Runtimes
from devtools_platform.config import Settings
from devtools_platform.state.adapters.dbos.control import DbosControl
from devtools_platform.state.adapters.dbos.engine import AgentLimits, DbosEngine
from devtools_platform.state.approvals import ApprovalDesk
from devtools_platform.state.journal import Journal
from devtools_platform.state.rules import load_rules
from devtools_platform.state.service import TASK_WORKFLOW
from devtools_platform.state.supervision import Supervisor, new_worker_id

MODEL_STEP = cast("StepConfig", {"preemptible": True})
"""A cancelled task hangs up on its model. pydantic-ai passes this option of the engine on; its type lacks it."""


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
    runtimes: Runtimes,
    *,
    gateway_url: str,
    context_url: str,
) -> Crewed:
    """Everything a process needs to work on its queues. At most one per process."""
    worker_id = new_worker_id()
    limits = AgentLimits(settings.agent_concurrency, settings.agent_runs_per_minute)
    engine = DbosEngine(database_url, control, worker_id=worker_id, limits=limits, queues=settings.queues)
    journal = Journal(store, worker_id)

    def ledger_of(served: ServedModel) -> LedgerBridge:
        return build_ledger(settings, store, journal, served, journal.append_in)

    ledger = ledger_of(runtimes.main)
    token, secret = home.secret("token"), home.secret("secret")
    client = GatewayClient(f"{gateway_url}/mcp", secret, timeout_s=settings.command_timeout_s + 30)
    tools = DurableTools(client, engine, journal)
    crew = Crew(
        durable=engine,
        log=journal,
        ledger=ledger,
        workspaces=GitWorkspaces(home.workspaces, settings.min_free_disk_mb),
        tools=tools,
        index=HttpCodeIndex(context_url, token),
        preflight=StackPreflight(settings, runtimes),
        people=People(
            ApprovalDesk(store, control), journal, ledger, load_rules(settings.approval_rules), settings.environment
        ),
        slots=asyncio.Semaphore(settings.concurrent_tasks),
        model=runtimes.info,
        max_review_rounds=settings.max_review_rounds,
        limits=TaskLimits(settings.max_replans, settings.max_agent_runs),
        estimates=LedgerEstimates(store, runtimes),
        router=load_router(settings.routing, working_agents(load_definitions(settings.agent_definitions))),
    )
    runner = AgentRunner(
        load_definitions(settings.agent_definitions),
        RuntimeModels(runtimes, ledger_of, journal, settings.model_timeout_s),
        tools,
        durable=lambda: DBOSDurability(parallel_execution_mode="sequential", model_step_config=MODEL_STEP),
        edit_formats=runtimes.edit_format,
        max_turns=settings.max_agent_turns,
    )
    engine.register(TASK_WORKFLOW, TaskWorkflow(crew))
    engine.register(AGENT_RUN, AgentRunWorkflow(runner, runtimes.traits, settings.max_candidates, journal))
    return Crewed(engine, Supervisor(store, engine, worker_id))
