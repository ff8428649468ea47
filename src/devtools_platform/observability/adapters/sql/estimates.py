"""What a run of an agent has cost, by the ledger: the measure of what the next one may."""

from decimal import Decimal

import sqlalchemy as sa

from devtools_platform.kit.database import read_in_thread
from devtools_platform.kit.schema import model_calls, runs

MAX_TASKS = 50
"""The newest tasks are looked at: models, prices and prompts change."""
ENDED = ("completed", "failed")


async def cost_of_run(database: sa.Engine, agent: str, provider: str, model: str) -> tuple[Decimal | None, int]:
    """US dollars on average and the number of runs it rests on; None and 0 where nothing is known.

    A task counts when its agent's calls all went to this model, all at a known price, and no run is still going on.
    """
    return await read_in_thread(database, lambda c: _cost_of_run(c, agent, provider, model))


def _cost_of_run(connection: sa.Connection, agent: str, provider: str, model: str) -> tuple[Decimal | None, int]:
    calls, last = model_calls, sa.func.max(model_calls.c.id)
    is_this = sa.and_(calls.c.provider == provider, calls.c.model == model)
    # A call that failed costs nothing.
    is_unpriced = sa.and_(calls.c.cost_usd.is_(None), calls.c.error.is_(None))
    recent = (
        sa.select(calls.c.task_id)
        .where(calls.c.agent == agent, is_this)
        .group_by(calls.c.task_id)
        .order_by(last.desc())
        .limit(MAX_TASKS)
    )
    of_task = sa.select(
        calls.c.task_id,
        sa.func.sum(calls.c.cost_usd).label("cost"),
        sa.func.count().filter(sa.or_(~is_this, is_unpriced)).label("unknown"),
    )
    costs = connection.execute(
        of_task.where(calls.c.agent == agent, calls.c.task_id.in_(recent)).group_by(calls.c.task_id)
    ).all()
    known = {row.task_id: Decimal(row.cost) for row in costs if not row.unknown and row.cost is not None}
    counted = sa.select(
        runs.c.task_id,
        sa.func.count().filter(runs.c.status.in_(ENDED)).label("ended"),
        sa.func.count().filter(runs.c.status.in_(("queued", "working"))).label("open"),
    )
    found = connection.execute(
        counted.where(runs.c.agent == agent, runs.c.task_id.in_(list(known))).group_by(runs.c.task_id)
    ).all()
    whole = {row.task_id: row.ended for row in found if row.ended and not row.open}
    number = sum(whole.values())
    return (sum(known[id_] for id_ in whole) / Decimal(number) if number else None), number
