"""Deterministic routing of simple requests; a model plans only what these rules do not decide.

A rule fires only when one agent's words stand in the request and no other agent's do: a request that could mean
two things is the model's to plan.
"""

import re

from devtools_platform.core.agents import AgentName

_WORDS: dict[AgentName, str] = {
    "documentation": r"readme|changelog|documentation|docs?|docstrings?|how-?to|tutorial",
    "cicd": r"ci|cd|pipelines?|workflows?|github actions?|gitlab(?: ci)?|\.gitlab-ci\.yml",
    "infrastructure": r"dockerfiles?|docker[- ]compose|compose\.ya?ml|terraform|kubernetes|k8s|helm|manifests?",
    "feature-dev": r"bugs?|fix(?:es|ed)?|fail(?:s|ing|ed)?|tests?|functions?|class(?:es)?|methods?|refactor"
    r"|implement|features?|error|exception|crash(?:es)?|returns?|raises?",
}
_RULES: dict[AgentName, re.Pattern[str]] = {
    agent: re.compile(rf"(?<![\w.])(?:{words})(?!\w)", re.IGNORECASE) for agent, words in _WORDS.items()
}


def route(text: str) -> AgentName | None:
    """The one agent whose words the request uses, or None when it is not that simple."""
    matching: list[AgentName] = [agent for agent, rule in _RULES.items() if rule.search(text)]
    return matching[0] if len(matching) == 1 else None
