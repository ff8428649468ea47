"""DBOS as our durable engine: workflows registered as plain functions, steps stored as JSON.

DBOS keeps its own tables in our database (see `config`). Two queues: tasks, whose workflows mostly wait and
hold no slot, and agents, one partition per agent, where the limits are.
"""

import asyncio
import contextvars
import functools
import logging
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

from dbos import DBOS, DBOSConfig, SetEnqueueOptions, SetWorkflowID, StepOptions, _workflow_commands
from pydantic import TypeAdapter

from devtools_platform.core.errors import Away
from devtools_platform.core.interfaces import Child
from devtools_platform.kit.patience import patiently
from devtools_platform.state.adapters.dbos.config import system_database_config
from devtools_platform.state.adapters.dbos.control import AGENTS, TASKS, WORKFLOW_VERSION, DbosControl
from devtools_platform.state.adapters.dbos.messages import Messages
from devtools_platform.state.adapters.dbos.polling import Poller

T = TypeVar("T")
Workflow = Callable[[str, dict[str, Any]], Awaitable[dict[str, Any]]]
"""Called with the workflow's id and its argument."""

QUEUES = (TASKS, AGENTS)
TASKS_POLL_S = 1.0
AGENTS_POLL_S = 2.0
"""How often a worker looks for queued work, in seconds, besides what it has queued itself (`polling`). A thousand
waiting tasks cost nothing, but two idle queues polled every 0.1 s cost 10 % of a core. Runs of agents are queued by a
worker that can take them: the poll is for what another one leaves it, or for the room another one makes."""
RECHECK_S = 300.0
"""How often a workflow that waits for a message looks for one that it was not told of, besides `Messages`. The
library's 60 s cost 4 % of a core with 1,000 waiting."""
UNUSED_JOBS_S = 4.0
"""How often the library looks for delayed workflows and for those past a time limit of its own. We have neither; its
lock for this bears 5 s."""
ORPHANED_AFTER_S = 30.0
SHORTEST_WATCH_S = 0.01
LONGEST_WATCH_S = 1.0
RESULT_POLL_S = 0.05
"""For a result that is known to be there."""

log = logging.getLogger(__name__)


@functools.cache  # built anew for each step it costs more than its work
def _adapter(returns: type[T]) -> TypeAdapter[T]:
    return TypeAdapter(returns)


@dataclass(frozen=True)
class AgentLimits:
    """Per agent, over all workers."""

    concurrency: int
    runs_per_minute: int | None = None


class DbosEngine:
    """One process's share of the durable work. At most one per process, as DBOS itself is."""

    def __init__(
        self,
        database_url: str,
        control: DbosControl,
        *,
        worker_id: str,
        limits: AgentLimits,
        queues: Sequence[str] = QUEUES,
    ) -> None:
        config: DBOSConfig = {
            "name": "dev-tools",
            **system_database_config(database_url),
            "executor_id": worker_id,
            "application_version": WORKFLOW_VERSION,
            "log_level": "WARNING",
        }
        self.queues = queues
        self._worker_id = worker_id
        self._dbos = DBOS(config=config)
        DBOS.listen_queues(queues)
        # It writes to the terminal by itself; ours is for progress, so its words go where all logs go.
        logger = logging.getLogger("dbos")
        logger.handlers.clear()
        logger.propagate = True
        self._workflows: dict[str, Callable[..., Any]] = {}
        self._limits = limits
        self._control = control
        self._poller = Poller(self._dbos, queues)
        self._ends = Ends(control)
        self._orphanage = Orphanage()
        self._following: asyncio.Task[None] | None = None

    def register(self, name: str, workflow: Workflow) -> None:
        """Make `workflow` startable and recoverable under `name`. Call before `launch`."""

        async def run(argument: dict[str, Any]) -> dict[str, Any]:
            try:
                return await workflow(str(DBOS.workflow_id), argument)
            finally:
                self._ends.nudge()

        self._workflows[name] = DBOS.workflow(name=name)(run)

    async def launch(self) -> None:
        """Connect, make DBOS's tables if they are missing, and begin to take work."""
        await asyncio.to_thread(self._launch)
        self._control.on_queued = self._poller.look
        self._following = asyncio.create_task(Messages(self._dbos).follow())

    def _launch(self) -> None:
        _workflow_commands._BACKGROUND_JOBS_INTERVAL_SEC = UNUSED_JOBS_S  # noqa: SLF001 # pyright: ignore[reportPrivateUsage]
        DBOS.launch()
        self._dbos._sys_db._notification_fallback_polling_interval = RECHECK_S  # noqa: SLF001 # pyright: ignore[reportPrivateUsage]
        DBOS.register_queue(TASKS, polling_interval_sec=TASKS_POLL_S, on_conflict="always_update")
        per_minute = self._limits.runs_per_minute
        DBOS.register_queue(
            AGENTS,
            partition_concurrency=self._limits.concurrency,
            partition_limiter={"limit": per_minute, "period": 60} if per_minute else None,
            polling_interval_sec=AGENTS_POLL_S,
            on_conflict="always_update",
        )

    async def close(self) -> None:
        """Stop taking work. What is running is left for another worker, or the next start, to recover."""
        self._control.on_queued = None
        if self._following is not None:
            self._following.cancel()
        await asyncio.to_thread(self._poller.close)
        await asyncio.to_thread(DBOS.destroy, workflow_completion_timeout_sec=0)

    # -- for workflows (core.interfaces.Durable) -----------------------------------------------------------------

    async def step(self, name: str, call: Callable[[], Awaitable[T]], returns: type[T]) -> T:
        adapter = _adapter(returns)

        async def run() -> Any:
            return adapter.dump_python(await patiently(call), mode="json")

        options: StepOptions = {"name": name, "retries_allowed": False, "preemptible": True}
        return adapter.validate_python(await DBOS.run_step_async(options, run))

    async def child(
        self, workflow: str, id_: str, argument: Mapping[str, Any], *, partition: str, priority: int
    ) -> dict[str, Any]:
        return (await self.children([Child(workflow, id_, argument, partition, priority)]))[0]

    async def children(self, wanted: Sequence[Child]) -> list[dict[str, Any]]:
        # Queued and read one after the other: their order is part of the stored history. Only the waiting is not.
        handles: list[Any] = []
        for child in wanted:
            with (
                SetWorkflowID(child.id),
                SetEnqueueOptions(queue_partition_key=child.partition, priority=child.priority),
            ):
                handles.append(
                    await DBOS.enqueue_workflow_async(AGENTS, self._workflows[child.workflow], dict(child.argument))
                )
        self._poller.look(AGENTS)
        # Not `child.id`: in the replay of a retry or a fork it is the child of the workflow the history came from.
        await asyncio.gather(*(self._see_end(handle.workflow_id) for handle in handles))
        return [await handle.get_result(polling_interval_sec=RESULT_POLL_S) for handle in handles]

    async def _see_end(self, workflow_id: str) -> None:
        await self._ends.wait(workflow_id)
        self._poller.look(AGENTS)  # for a run that waited for this one's room

    async def receive(self, topic: str, timeout_s: float) -> bool:
        return await DBOS.recv_async(topic, timeout_seconds=timeout_s) is not None

    async def patched(self, name: str) -> bool:
        """Whether this workflow runs the code after the change `name`; False in one that began before it."""
        return await DBOS.patch_async(name)

    # -- for supervision (state.interfaces.Executor) -------------------------------------------------------------

    async def recover(self, worker_ids: Sequence[str]) -> int:
        return len(await asyncio.to_thread(DBOS._recover_pending_workflows, list(worker_ids)))  # noqa: SLF001 # pyright: ignore[reportPrivateUsage]

    async def list_orphans(self) -> set[str]:
        held = await asyncio.to_thread(self._list_held)
        active = set(self._dbos._active_workflows_set.activeList())  # noqa: SLF001 # pyright: ignore[reportPrivateUsage]
        return self._orphanage.judge(held - active, active, time.monotonic())

    def _list_held(self) -> set[str]:
        rows = self._dbos._sys_db.get_pending_workflows(self._worker_id, WORKFLOW_VERSION)  # noqa: SLF001 # pyright: ignore[reportPrivateUsage]
        return {row.workflow_id for row in rows}


