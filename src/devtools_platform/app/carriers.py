"""What carries each agent, told by the process that runs them, or asked of it where agents run apart."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import Any, TypeVar

import httpx2
import sqlalchemy as sa
from pydantic import TypeAdapter

from devtools_platform.agents.carriers import Carrier, ProbeResult, RunsOn
from devtools_platform.agents.definitions import load_definitions
from devtools_platform.app.agent_probe import ask_runtime
from devtools_platform.app.client import Refused
from devtools_platform.app.ledger import Pricing
from devtools_platform.app.provider_costs import Catalogue, stored_costs
from devtools_platform.app.runtimes import Runtime, Runtimes
from devtools_platform.config import Settings
from devtools_platform.core.agents import AgentName
from devtools_platform.core.errors import Unavailable, UnknownAgent
from devtools_platform.observability.prices import PriceFile, load_prices

ASK_S = 2.0
MILLION = 1_000_000
T = TypeVar("T")


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


@dataclass(frozen=True)
class RemoteCarriers:
    """The `Carriers` of agents that run apart, over their HTTP side with the stack's token."""

    url: str
    token: str
    probe_s: float
    """How long all runtimes of an agent together may take to answer."""

    async def list_runs_on(self) -> Mapping[AgentName, RunsOn]:
        listed = await self._ask(list[RunsOn], "GET", "/agents", ASK_S)
        return {one.agent: one for one in listed}

    async def probe(self, agent: AgentName) -> Sequence[ProbeResult]:
        return await self._ask(list[ProbeResult], "POST", f"/agents/{agent}/probe", self.probe_s)

    async def _ask(self, kind: type[T], method: str, path: str, patience_s: float) -> T:
        headers = {"Authorization": f"Bearer {self.token}"}
        timeout = httpx2.Timeout(ASK_S, read=patience_s)
        async with httpx2.AsyncClient(base_url=self.url, headers=headers, timeout=timeout, trust_env=False) as http:
            try:
                response = await http.request(method, path)
                answer: Any = response.json()
            except (httpx2.HTTPError, ValueError) as error:
                why = str(error) or type(error).__name__
                raise Unavailable(f"The agents at {self.url} do not answer: {why}.") from None
        if response.is_error:
            raise Refused(answer, response.status_code)
        return TypeAdapter(kind).validate_python(answer)
