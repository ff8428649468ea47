"""What the console is told about the running stack. Tasks and events have their own types in `core.tasks`."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from devtools_platform.core.agents import AgentName


@dataclass(frozen=True)
class ServiceStatus:
    """One service of the stack as its health check answered just now."""

    name: str
    url: str
    ok: bool
    facts: Mapping[str, object] = field(default_factory=dict[str, object])


@dataclass(frozen=True)
class AgentStatus:
    """One of the six agents: what it is for and what it runs on."""

    name: AgentName
    role: str
    runtime: str
    """Where it runs, for example `local` or `gradient`."""
    model: str | None
    """None when no model is configured or reachable."""
    tools: tuple[str, ...] = ()
