"""Reads the six definitions. To add an agent is to add a file; nothing about one agent is written in code."""

from functools import cache
from importlib import resources

import yaml

from devtools_platform.agents.types import Definition
from devtools_platform.core.agents import AGENTS, AgentName


@cache
def load_definitions() -> dict[AgentName, Definition]:
    """All definitions by name, in the order of `AGENTS`."""
    return {name: _load(name) for name in AGENTS}


def _load(name: AgentName) -> Definition:
    text = resources.files("devtools_platform.agents").joinpath("definitions", f"{name}.md").read_text("utf-8")
    _, front, body = text.split("---\n", 2)
    return Definition.model_validate({**yaml.safe_load(front), "instructions": f"Agent: {name}\n\n{body.strip()}"})
