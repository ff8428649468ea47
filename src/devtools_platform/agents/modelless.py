"""What needs no model: which requests a program alone can fulfil. Pure; the gateway's `scaffold` does the work."""

import re
from typing import Literal

from devtools_platform.core.agents import AgentName

ScaffoldKind = Literal["github-pipeline", "gitlab-pipeline", "container", "api-reference"]

_NEW = re.compile(r"\b(?:add|create|write|make|generate|set ?up|scaffold)\b", re.IGNORECASE)
_KINDS: dict[str, tuple[tuple[ScaffoldKind, re.Pattern[str]], ...]] = {
    "cicd": (
        ("gitlab-pipeline", re.compile(r"gitlab", re.IGNORECASE)),
        ("github-pipeline", re.compile(r"pipeline|workflow|\bci\b|github", re.IGNORECASE)),
    ),
    "infrastructure": (("container", re.compile(r"docker|container|image", re.IGNORECASE)),),
    "documentation": (("api-reference", re.compile(r"\bapi\b|reference", re.IGNORECASE)),),
}
POSSIBLE = (
    "Without a model a new pipeline, a new container file and an API reference can be made, and changes be reviewed by "
    "analyzers."
)


def scaffold_for(agent: AgentName | None, goal: str) -> ScaffoldKind | None:
    """What a program can make for this goal; None when it takes a model: for anything that is not simply new."""
    if agent is None or _NEW.search(goal) is None:
        return None
    return next((kind for kind, rule in _KINDS.get(agent, ()) if rule.search(goal)), None)
