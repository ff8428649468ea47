"""The gateway's policy of this stack: the shipped one, and the agents a team added with what their files ask for."""

from pathlib import Path

from devtools_platform.agents.definitions import load_definitions
from devtools_platform.core.errors import BadInput
from devtools_platform.gateway.api import load_policy
from devtools_platform.gateway.types import Policy


def policy_of(own: Path | None) -> Policy:
    """Raises `BadInput` for a toolset nobody has."""
    policy = load_policy()
    added: dict[str, tuple[str, ...]] = {}
    for name, definition in load_definitions(own).items():
        if name in policy.agents:
            continue
        if unknown := [toolset for toolset in definition.toolsets if toolset not in policy.toolsets]:
            raise BadInput(
                f"The agent {name!r} asks for the toolset {unknown[0]!r}, which the gateway does not have.",
                hint=f"There are: {', '.join(policy.toolsets)}.",
            )
        added[name] = definition.toolsets
    return policy.model_copy(update={"agents": {**policy.agents, **added}})
