"""Every code block of the written pages is what it claims to be, by what reads it in the product.

A block of data goes through the product's own loader. A shell block is read by bash, and each of its commands by the
program's own parser where that is ours. A block that cannot be judged stands in `NOT_JUDGED`, with the reason. What
can run beside a stack is run: `tests/e2e/test_documents.py`.
"""

import json
import re
import shlex
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
import typer
import yaml
from mcp.shared.auth import OAuthClientMetadata

from devtools_platform.agents.definitions import load_definitions
from devtools_platform.cli.main import app
from devtools_platform.config.environments import load_environments
from devtools_platform.console.roles import load_roles
from devtools_platform.deploy.inventory import load_hosts, load_network
from devtools_platform.deploy.releases import Extension
from devtools_platform.gateway.catalog import load_catalog
from devtools_platform.gateway.toolsets.analyzers.config import parse_review_config
from devtools_platform.gateway.toolsets.test_command import parse_config
from devtools_platform.observability.prices import load_prices
from docs.blocks import NOT_RUN, ROOT, RUN, SHELL, Block, read_blocks, split_commands

COMMAND_LINE = typer.main.get_command(app)
PARSER_ERROR = typer.BadParameter.__mro__[1]
"""Typer's own copy of click has it, under no public name."""
BLOCKS = list(read_blocks())
DATA = [block for block in BLOCKS if block.language not in SHELL]
SCRIPTS = [block for block in BLOCKS if block.language in SHELL]


def _address_of(text: str) -> str:
    """Where an editor is sent to, in any of their files."""
    parsed = json.loads(text)
    (server,) = (parsed.get("servers") or parsed["mcpServers"]).values()
    return server.get("url") or server["args"][1]


def _is_the_gateway(file: Path) -> None:
    assert _address_of(file.read_text()) == "http://127.0.0.1:8000/mcp"


def _is_a_definition(file: Path) -> None:
    name = re.search(r"^name: (.+)$", file.read_text(), re.MULTILINE)
    assert name is not None
    file.rename(file.with_name(f"{name[1]}.md"))
    assert name[1] in load_definitions(file.parent)


def _is_an_inventory(file: Path) -> None:
    assert len(load_hosts(file)) == 2
    load_network(file)


JUDGES: dict[str, Callable[[Path], Any]] = {
    "docs/how-to/add-an-agent.md#1": _is_a_definition,
    "docs/how-to/connect-your-editor.md#1": _is_the_gateway,
    "docs/how-to/connect-your-editor.md#2": _is_the_gateway,
    "docs/how-to/connect-your-editor.md#3": _is_the_gateway,
    "docs/how-to/connect-your-editor.md#4": load_catalog,
    "docs/how-to/connect-your-editor.md#5": lambda file: OAuthClientMetadata.model_validate_json(file.read_text()),
    "docs/how-to/console.md#3": load_roles,
    "docs/how-to/deploy.md#9": _is_an_inventory,
    "docs/how-to/deploy.md#11": lambda file: Extension.model_validate(
        yaml.safe_load(file.read_text())["x-dev-tools"], strict=False
    ),
    "docs/how-to/digitalocean.md#1": load_environments,
    "docs/how-to/prometheus.md#1": load_prices,
    "docs/how-to/review.md#1": lambda file: parse_review_config(file.read_text()),
    "docs/how-to/sandbox.md#2": lambda file: parse_config(file.read_text()),
    "docs/tutorial.md#6": lambda file: parse_config(file.read_text()),
}
"""Who reads a block of data."""
NOT_JUDGED = {
    "README.md#2": "what a task prints; tests/e2e/test_golden.py compares real ones",
    "README.md#6": "a drawing",
    "docs/explanation/architecture.md#1": "a drawing",
}
"""Blocks nothing can read, and why."""
OTHERS = {
    "alias": "the shell's",
    "cd": "the shell's",
    "docker": "not ours",
    "git": "not ours",
    "install": "not ours",
    "less": "not ours",
    "pip": "not ours",
    "python": "not ours",
    "ssh": "not ours",
    "ssh-keygen": "not ours",
    "ssh-keyscan": "not ours",
    "export": "settings are looked up in test_pages",
}
"""Programs in shell blocks that are not ours."""


@pytest.mark.parametrize("block", DATA, ids=lambda block: block.id)
def test_a_block_of_data_is_taken_by_what_reads_it(block: Block, tmp_path: Path) -> None:
    if block.id in NOT_JUDGED:
        return
    file = tmp_path / "block.md"
    file.write_text(block.text)
    JUDGES[block.id](file)


def test_no_block_is_judged_that_is_not_there() -> None:
    assert (JUDGES.keys() | NOT_JUDGED.keys()) - {block.id for block in DATA} == set()


