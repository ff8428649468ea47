"""DBOS as our durable engine: workflows registered as plain functions, steps stored as JSON.

DBOS keeps its own tables in our database (`dbos_config`). Executor id and application version are pinned:
an unset version is a hash of the source, and a deploy would then strand every task in flight.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, TypeVar

from dbos import DBOS, DBOSConfig, SetWorkflowID, StepOptions
from pydantic import TypeAdapter

from devtools_platform.state.adapters.dbos_config import system_database_config

T = TypeVar("T")
Workflow = Callable[[dict[str, Any]], Awaitable[dict[str, Any]]]

WORKFLOW_VERSION = "wf-1"
"""Raise it only when stored histories can no longer be replayed by this code."""
QUEUE = "tasks"


class DbosEngine:
    """One process's share of the durable work. At most one per process, as DBOS itself is."""

    def __init__(self, database_url: str, *, executor_id: str, concurrency: int) -> None:
        config: DBOSConfig = {
            "name": "dev-tools",
            **system_database_config(database_url),
            "executor_id": executor_id,
            "application_version": WORKFLOW_VERSION,
            "log_level": "WARNING",
        }
        self._dbos = DBOS(config=config)
        # It writes to the terminal by itself; ours is for progress, so its words go where all logs go.
        logger = logging.getLogger("dbos")
        logger.handlers.clear()
        logger.propagate = True
        self._workflows: dict[str, Callable[..., Any]] = {}
        self._concurrency = concurrency

    def register(self, name: str, workflow: Workflow) -> None:
        """Make `workflow` startable and recoverable under `name`. Call before `launch`."""

        async def run(argument: dict[str, Any]) -> dict[str, Any]:
            return await workflow(argument)

        self._workflows[name] = DBOS.workflow(name=name)(run)

    async def launch(self) -> None:
        """Connect, recover what this executor left behind, and begin to take work."""
        await asyncio.to_thread(self._launch)

    def _launch(self) -> None:
        DBOS.launch()
        # Parents wait long and cheaply; the limit is on whole tasks, never on their agents.
        DBOS.register_queue(QUEUE, worker_concurrency=self._concurrency, polling_interval_sec=0.1)

    async def close(self) -> None:
        """Stop taking work. What is running is left for the next start to recover."""
        await asyncio.to_thread(DBOS.destroy, workflow_completion_timeout_sec=0)

    async def start(self, workflow: str, id_: str, argument: Mapping[str, Any]) -> None:
        with SetWorkflowID(id_):
            await DBOS.enqueue_workflow_async(QUEUE, self._workflows[workflow], dict(argument))

    async def cancel(self, id_: str) -> None:
        await DBOS.cancel_workflow_async(id_, cancel_children=True)

    async def step(self, name: str, call: Callable[[], Awaitable[T]], returns: type[T], *, attempts: int = 1) -> T:
        adapter: TypeAdapter[T] = TypeAdapter(returns)

        async def run() -> Any:
            return adapter.dump_python(await call(), mode="json")

        options: StepOptions = {"name": name, "retries_allowed": attempts > 1, "max_attempts": max(attempts, 2)}
        return adapter.validate_python(await DBOS.run_step_async(options, run))

    async def child(self, workflow: str, id_: str, argument: Mapping[str, Any]) -> dict[str, Any]:
        with SetWorkflowID(id_):
            handle = await DBOS.start_workflow_async(self._workflows[workflow], dict(argument))
        return await handle.get_result(polling_interval_sec=0.1)
