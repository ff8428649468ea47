"""The six agents by name. What each is, is data: see `agents/definitions/`."""

from typing import Literal, get_args

AgentName = Literal["orchestrator", "feature-dev", "code-review", "infrastructure", "cicd", "documentation"]

AGENTS: tuple[AgentName, ...] = get_args(AgentName)

CallerName = AgentName | Literal["person"]
"""Who calls a tool: an agent, or a person (or their program) with a token of their own."""

#: Agents a plan may give a step to: those that change the workspace. The orchestrator plans, and code-review
#: always runs after the changes, so neither is ever a step of a plan.
WORKING_AGENTS: tuple[AgentName, ...] = ("feature-dev", "infrastructure", "cicd", "documentation")
