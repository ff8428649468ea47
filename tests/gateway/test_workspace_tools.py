"""The workspace tools on a real clone: what agents can do, and what they are told when they cannot."""

import os
from pathlib import Path
from typing import Any

import pytest

from devtools_platform.core.tools import Caller, ToolResult
from devtools_platform.gateway.toolsets.workspace import WorkspaceTools
from devtools_platform.kit import git
from stacks import git as run_git
from stacks import make_repo

FILES = {
    "app/__init__.py": "",
    "app/core.py": "import os\n\n\ndef one():\n    return 1\n\n\ndef two():\n    return 1\n",
    "tests/test_core.py": "from app.core import one\n\n\ndef test_one():\n    assert one() == 1\n",
    "data.bin": "a\0b",
}
CALLER = Caller("abcd2345", "feature-dev")


class Hands:
    """Calls tools as an agent would."""

    def __init__(self, root: Path) -> None:
        self.tools = WorkspaceTools(root, timeout_s=30, memory_mb=2048)
        self.clone = root / CALLER.task_id

    async def __call__(self, tool: str, **arguments: Any) -> ToolResult:
        return await self.tools.call(tool, arguments, CALLER)


@pytest.fixture
async def hands(tmp_path: Path) -> Hands:
    repo = make_repo(tmp_path / "repo", FILES)
    await git.clone_for_task(await git.resolve_repository(repo), tmp_path / "ws" / CALLER.task_id, CALLER.task_id)
    return Hands(tmp_path / "ws")


async def test_files_are_listed_read_and_searched(hands: Hands) -> None:
    (hands.clone / "new.py").write_text("x = 1\n")

    listed = await hands("list_files", glob="**/*.py")
    assert listed.data["files"] == ["app/__init__.py", "app/core.py", "new.py", "tests/test_core.py"]
    assert (await hands("read_file", path="app/core.py", start_line=4, end_line=5)).text == "def one():\n    return 1\n"
    assert (await hands("search_text", pattern="def t.o")).text == "app/core.py:8:def two():"
    assert "Nothing matches" in (await hands("search_text", pattern="nowhere")).text


async def test_an_edit_needs_exactly_one_place(hands: Hands) -> None:
    twice = await hands("edit_file", path="app/core.py", old="return 1", new="return 2")
    missing = await hands("edit_file", path="app/core.py", old="def won():", new="x")
    right = await hands("edit_file", path="app/core.py", old="def two():\n    return 1", new="def two():\n    return 2")
    again = await hands("edit_file", path="app/core.py", old="def two():\n    return 1", new="def two():\n    return 2")

    assert twice.is_error
    assert "occurs 2 times" in twice.text
    assert missing.is_error
    assert "def one():" in missing.text, "the nearest lines are shown"
    assert not right.is_error
    assert not again.is_error, "a repeated edit after an interruption is no failure"
    assert (hands.clone / "app/core.py").read_text().count("return 2") == 1


@pytest.mark.parametrize(
    "path", ["/etc/passwd", "../repo/app/core.py", "app/../../x", ".git/config", "a/.GIT/hooks/x", "", "x\0y"]
)
async def test_paths_that_lead_out_are_refused(hands: Hands, path: str) -> None:
    for tool, more in {"read_file": {}, "write_file": {"content": "x"}, "delete_file": {}}.items():
        result = await hands(tool, path=path, **more)
        assert result.is_error, (tool, path)
    assert "[core]" in (hands.clone / ".git/config").read_text()


async def test_links_are_never_followed(hands: Hands, tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "secret").write_text("secret")
    (hands.clone / "file").symlink_to(outside / "secret")
    (hands.clone / "folder").symlink_to(outside)
    os.mkfifo(hands.clone / "pipe")

    results = [
        await hands("read_file", path="file"),
        await hands("read_file", path="folder/secret"),
        await hands("write_file", path="folder/planted", content="x"),
        await hands("write_file", path="file", content="x"),
        await hands("read_file", path="pipe"),
        await hands("read_file", path="data.bin"),
        await hands("read_file", path="app"),
    ]

    assert all(result.is_error for result in results)
    assert "secret" not in "".join(result.text.replace("folder/secret", "") for result in results)
    assert sorted(path.name for path in outside.iterdir()) == ["secret"]
    assert (outside / "secret").read_text() == "secret"


