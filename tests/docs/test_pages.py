"""What the written pages say must be there: files they link to, commands and options they show, settings they name."""

import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer

from devtools_platform.cli.main import app
from devtools_platform.config import Settings
from docs.blocks import PAGES, ROOT, WRITTEN, name_of

LINK = re.compile(r"\]\((?!https?://|mailto:)([^)#\s]*)(#[^)]*)?\)")
HEADING = re.compile(r"^#+ (.+)$", re.MULTILINE)
COMMAND = re.compile(r"(?:^|[\s(`$|])(?:\.venv/bin/)?dev-tools ([a-z][^`\n]*)")
COMMAND_LINE = typer.main.get_command(app)
SETTING = re.compile(r"\bDEV_TOOLS_[A-Z_]+\b")


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_every_link_leads_somewhere(page: Path) -> None:
    for target, anchor in LINK.findall(page.read_text()):
        file = page.parent / target if target else page
        assert file.exists(), target
        if anchor:
            assert anchor[1:] in anchors_of(file), f"{target}{anchor}"


def anchors_of(page: Path) -> set[str]:
    """What headings are called in links, on GitHub and on the site."""
    headings = [re.sub(r"[^\w\- ]", "", heading.lower()).strip() for heading in HEADING.findall(page.read_text())]
    return {re.sub(r"[-\s]+", "-", heading) for heading in headings} | {h.replace(" ", "-") for h in headings}


@pytest.mark.parametrize("page", WRITTEN, ids=name_of)
def test_every_command_shown_exists_with_its_options(page: Path) -> None:
    assert [problem for line in read_commands(page.read_text()) if (problem := find_problem(line))] == []


@pytest.mark.parametrize("page", WRITTEN, ids=name_of)
def test_every_setting_named_exists(page: Path) -> None:
    known = {f"DEV_TOOLS_{name.upper()}" for name in Settings.model_fields}
    assert set(SETTING.findall(page.read_text())) - known == set()


def read_commands(text: str) -> Iterator[str]:
    """Command lines in code, without what follows a comment sign, a pipe or a closing mark."""
    for block in re.findall(r"```(?:console|bash|sh|text)?\n(.*?)```|`([^`\n]+)`", text, re.DOTALL):
        for line in "".join(block).splitlines():
            for found in COMMAND.finditer(line):
                yield re.split(r"\s+#|\s\||\s>|;|&&|\)", found[1])[0].strip()


def find_problem(line: str) -> str | None:
    """What is wrong with a command line; None for one that could be given."""
    try:
        words = shlex.split(line.replace("...", ""))
    except ValueError as error:
        return f"{line!r}: {error}"
    command: Any = COMMAND_LINE
    while words and (commands := getattr(command, "commands", None)):
        for word in words[0].split("|"):
            if word not in commands and not re.fullmatch(r"-.*|[A-Z]+", word):
                return f"{line!r}: there is no {word!r}"
        command = commands.get(words.pop(0).split("|")[0], command)
    options = {name for parameter in command.params for name in (*parameter.opts, *parameter.secondary_opts)}
    unknown = [word for word in words if word.startswith("--") and word.split("=")[0] not in options | {"--help"}]
    return f"{line!r}: no option {unknown}" if unknown else None


def test_a_command_that_is_not_there_is_found() -> None:
    assert find_problem("task run 'Fix it' --repo x") is None
    assert find_problem("task walk") == "'task walk': there is no 'walk'"
    assert find_problem("task run x --soon") == "'task run x --soon': no option ['--soon']"


def test_the_pages_build_into_a_site(tmp_path: Path) -> None:
    mkdocs = Path(sys.executable).with_name("mkdocs")
    command = [mkdocs, "build", "--quiet", "--strict", "--config-file", ROOT / "mkdocs.yml", "--site-dir", tmp_path]
    built = subprocess.run(command, capture_output=True, text=True, check=False)

    assert built.returncode == 0, built.stderr
    assert "Your first change" in (tmp_path / "tutorial.html").read_text()
