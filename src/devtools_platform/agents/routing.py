"""Deterministic routing of simple requests; a model plans only what the rules in `routing.yaml` do not decide."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path

import yaml
from pydantic import TypeAdapter, ValidationError

from devtools_platform.core.agents import WORKING_AGENTS, AgentName
from devtools_platform.core.errors import BadInput

_HINT = "It maps working agents ({}) to lists of regular expressions."


@dataclass(frozen=True)
class Router:
    """The words of each agent."""

    rules: Mapping[AgentName, re.Pattern[str]]

    def route(self, text: str) -> AgentName | None:
        """The one agent whose words the request uses, or None when it is not that simple."""
        matching: list[AgentName] = [agent for agent, rule in self.rules.items() if rule.search(text)]
        return matching[0] if len(matching) == 1 else None


def load_router(path: Path | None = None, agents: Sequence[AgentName] = WORKING_AGENTS) -> Router:
    """The rules in `path`, or those that come with us. Raises `BadInput` saying what is wrong with them."""
    name = str(path) if path else "routing.yaml"
    hint = _HINT.format(", ".join(agents))
    try:
        text = (
            path.read_text("utf-8")
            if path
            else resources.files("devtools_platform.agents").joinpath(name).read_text("utf-8")
        )
        words = TypeAdapter(dict[AgentName, list[str]]).validate_python(yaml.safe_load(text))
        if unknown := [agent for agent in words if agent not in agents]:
            raise BadInput(f"The routing rules {name!r} are wrong at {unknown[0]}: no agent works so.", hint=hint)
        return Router({agent: _rule(listed) for agent, listed in words.items()})
    except (OSError, yaml.YAMLError, re.error) as error:
        raise BadInput(f"The routing rules {name!r} cannot be read: {error}.", hint=hint) from None
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        where = ".".join(map(str, first["loc"]))
        raise BadInput(f"The routing rules {name!r} are wrong at {where}: {first['msg']}.", hint=hint) from None


def _rule(words: list[str]) -> re.Pattern[str]:
    return re.compile(rf"(?<![\w.])(?:{'|'.join(words)})(?!\w)", re.IGNORECASE)
