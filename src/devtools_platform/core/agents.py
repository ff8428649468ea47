"""The agents by name. What each is, is data: see `agents/definitions/`. A team can add its own."""

from typing import Annotated, Literal

from pydantic import StringConstraints

NAME_PATTERN = r"^[a-z][a-z0-9]*(-[a-z0-9]+)*$"
MAX_NAME = 40

AgentName = Annotated[str, StringConstraints(pattern=NAME_PATTERN, max_length=MAX_NAME)]

AGENTS: tuple[AgentName, ...] = (
    "orchestrator",
    "feature-dev",
    "code-review",
    "infrastructure",
    "cicd",
    "documentation",
)
"""The six that are always there."""

EditFormat = Literal["replace", "patch", "whole"]
"""How a model changes files: one passage by its exact text, a patch of several files, or whole files."""

PERSON = "person"

CallerName = AgentName
"""Who calls a tool: an agent, or `person`: a person (or their program) with a token of their own."""

#: Agents a plan may give a step to: those that change the workspace. The orchestrator plans, and code-review
#: always runs after the changes, so neither is ever a step of a plan.
WORKING_AGENTS: tuple[AgentName, ...] = ("feature-dev", "infrastructure", "cicd", "documentation")