async def test_the_projects_own_tests_run_with_their_exit_code(hands: Hands) -> None:
    passing = await hands("run_tests")
    await hands("edit_file", path="app/core.py", old="def one():\n    return 1", new="def one():\n    return 3")
    failing = await hands("run_tests")

    assert passing.data["exit_code"] == 0
    assert failing.data["exit_code"] == 1
    assert "assert 3 == 1" in failing.text
    assert failing.data["command"][1:3] == ["-m", "pytest"]


async def test_a_change_is_shown_with_new_files(hands: Hands) -> None:
    await hands("write_file", path="docs/new.md", content="# New\n")
    await hands("delete_file", path="data.bin")
    changes = await hands("changes")

    assert changes.data == {"files": 2, "insertions": 1, "deletions": 0}
    assert "+# New" in changes.text
    assert run_git(hands.clone, "diff", "--cached", "--name-only") == "", "the clone's own index is left alone"


async def test_analyzers_block_what_the_change_adds_and_only_that(hands: Hands) -> None:
    token = "ghp_" + "a1B2" * 9
    await hands(
        "write_file",
        path="app/bad.py",
        content=f"import subprocess\nKEY = '{token}'\n\n\ndef run(x):\n    subprocess.call(f'ls {{x}}', shell=True)\n",
    )
    found = await hands("analyze")

    blocking = {(f["source"], f["line"]) for f in found.data["findings"] if f["is_blocking"]}
    assert ("bandit", 6) in blocking
    assert ("secrets", 2) in blocking
    assert found.data["ran"] == ["secrets", "ruff", "bandit"]
    assert token not in found.text


async def test_a_clean_change_and_old_sins_do_not_block(hands: Hands) -> None:
    (hands.clone / "app/old.py").write_text("import subprocess\nsubprocess.call('ls ' + str(1), shell=True)\n")
    run_git(hands.clone, "add", "-A")
    run_git(hands.clone, "-c", "user.name=T", "-c", "user.email=t@e.com", "commit", "-qm", "old")
    run_git(hands.clone, "update-ref", git.BASE_REF, "HEAD")
    await hands("edit_file", path="app/old.py", old="import subprocess\n", new='"""Old."""\n\nimport subprocess\n')
    await hands("write_file", path="tests/test_more.py", content="def test_more():\n    assert 1 + 1 == 2\n")
    found = await hands("analyze")

    assert [f for f in found.data["findings"] if f["is_blocking"]] == []
    assert {"bandit"} <= {f["source"] for f in found.data["findings"]}, "old sins are shown"


async def test_code_that_cannot_run_blocks(hands: Hands) -> None:
    await hands("write_file", path="app/broken.py", content="def f(:\n    return undefined\n")
    await hands("write_file", path="app/undefined.py", content="def f():\n    return undefined_name\n")
    found = await hands("analyze")

    assert {f["path"] for f in found.data["findings"] if f["is_blocking"]} == {"app/broken.py", "app/undefined.py"}


async def test_wrong_arguments_are_named(hands: Hands) -> None:
    assert "'path'" in (await hands("read_file")).text
    assert "'colour'" in (await hands("read_file", path="a", colour="red")).text
    assert (await hands("run_command", command=[])).is_error


async def test_a_repository_without_tests_says_how_to_name_them(hands: Hands) -> None:
    await hands("delete_file", path="tests/test_core.py")
    result = await hands("run_tests")

    assert result.is_error
    assert "dev-tools.toml" in result.text
    await hands("write_file", path="dev-tools.toml", content='[test]\ncommand = ["sh", "-c", "exit 7"]\n')
    assert (await hands("run_tests")).data["exit_code"] == 7
