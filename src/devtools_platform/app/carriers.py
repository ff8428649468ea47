"""What carries each agent, told by the process that runs them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal

import sqlalchemy as sa

from devtools_platform.agents.carriers import Carrier, ProbeResult, RunsOn
from devtools_platform.agents.definitions import load_definitions
from devtools_platform.app.agent_probe import ask_runtime
from devtools_platform.app.ledger import Pricing
from devtools_platform.app.provider_costs import Catalogue, stored_costs
from devtools_platform.app.runtimes import Runtime, Runtimes
from devtools_platform.config import Settings
from devtools_platform.core.agents import AgentName
from devtools_platform.core.errors import UnknownAgent
from devtools_platform.observability.prices import PriceFile, load_prices

MILLION = 1_000_000


@dataclass(frozen=True)
class OwnCarriers:
    """The `Carriers` of the process that runs the agents."""

    settings: Settings
    runtimes: Runtimes
    store: sa.Engine

    async def list_runs_on(self) -> Mapping[AgentName, RunsOn]:
        file, catalogue = load_prices(self.settings.prices), Catalogue(stored_costs(self.store))
        await catalogue.refresh()
        return {
            name: RunsOn(name, tuple(_carrier(runtime, file, catalogue) for runtime in chain))
            for name, chain in self.runtimes.chains.items()
        }

    async def probe(self, agent: AgentName) -> Sequence[ProbeResult]:
        known = load_definitions(self.settings.agent_definitions)
        if agent not in known:
            raise UnknownAgent(f"There is no agent {agent!r}.", hint=f"The agents are: {', '.join(known)}.")
        return [await ask_runtime(self.settings, known[agent], runtime) for runtime in self.runtimes.chains[agent]]


def _carrier(runtime: Runtime, file: PriceFile, catalogue: Catalogue) -> Carrier:
    info = runtime.served.info
    # Whoever runs on the stack's own model runs our loop on it.
    kind = "local" if runtime.kind == "stack" else runtime.kind
    if info is None:
        return Carrier(runtime.name, kind, None, None)
    pricing = Pricing(runtime.served, file, catalogue)
    input_usd, source = pricing.price(MILLION, 0, 0)
    output_usd, _ = pricing.price(0, MILLION, 0)
    return Carrier(runtime.name, kind, info.name, info.provider, _float(input_usd), _float(output_usd), source or "")


def _float(usd: Decimal | None) -> float | None:
    return None if usd is None else float(usd)
