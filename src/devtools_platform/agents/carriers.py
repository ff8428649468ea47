"""What carries each agent: its runtimes with their prices, and whether they answer. Data, and who can tell."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from devtools_platform.core.agents import AgentName


@dataclass(frozen=True)
class Carrier:
    """One runtime of an agent."""

    name: str
    kind: str
    """`local`, `gradient` and so on."""
    model: str | None
    """None when there is none."""
    provider: str | None
    input_usd: float | None = None
    """US dollars per million tokens. None where no table says it."""
    output_usd: float | None = None
    price_source: str = ""


@dataclass(frozen=True)
class RunsOn:
    """An agent and its runtimes: what it is declared to run on first, then what stands in."""

    agent: AgentName
    chain: tuple[Carrier, ...]


@dataclass(frozen=True)
class ProbeResult:
    """Whether one runtime answered one question."""

    runtime: str
    ok: bool
    text: str
    """What the model said, or what is wrong."""
    hint: str = ""
    duration_s: float = 0.0


class Carriers(Protocol):
    """Those of a stack, in this process or where its agents run apart."""

    async def list_runs_on(self) -> Mapping[AgentName, RunsOn]:
        """By agent. Raises `Unavailable` while the agents are away."""
        ...

    async def probe(self, agent: AgentName) -> Sequence[ProbeResult]:
        """Ask each runtime of an agent one question; a call may cost money. What is wrong is in the results.

        Raises `UnknownAgent`, and `Unavailable` while the agents are away.
        """
        ...
