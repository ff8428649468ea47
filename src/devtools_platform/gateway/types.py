"""What the gateway decides about: which agent may call which tool, and how a call went."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from pydantic import BaseModel, ConfigDict

from devtools_platform.core.agents import AgentName, CallerName

Decision = Literal["allow", "ask", "deny"]


class Policy(BaseModel):
    """Agent -> the tools it may call, by their full names (`server_tool`). What is not listed is denied."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    toolsets: Mapping[str, Sequence[str]]
    agents: Mapping[AgentName, Sequence[str]]
    """Agent -> names of toolsets."""

    def tools_of(self, agent: CallerName) -> frozenset[str]:
        """Nothing for a person: the scopes of their token say what they may call."""
        if agent == "person":
            return frozenset()
        return frozenset(tool for name in self.agents.get(agent, ()) for tool in self.toolsets[name])


@dataclass(frozen=True)
class StoredCall:
    """What the record of an earlier call under the same key says."""

    state: Literal["started", "finished", "in_doubt"]
    text: str = ""
    data: Mapping[str, object] | None = None
    is_error: bool = False
    is_same_call: bool = True
    """Whether it was made by this caller, for this tool. Another's answer is nobody else's business."""
    is_running: bool = False
    """Whether another gateway process is at it: its answer will stand here."""
    gateway: str | None = None
    """Which gateway process began it."""
