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
