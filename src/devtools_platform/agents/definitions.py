"""Reads the definitions: the six shipped ones and a team's own. To add an agent is to add a file.

Nothing about one agent is written in code; a file's front matter says what it may do, its text what it is told.
"""

import re
from functools import cache
from importlib import resources
from pathlib import Path

import yaml
from pydantic import ValidationError

from devtools_platform.agents.types import Definition
from devtools_platform.core.agents import AGENTS, MAX_NAME, NAME_PATTERN, PERSON, AgentName
from devtools_platform.core.errors import BadInput

MAX_AGENTS = 50
_HELP = "docs/how-to/add-an-agent.md"


@cache
def load_definitions(own: Path | None = None) -> dict[AgentName, Definition]:
    """All definitions by name: the shipped ones in the order of `AGENTS`, then those of the folder `own` by name.

    Raises `BadInput` that says which file is wrong and why.
    """
    folder = resources.files("devtools_platform.agents").joinpath("definitions")
    found = {name: _parse(name, folder.joinpath(f"{name}.md").read_text("utf-8"), name) for name in AGENTS}
    added = _load_own(own) if own is not None else {}
    if added:
        planner = found["orchestrator"]
        listed = "\n".join(f"- {definition.name}: {definition.role}." for definition in added.values())
        text = f"{planner.instructions}\n\nThis team also has:\n\n{listed}"
        found["orchestrator"] = planner.model_copy(update={"instructions": text})
    return found | added


def working_agents(definitions: dict[AgentName, Definition]) -> tuple[AgentName, ...]:
    """Those a plan may give a step to: the ones that work and report."""
    return tuple(name for name, definition in definitions.items() if definition.output == "report")


def _load_own(folder: Path) -> dict[AgentName, Definition]:
    if not folder.is_dir():
        raise BadInput(f"DEV_TOOLS_AGENT_DEFINITIONS is {str(folder)!r}, which is no folder.", hint=f"See {_HELP}.")
    files = sorted(folder.glob("*.md"))
    if len(files) > MAX_AGENTS:
        raise BadInput(f"{str(folder)!r} holds {len(files)} definitions; {MAX_AGENTS} are taken.", hint=f"See {_HELP}.")
    return {file.stem: _read_own(file) for file in files}


def _read_own(file: Path) -> Definition:
    name, where = file.stem, str(file)
    if len(name) > MAX_NAME or not re.fullmatch(NAME_PATTERN, name) or name == PERSON:
        raise _wrong(where, f"{name!r} is no name for an agent: small letters, digits and single hyphens")
    if name in AGENTS:
        raise _wrong(where, f"{name!r} is one of the shipped agents")
    try:
        text = file.read_text("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise _wrong(where, str(error)) from None
    definition = _parse(name, text, where)
    if definition.output != "report":
        raise _wrong(where, f"output is {definition.output!r}; an agent of your own gives a report")
    if not definition.toolsets:
        raise _wrong(where, "toolsets is missing: without tools an agent can do nothing")
    return definition


def _parse(name: AgentName, text: str, where: str) -> Definition:
    parts = text.split("---\n", 2)
    if len(parts) != 3 or parts[0].strip():  # noqa: PLR2004 - nothing, front matter, text
        raise _wrong(where, "it must begin with front matter between two lines `---`")
    try:
        front = yaml.safe_load(parts[1])
        told = f"Agent: {name}\n\n{parts[2].strip()}"
        definition = Definition.model_validate({**front, "instructions": told})
    except (yaml.YAMLError, TypeError) as error:
        raise _wrong(where, f"its front matter is no YAML mapping: {error}") from None
    except ValidationError as error:
        first = error.errors(include_url=False, include_context=False, include_input=False)[0]
        raise _wrong(where, f"{'.'.join(map(str, first['loc']))}: {first['msg']}") from None
    if definition.name != name:
        raise _wrong(where, f"its name is {definition.name!r}; a definition is named like its file")
    return definition


def _wrong(where: str, why: str) -> BadInput:
    return BadInput(f"The agent definition {where!r} is wrong: {why}.", hint=f"See {_HELP}.")