@dataclass
class Orphanage:
    """Tells workflows that got lost from those that are only on their way.

    The engine takes everything that waits from a queue at once and then starts it one by one, which with a
    thousand takes many seconds. So what is not known here is lost only when it stayed so for a while in which
    none of the others was started either.
    """

    _since: dict[str, float] = field(default_factory=dict[str, float])

    def judge(self, unknown: set[str], active: set[str], now: float) -> set[str]:
        """`unknown`: taken by this process, by the database's word, and not `active` in it. `now` in seconds."""
        is_starting = any(id_ in active for id_ in self._since)
        self._since = {id_: now if is_starting else self._since.get(id_, now) for id_ in unknown}
        return {id_ for id_, since in self._since.items() if now - since >= ORPHANED_AFTER_S}


@dataclass
class Ends:
    """Wakes those who wait for a workflow's end: one small query for all of them, however many they are.

    Waiting is not part of a history: after a restart the workflow waits again, and the result is read and
    stored once it is there.
    """

    control: DbosControl
    _waiting: dict[str, list[asyncio.Event]] = field(default_factory=dict[str, list[asyncio.Event]])
    _watch: asyncio.Task[None] | None = None
    _nudged: asyncio.Event = field(default_factory=asyncio.Event)

    async def wait(self, id_: str) -> None:
        event = asyncio.Event()
        self._waiting.setdefault(id_, []).append(event)
        self._nudged.set()
        if self._watch is None or self._watch.done():
            # In a context of its own: in the caller's, the queries would become steps of its workflow.
            self._watch = asyncio.get_running_loop().create_task(self._look(), context=contextvars.Context())
        try:
            await event.wait()
        finally:
            if waiting := self._waiting.get(id_):
                waiting.remove(event)

    def nudge(self) -> None:
        """A workflow of this process has just ended. Called on the loop of the workflows."""
        self._nudged.set()

    async def _look(self) -> None:
        pause = SHORTEST_WATCH_S
        while self._waiting:
            looked_at = time.monotonic()
            try:
                ended = await self.control.find_ended(list(self._waiting))
            except Away:
                ended = set[str]()
            except Exception:  # every waiting task depends on this loop
                log.exception("looking for ended workflows broke; it goes on")
                ended = set[str]()
            for id_ in ended:
                for event in self._waiting.pop(id_, []):
                    event.set()
            self._waiting = {id_: events for id_, events in self._waiting.items() if events}
            pause = SHORTEST_WATCH_S if ended or self._nudged.is_set() else min(pause * 2, LONGEST_WATCH_S)
            self._nudged.clear()
            # A short sleep even when nudged: the row of the workflow that ended is written a moment later. With a
            # thousand in it the query takes longer than that, and must not be all that this process does.
            await asyncio.sleep(max(SHORTEST_WATCH_S, 2 * (time.monotonic() - looked_at)))
            if pause > SHORTEST_WATCH_S:
                await _bounded(self._nudged.wait(), pause)


async def _bounded(wait: Awaitable[Any], seconds: float) -> None:
    try:
        async with asyncio.timeout(seconds):
            await wait
    except TimeoutError:
        pass
