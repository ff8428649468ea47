"""Fenced blocks of the written pages, and the commands in them."""

import re
import textwrap
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", ROOT / "SECURITY.md", *sorted((ROOT / "docs").rglob("*.md"))]
WRITTEN = [page for page in PAGES if "reference" not in page.parts]
SHELL = {"console", "bash", "sh"}
_FENCE = re.compile(r"^( *)```(\w*)[^\n]*\n(.*?)^ *```", re.DOTALL | re.MULTILINE)


def name_of(page: Path) -> str:
    return page.relative_to(ROOT).as_posix()


@dataclass(frozen=True)
class Block:
    """`page` and `number` name it: the third block of the tutorial is `docs/tutorial.md#3`."""

    page: str
    number: int
    language: str
    text: str

    @property
    def id(self) -> str:
        return f"{self.page}#{self.number}"

    @property
    def script(self) -> str:
        """What a person types: lines with a prompt, where there is one, and what continues them."""
        lines = self.text.splitlines()
        if self.language != "console" or not any(line.startswith("$ ") for line in lines):
            return "\n".join(line.removeprefix("# ") if self.language == "console" else line for line in lines)
        typed: list[str] = []
        for line in lines:
            if line.startswith("$ "):
                typed.append(line[2:])
            elif typed and typed[-1].endswith("\\"):
                typed.append(line)
        return "\n".join(typed)


def read_blocks() -> Iterator[Block]:
    for page in WRITTEN:
        for number, found in enumerate(_FENCE.finditer(page.read_text()), 1):
            yield Block(name_of(page), number, found[2], textwrap.dedent(found[3]))


def split_commands(script: str) -> Iterator[str]:
    """The simple commands of a script: without comments, variables set before them, and what their output goes to."""
    for line in script.replace("\\\n", " ").splitlines():
        for part in re.split(r"&&|\|\||(?<![\\'])[|;]", re.sub(r"(^|\s)#.*", "", line)):
            command = re.sub(r"\s[<>]+\s*\S+", "", part).strip()
            command = re.sub(r"^(\w+=(\"[^\"]*\"|'[^']*'|\$\([^)]*\)|\S+)\s*)+", "", command)
            if command:
                yield command


RUN = {"README.md#3", "docs/tutorial.md#3", "docs/tutorial.md#5", "docs/how-to/learn-from-history.md#1"}
"""Shell blocks that `tests/e2e/test_documents.py` types."""
_ACCOUNT = "needs an account"
_HOSTS = "needs droplets and a registry; tests/e2e_deploy has both and gives these commands"
_EXPORTS = "only sets variables: tests/docs/test_pages.py looks them up"
NOT_RUN = {
    "README.md#1": "builds all, fetches a model: CI does that on a clean clone, tests/e2e/test_embedded_model.py here",
    "README.md#4": "installs servers of others; tests/gateway/test_upstreams.py starts some",
    "README.md#5": _HOSTS,
    "docs/how-to/compose.md#1": "needs a Docker engine: tests/e2e_deploy/test_7_stack.py",
    "docs/how-to/compose.md#2": "needs a Docker engine: tests/e2e_deploy/test_7_stack.py",
    "docs/how-to/compose.md#3": "needs a Docker engine: tests/e2e_deploy/test_7_stack.py",
    "docs/how-to/connect-your-editor.md#6": _EXPORTS,
    "docs/how-to/console.md#1": "given by tests/browser/test_console.py",
    "docs/how-to/console.md#2": _EXPORTS,
    "docs/how-to/context.md#1": "given by tests/e2e/test_context.py",
    "docs/how-to/context.md#2": _EXPORTS,
    "docs/how-to/deploy.md#1": _HOSTS,
    "docs/how-to/deploy.md#2": _HOSTS,
    "docs/how-to/deploy.md#3": _HOSTS,
    "docs/how-to/deploy.md#4": _HOSTS,
    "docs/how-to/deploy.md#5": _HOSTS,
    "docs/how-to/deploy.md#6": _HOSTS,
    "docs/how-to/deploy.md#7": "needs droplets and a registry: tests/deploy/test_retention.py",
    "docs/how-to/deploy.md#8": "a tunnel that stays open",
    "docs/how-to/deploy.md#10": f"{_ACCOUNT} at DigitalOcean: tests/deploy/test_switch.py has a fake",
    "docs/how-to/digitalocean.md#2": f"{_ACCOUNT} at DigitalOcean: tests/e2e/test_runtimes.py has a fake",
    "docs/how-to/digitalocean.md#3": "given by tests/e2e/test_runtimes.py",
    "docs/how-to/github.md#1": f"{_ACCOUNT} at GitHub",
    "docs/how-to/github.md#2": "fakes that stay up: tests/e2e/test_integrations.py starts the same ones",
    "docs/how-to/langfuse.md#1": f"{_ACCOUNT} at Langfuse",
    "docs/how-to/langfuse.md#2": "given by tests/e2e/test_langfuse.py",
    "docs/how-to/learn-from-history.md#2": "ends with 20, as it shows: tests/e2e/test_history.py",
    "docs/how-to/learn-from-history.md#3": "needs a second model: tests/e2e/test_history.py has a scripted one",
    "docs/how-to/linear.md#1": f"{_ACCOUNT} at Linear",
    "docs/how-to/operations.md#1": "given by tests/app/test_doctor.py",
    "docs/how-to/operations.md#2": "writes to /backups: tests/e2e/test_backup.py",
    "docs/how-to/operations.md#3": "writes to /srv: tests/e2e/test_backup.py",
    "docs/how-to/operations.md#4": "a night's timer, of commands that are tried one by one",
    "docs/how-to/operations.md#5": "needs six containers of agents: tests/e2e/test_migrate.py has recorded ones",
    "docs/how-to/other-clients.md#1": "tells an address of others: tests/integrations/test_webhooks.py",
    "docs/how-to/prometheus.md#2": "needs a task over its budget: tests/e2e/test_budgets.py",
    "docs/how-to/prometheus.md#3": f"{_ACCOUNT} at DigitalOcean: tests/e2e/test_runtimes.py has a fake",
    "docs/how-to/sandbox.md#1": "needs a Docker engine: tests/e2e_deploy/test_8_sandbox.py",
    "docs/tutorial.md#1": "see README.md#1",
    "docs/tutorial.md#2": _EXPORTS,
    "docs/tutorial.md#4": "waits for a person: tests/e2e/test_people.py",
}
"""The others, and why nobody types them. Their commands and options are looked up all the same."""