def test_every_shell_block_is_typed_or_says_why_it_is_not() -> None:
    ids = {block.id for block in SCRIPTS}
    assert RUN | NOT_RUN.keys() == ids
    assert RUN & NOT_RUN.keys() == set()
    named = {file for why in NOT_RUN.values() for file in re.findall(r"tests/[\w/.]+\w", why)}
    assert [file for file in sorted(named) if not (ROOT / file).exists()] == []


@pytest.mark.parametrize("block", SCRIPTS, ids=lambda block: block.id)
def test_bash_reads_a_shell_block(block: Block) -> None:
    done = subprocess.run(["bash", "-n"], input=block.script, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert block.script.strip(), "a block without a command is no shell block"


@pytest.mark.parametrize("block", SCRIPTS, ids=lambda block: block.id)
def test_every_command_of_a_shell_block_could_be_given(block: Block) -> None:
    problems = [why for command in split_commands(block.script) if (why := find_problem(shlex.split(command)))]
    assert problems == []


def find_problem(words: list[str]) -> str | None:
    """Why a command could not be given; None where it could."""
    program, *rest = words
    match program.removeprefix(".venv/bin/"):
        case "dev-tools" | "in-backup":  # the second is an alias of docs/how-to/compose.md
            return parse(rest)
        case "make":
            targets = re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE)
            return None if set(rest) <= set(targets) else f"no target {rest}"
        case "cp":
            return None if (ROOT / rest[0]).exists() else f"no file {rest[0]}"
        case "docker" if "compose" in rest:
            return _find_problem_of_compose(rest)
        case "curl":
            path = next(urlsplit(word).path for word in rest if word.startswith("http"))
            routes = re.findall(r"^\| [A-Z]+ \| `([^`]+)`", (ROOT / "docs/reference/http.md").read_text(), re.MULTILINE)
            found = [route for route in routes if re.fullmatch(re.sub(r"\{\w+\}", "[^/]+", route), path)]
            return None if found else f"no route {path}"
        case name if name in OTHERS:
            return None
        case name if (ROOT / name).is_file():
            return None
        case name:
            return f"nobody knows {name!r}: it belongs into OTHERS, with the reason"


def _find_problem_of_compose(words: list[str]) -> str | None:
    """Its file, its service, its profile; and our own command, where it runs one in a container."""
    name = words[words.index("-f") + 1]
    file = ROOT / name if "/" in name else ROOT / "deploy" / name  # on a droplet they lie where one is
    if not file.exists():
        return f"no file {file.name}"
    services = yaml.safe_load(file.read_text())["services"]
    profiles = {profile for service in services.values() for profile in service.get("profiles", [])}
    if "--profile" in words and words[words.index("--profile") + 1] not in profiles:
        return f"no such profile in {file.name}: {words}"
    if "run" in words:  # what follows the service is for our program, which its image starts
        place = next((place for place, word in enumerate(words) if word in services), None)
        return f"no service in {words}" if place is None else parse(words[place + 1 :])
    if "exec" not in words:
        return None
    service, *command = words[words.index("exec") + 1 :]
    if service not in services:
        return f"no service {service} in {file.name}"
    return parse(command[command.index("devtools_platform") + 1 :]) if "devtools_platform" in command else None


def parse(words: list[str]) -> str | None:
    """What our own parser says against a command: unknown or missing options, arguments, and values."""
    command: Any = COMMAND_LINE
    context = None
    try:
        while hasattr(command, "commands"):
            context = command.make_context(command.name, list(words), parent=context)
            name, command, words = command.resolve_command(context, [*context._protected_args, *context.args])
            if command is None:
                return f"there is no {name!r}"
        command.make_context(command.name, list(words), parent=context)
    except PARSER_ERROR as error:
        return f"{words}: {error}"
    return None


def test_the_parser_finds_what_is_wrong() -> None:
    assert parse(shlex.split("task run 'Fix it' --repo .")) is None
    for wrong in ("task walk", "task run x --soon", "task run", "rollout prune --keep none", "up --only"):
        assert parse(shlex.split(wrong)), wrong
    assert find_problem(["make", "coffee"]) == "no target ['coffee']"
    assert find_problem(shlex.split("curl http://127.0.0.1:8000/agents/x/v1/chats")) == "no route /agents/x/v1/chats"
    compose = "docker compose -f deploy/compose.yaml exec"
    assert find_problem(shlex.split(f"{compose} consol sh")) == "no service consol in compose.yaml"
    assert find_problem(shlex.split(f"{compose} console python3 -m devtools_platform console lynk"))
    assert "belongs into OTHERS" in (find_problem(["frobnicate"]) or "")
