"""A worker whose task does nothing but ask a person and wait: `python waiting_worker.py DATABASE_URL WORKER_ID`.

The approvals, the engine and its supervision are the product's own. It ends when its standard input closes.
"""

import asyncio
import sys
from typing import Any

from devtools_platform.core.approvals import ApprovalRequest
from devtools_platform.kit.database import connect
from devtools_platform.state.adapters.dbos.control import DbosControl
from devtools_platform.state.adapters.dbos.engine import AgentLimits, DbosEngine
from devtools_platform.state.approvals import ApprovalDesk
from devtools_platform.state.journal import Journal
from devtools_platform.state.supervision import Supervisor

RESULT: dict[str, Any] = {"tokens": {}, "cost_usd": None}


async def main(url: str, worker_id: str) -> None:
    store = connect(url)
    control = DbosControl(store)
    desk, journal = ApprovalDesk(store, control), Journal(store, worker_id)
    engine = DbosEngine(url, control, worker_id=worker_id, limits=AgentLimits(1), queues=("tasks",))

    async def ask_and_wait(id_: str, _argument: dict[str, Any]) -> dict[str, Any]:
        request = ApprovalRequest(
            id=f"{id_}-1", task_id=id_, workflow_id=id_, kind="plan", agent="orchestrator", preview="1. everything",
            rule="all", risk="low", cost_usd=None, environment="test", expires_after_s=3600,
        )  # fmt: skip
        await engine.step("ask", lambda: _asked(desk, request), str)
        await engine.receive(request.id, 3600)
        approval = await engine.step("settle", lambda: _settled(desk, request.id), str)
        await engine.step("finish", lambda: journal.finish(id_, id_, "completed", None, approval, RESULT), type(None))
        return {}

    engine.register("task", ask_and_wait)
    await engine.launch()
    supervisor = Supervisor(store, engine, worker_id)
    await supervisor.start()
    print("ready", flush=True)  # noqa: T201 - who started us waits for it
    await asyncio.to_thread(sys.stdin.read)


async def _asked(desk: ApprovalDesk, request: ApprovalRequest) -> str:
    return (await desk.ask(request)).status


async def _settled(desk: ApprovalDesk, id_: str) -> str:
    return (await desk.settle(id_)).status


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
