"""`dev-tools task replay`: a task's records read from the stack's database and gone through again by today's code."""

import asyncio
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import Any

from devtools_platform.agents.adapters.embedded_model import CODER
from devtools_platform.agents.crew import Crew, TaskLimits
from devtools_platform.agents.definitions import load_definitions, working_agents
from devtools_platform.agents.orchestration import TaskWorkflow
from devtools_platform.agents.questions import People
from devtools_platform.agents.replay import RecordedModel, Replay, Replayed
from devtools_platform.agents.routing import load_router
from devtools_platform.agents.runner import AgentRunner
from devtools_platform.agents.runs import AgentRunWorkflow, Traits
from devtools_platform.agents.tool_calls import DurableTools
from devtools_platform.app.home import Home
from devtools_platform.app.worker import find_stack
from devtools_platform.config import Settings
from devtools_platform.core.approvals import ApprovalRules
from devtools_platform.core.errors import Conflict
from devtools_platform.core.history import TaskRecord
from devtools_platform.core.tasks import FINAL
from devtools_platform.kit import database
from devtools_platform.state.adapters.dbos.control import DbosControl
from devtools_platform.state.records import Records


@asynccontextmanager
async def open_records(settings: Settings) -> AsyncGenerator[Records]:
    """The records of the stack that runs on the data directory, or of the database that is set. Raises `NotRunning`."""
    if settings.database_url is not None:
        url = settings.database_url.get_secret_value()
    else:
        url = find_stack(settings, Home.of(settings)).database_url
    store = database.connect(url)
    try:
        yield Records(store, DbosControl(store))
    finally:
        await asyncio.to_thread(store.dispose)


async def replay_task(settings: Settings, id_: str) -> Replayed:
    """Raises `NotFound`, and `Conflict` for a task that has not ended."""
    async with open_records(settings) as records:
        record = await records.read(id_)
    if record.result.status not in FINAL:
        raise Conflict(
            f"Task {id_!r} is {record.result.status}; only one that has ended can be replayed.",
            hint=f"Run `dev-tools task watch {id_}`.",
        )
    return await replay(settings, record)


async def replay(settings: Settings, record: TaskRecord) -> Replayed:
    """By this version's code, the settings' routing, agent definitions and limits."""
    again = Replay(record)
    log: Any = again  # answers for everything a task reaches for; what it does not have, no step may ask
    tools = DurableTools(again, again, log)
    definitions = load_definitions(settings.agent_definitions)
    crew = Crew(
        durable=again,
        log=log,
        ledger=log,
        workspaces=log,
        tools=tools,
        index=log,
        preflight=log,
        people=People(log, log, log, ApprovalRules(), settings.environment),
        slots=asyncio.Semaphore(1),
        model=record.result.model,
        max_review_rounds=settings.max_review_rounds,
        limits=TaskLimits(settings.max_replans, settings.max_agent_runs),
        router=load_router(settings.routing, working_agents(definitions)),
    )
    runner = AgentRunner(
        definitions, lambda agent: RecordedModel(again, agent), tools, max_turns=settings.max_agent_turns
    )
    traits = _Traits(record)
    again.run_child = AgentRunWorkflow(runner, traits.of, settings.max_candidates, log)
    return await again.play(TaskWorkflow(crew))


class _Traits:
    """What the agents' models were like, as the record has it."""

    def __init__(self, record: TaskRecord) -> None:
        model = record.result.model
        self._small = model is not None and model.tier == "small"
        self._sha256 = model.sha256 if model else None
        self._runtimes = {event.agent: event.data for event in record.events.values() if event.kind == "runtime"}
        whys = [d.why for d in record.result.degraded if d.what == "review without a model"]
        self._missing = whys[0] if whys else ""

    def of(self, agent: str) -> Traits:
        runtime = self._runtimes.get(agent)
        is_small = self._small if runtime is None else runtime.get("tier") == "small"
        needs_judge = is_small and self._sha256 == CODER.sha256
        return Traits(is_small, needs_judge, "" if runtime and runtime.get("model") else self._missing)
