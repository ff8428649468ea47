"""Blocks of the written pages, typed by bash beside a running stack: what a reader copies works.

The reader's repository, ids and HOME are ours; the commands are the page's own. Which blocks are not run, and why,
stands in `tests/docs/blocks.py`; `tests/docs/test_blocks.py` holds those to the parsers.
"""

import os
import re
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import pytest

from devtools_platform.app.demo import FILES
from docs.blocks import RUN, read_blocks
from stacks import StackProcess, git, make_repo

pytestmark = pytest.mark.timeout(240)
BLOCKS = {block.id: block for block in read_blocks()}
TASK_ID = "gv4m2xpc"
"""The one that the pages use."""


@dataclass
class Reader:
    """Somebody with a repository at `~/code/shop`, a folder with the virtual environment, and the stack up."""

    home: Path
    stack: StackProcess

    @property
    def shop(self) -> Path:
        return self.home / "code" / "shop"

    def type(self, id_: str, replaced: Mapping[str, str] | None = None) -> str:
        """What the block's commands print."""
        assert id_ in RUN
        script = BLOCKS[id_].script
        for old, new in (replaced or {}).items():
            assert old in script, f"the page does not say {old!r} any more"
            script = script.replace(old, new)
        env = {**self.stack.env, "HOME": str(self.home), "DEV_TOOLS_DATA_DIR": str(self.stack.data_dir)}
        env["PATH"] = f"{self.home}/.venv/bin:{os.environ['PATH']}"
        done = subprocess.run(
            ["bash", "-e", "-o", "pipefail", "-c", script],
            cwd=self.home, env=env, capture_output=True, text=True, check=False, timeout=120,
        )  # fmt: skip
        assert done.returncode == 0, f"{script}\n{done.stdout}{done.stderr}"
        return done.stderr + done.stdout


@pytest.fixture(scope="module")
def reader(stack: StackProcess, tmp_path_factory: pytest.TempPathFactory) -> Reader:
    home = tmp_path_factory.mktemp("reader")
    program = home / ".venv" / "bin" / "dev-tools"
    program.parent.mkdir(parents=True)
    program.write_text(f'#!/bin/sh\nexec {sys.executable} -m devtools_platform "$@"\n')
    program.chmod(0o755)
    (home / "code").mkdir()
    make_repo(home / "code" / "shop", FILES)
    return Reader(home, stack)


def test_the_tutorial_leads_to_a_change_in_the_readers_repository(reader: Reader) -> None:
    said = reader.type("docs/tutorial.md#3")
    found = re.search(r"branch task/(\w+)", said)
    assert found is not None, said
    shown = [line.split()[0] for line in BLOCKS["README.md#2"].text.splitlines() if line.strip()]
    printed = iter(line.split()[0] for line in said.splitlines() if line.strip())
    assert [word for word in shown if word not in printed] == [], "the README shows what a task prints, in its order"

    said = reader.type("docs/tutorial.md#5", {TASK_ID: found[1]})
    assert "total >= DISCOUNT_FROM" in said
    assert "total >= DISCOUNT_FROM" in (reader.shop / "shop" / "prices.py").read_text(), "it is merged"
    said = reader.type("docs/how-to/learn-from-history.md#1", {"7k3m9d2p": found[1]})
    assert "no departure" in said
    git(reader.shop, "reset", "--hard", "HEAD~1")


def test_the_readme_decides_steers_and_pauses(reader: Reader) -> None:
    stack = reader.stack
    task = stack.create_task("Fix the failing test", reader.shop, ask_before=["plan", "publish"])["id"]
    stack.wait_for_event(task, "approval")
    said = reader.type("README.md#3", {TASK_ID: task})

    assert f"{task}-1" in said
    kinds = {event["kind"] for event in stack.get(f"/tasks/{task}/events")}
    assert {"approval", "approval_decided", "message", "pause_requested"} <= kinds, kinds
