"""The cost of an agent's next run, by the ledger, for the model that the agent has now."""

from dataclasses import dataclass

import sqlalchemy as sa

from devtools_platform.agents.types import RunCost
from devtools_platform.app.runtimes import Runtimes
from devtools_platform.observability.adapters.sql.estimates import cost_of_run


@dataclass(frozen=True)
class LedgerEstimates:
    """See `agents.interfaces.Estimates`."""

    database: sa.Engine
    runtimes: Runtimes

    async def cost_of_run(self, agent: str) -> RunCost:
        info = self.runtimes.chains[agent][0].served.info
        if info is None:
            return RunCost()
        cost, runs = await cost_of_run(self.database, agent, info.provider, info.name)
        return RunCost(cost_usd=None if cost is None else float(cost), runs=runs)
