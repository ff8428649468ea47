"""The workspace tool server as an agent meets it: real clones, real sandbox, real analyzers."""

import asyncio
import ctypes
import json
import os
import subprocess
import sys
import threading
import venv
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from devtools_platform.core.errors import ToolFailed
from devtools_platform.core.tasks import Finding
from devtools_platform.core.tools import Caller, ToolResult
from devtools_platform.gateway.toolsets import files
from devtools_platform.gateway.toolsets.analyzers.python import RUFF
from devtools_platform.gateway.toolsets.analyzers.run import read_report
from devtools_platform.gateway.toolsets.editing import replace_once
from devtools_platform.gateway.toolsets.test_command import (
    TestCommand,
    TestConfig,
    detect_test_command,
    parse_config,
)
from devtools_platform.gateway.toolsets.workspace import WorkspaceTools
from devtools_platform.kit.git import clone_for_task, resolve_repository
from devtools_platform.kit.sandbox import CommandResult, Limits

CALLER = Caller(task_id="t1", agent="feature-dev")
TOKEN = "ghp_" + "a1B2" * 9
CALC = "def add(a, b):\n    return a + b\n"
TESTS = "from calc import add\n\n\ndef test_add():\n    assert add(1, 2) == 3\n"


def run(*args: str, cwd: Path) -> str:
    identity = {f"GIT_{r}_{k}": "x" for r in ("AUTHOR", "COMMITTER") for k in ("NAME", "EMAIL")}
    env = {"PATH": "/usr/bin:/bin", "HOME": "/nonexistent", **identity}
    return subprocess.run(["git", *args], cwd=cwd, env=env, check=True, capture_output=True, text=True).stdout


def write(folder: Path, contents: Mapping[str, str]) -> None:
    for name, text in contents.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)


class Bench:
    """A person's repository, a task's clone of it, and the tools."""

    def __init__(self, tmp_path: Path) -> None:
        self.project = tmp_path / "project"
        self.workspaces = tmp_path / "workspaces"
        self.tools = WorkspaceTools(self.workspaces, limits=Limits(timeout_s=30, memory_mb=1024))
        self.clone = self.workspaces / "t1"

    async def start(self, contents: Mapping[str, str]) -> None:
        self.project.mkdir()
        write(self.project, contents)
        run("init", "-q", cwd=self.project)
        run("add", "-A", cwd=self.project)
        run("commit", "-q", "--allow-empty", "-m", "Start", cwd=self.project)
        await clone_for_task(await resolve_repository(self.project), self.clone)

    async def call(self, name: str, caller: Caller = CALLER, **arguments: object) -> ToolResult:
        return await self.tools.call(name, arguments, caller)

    async def data(self, name: str, **arguments: object) -> Mapping[str, Any]:
        result = await self.tools.call(name, arguments, CALLER)
        assert not result.is_error, result.text
        json.dumps(dict(result.data))
        return result.data

    async def error(self, name: str, caller: Caller = CALLER, **arguments: object) -> str:
        result = await self.call(name, caller, **arguments)
        assert result.is_error, result.text
        return result.text


@pytest.fixture
def empty(tmp_path: Path) -> Bench:
    return Bench(tmp_path)


@pytest.fixture
async def bench(empty: Bench) -> Bench:
    await empty.start({"calc.py": CALC, "test_calc.py": TESTS, ".gitignore": "*.log\n", "docs/a.md": "Adds.\n"})
    return empty


def test_every_tool_describes_itself_and_allows_no_unknown_argument(tmp_path: Path) -> None:
    tools = Bench(tmp_path).tools.list_tools()
    names = "list_files read_file search_text edit_file write_file delete_file apply_patch run_command run_tests"
    assert [tool.name for tool in tools] == [*names.split(), "scaffold", "changes", "analyze"]
    assert all(tool.description and tool.input_schema["additionalProperties"] is False for tool in tools)
    reading = {"list_files", "read_file", "search_text", "changes", "analyze"}
    assert {tool.name for tool in tools if tool.is_read_only} == reading
    read_file = next(tool for tool in tools if tool.name == "read_file").input_schema
    assert read_file["required"] == ["path"]
    assert list(read_file["properties"]) == ["path", "start_line", "end_line"]


async def test_the_workspace_comes_from_the_caller_and_only_from_a_clean_id(bench: Bench) -> None:
    outside = bench.workspaces.parent / "outside"
    (outside / ".git").mkdir(parents=True)
    (bench.workspaces / "linked").symlink_to(outside)
    for task_id, reason in [
        ("t2", "has no workspace"),
        ("linked", "has no workspace"),
        ("../project", "not a task id"),
        ("", "not a task id"),
        ("t1\n", "not a task id"),
        (".t1.partial", "not a task id"),
    ]:
        caller = Caller(task_id=task_id, agent="feature-dev")
        assert reason in await bench.error("read_file", caller, path="calc.py")
    assert "task_id" in await bench.error("read_file", path="calc.py", task_id="t2")


async def test_what_does_not_fit_is_said_so_that_the_agent_can_mend_it(bench: Bench) -> None:
    assert "There are: list_files, read_file" in await bench.error("no_such_tool")
    assert "path: Field required" in await bench.error("read_file")
    assert "start_line" in await bench.error("read_file", path="calc.py", start_line=0)
    assert "command" in await bench.error("run_command", command="rm -rf /")


async def test_files_are_listed_found_and_read(bench: Bench) -> None:
    write(bench.clone, {"new.py": "x = 1\n", "noise.log": "x = 1\n"})
    names = (await bench.data("list_files"))["files"]
    assert names == [
        ".gitignore",
        "calc.py",
        "docs/a.md",
        "new.py",
        "test_calc.py",
    ]
    assert (await bench.data("list_files", glob="*.md"))["files"] == ["docs/a.md"]
    assert (await bench.data("list_files", glob="docs/**"))["files"] == ["docs/a.md"]
    limited = await bench.call("list_files", limit=2)
    assert limited.text == ".gitignore\ncalc.py\n[... 3 more ...]"
    assert (await bench.data("search_text", pattern="^def (add|sub)\\("))["matches"] == ["calc.py:1:def add(a, b):"]
    assert (await bench.data("search_text", pattern="x = 1"))["matches"] == ["new.py:1:x = 1"]
    assert (await bench.data("search_text", pattern="add", glob="*.md"))["matches"] == []
    assert (await bench.data("search_text", pattern="a", limit=1))["is_complete"] is False
    assert "The search failed" in await bench.error("search_text", pattern="(")
    assert (await bench.call("search_text", pattern="--open-files-in-pager=x")).text == "Nothing matches."


async def test_a_part_of_a_file_is_read_exactly(bench: Bench) -> None:
    write(bench.clone, {"long.txt": "".join(f"line {n}\n" for n in range(1, 30_001)), "ff.txt": "a\x0cb\r\nc"})
    result = await bench.call("read_file", path="long.txt", start_line=3, end_line=4)
    assert (result.text, result.data["total_lines"]) == ("line 3\nline 4\n", 30_000)
    whole = await bench.call("read_file", path="long.txt")
    assert whole.data["is_cut"]
    assert len(whole.text) < 61_000
    assert (await bench.call("read_file", path="ff.txt")).text == "a\x0cb\r\nc"
    assert (await bench.data("read_file", path="ff.txt"))["total_lines"] == 2
    assert "past its end" in await bench.error("read_file", path="ff.txt", start_line=9)


async def test_only_plain_paths_inside_the_workspace_are_accepted(bench: Bench) -> None:
    os.mkfifo(bench.clone / "pipe")
    (bench.clone / "pic").write_bytes(b"\x00\x01")
    (bench.clone / "latin").write_bytes(b"\xe4")
    (bench.clone / "big").write_bytes(b"x" * 1_000_001)
    (bench.clone / "link").symlink_to("calc.py")
    (bench.clone / "home").symlink_to(Path.home())
    for path, reason in [
        ("/etc/passwd", "relative to the workspace"),
        ("", "relative to the workspace"),
        ("a\0b", "relative to the workspace"),
        ("../project/calc.py", "out of the workspace"),
        ("docs/../../x", "out of the workspace"),
        (".git/config", "git's own folder"),
        ("docs/.GIT/config", "git's own folder"),
        ("docs", "is a folder"),
        ("absent.py", "does not exist"),
        ("calc.py/x", "not a folder"),
        ("link", "symbolic link"),
        ("home/.bashrc", "symbolic link"),
        ("pipe", "not a regular file"),
        ("pic", "binary"),
        ("latin", "not UTF-8"),
        ("big", "larger than"),
    ]:
        assert reason in await bench.error("read_file", path=path), path
        if path not in ("absent.py", "pic", "latin", "big"):
            assert await bench.error("write_file", path=path, content="x")
            assert await bench.error("edit_file", path=path, old="a", new="b")
    assert "larger than" in await bench.error("write_file", path="x", content="x" * 1_000_001)
    assert "not valid text" in await bench.error("write_file", path="x", content="\ud800")
    assert "is a folder" in await bench.error("delete_file", path="docs")


async def test_files_are_written_whole_and_keep_their_permissions(bench: Bench) -> None:
    (bench.clone / "calc.py").chmod(0o755)
    assert (await bench.data("write_file", path="calc.py", content="x\r\n"))["is_new"] is False
    assert (bench.clone / "calc.py").read_bytes() == b"x\r\n"
    assert (bench.clone / "calc.py").stat().st_mode & 0o777 == 0o755
    assert (await bench.data("write_file", path="a/b/c.py", content=""))["is_new"] is True
    assert (bench.clone / "a/b/c.py").stat().st_mode & 0o777 == 0o644
    await bench.data("delete_file", path="a/b/c.py")
    assert list((bench.clone / "a/b").iterdir()) == []
    assert "does not exist" in await bench.error("delete_file", path="a/b/c.py")


async def test_deleting_a_link_leaves_what_it_points_to(bench: Bench, tmp_path: Path) -> None:
    (tmp_path / "precious").write_text("x")
    (bench.clone / "link").symlink_to(tmp_path / "precious")
    await bench.data("delete_file", path="link")
    assert (tmp_path / "precious").exists()


def test_no_race_with_a_swapped_folder_leads_outside(tmp_path: Path) -> None:
    workspace, outside = tmp_path / "workspace", tmp_path / "outside"
    write(workspace, {"real/name": "inside"})
    write(outside, {"name": "outside"})
    (workspace / "link").symlink_to(outside)
    stop = threading.Event()

    def swap() -> None:
        """Exchange the folder and the link, in one step each time (RENAME_EXCHANGE)."""
        real, link = bytes(workspace / "real"), bytes(workspace / "link")
        while not stop.is_set():
            ctypes.CDLL(None).renameat2(-100, real, -100, link, 2)

    swapper = threading.Thread(target=swap)
    swapper.start()
    seen: set[str] = set()
    try:
        for _ in range(3000):
            try:
                seen.add(files.read_text(workspace, "real/name"))
                files.write_text(workspace, "real/name", "inside")
                files.write_text(workspace, "real/other", "inside")
            except ToolFailed as error:
                seen.add("refused" if "link" in str(error) else str(error))
    finally:
        stop.set()
        swapper.join()
    assert seen == {"inside", "refused"}
    assert {path.name: path.read_text() for path in outside.iterdir()} == {"name": "outside"}


async def test_searching_does_not_follow_a_folder_swapped_for_a_link(bench: Bench, tmp_path: Path) -> None:
    write(tmp_path, {"outside/key.txt": "top secret\n"})
    write(bench.clone, {"docs/key.txt": "harmless\n"})
    run("add", "-A", cwd=bench.clone)
    for name in ("a.md", "key.txt"):
        (bench.clone / "docs" / name).unlink()
    (bench.clone / "docs").rmdir()
    (bench.clone / "docs").symlink_to(tmp_path / "outside")
    assert (await bench.data("search_text", pattern="secret"))["matches"] == []


async def test_an_edit_replaces_the_one_place_that_matches(bench: Bench) -> None:
    await bench.data("edit_file", path="calc.py", old="    return a + b", new="    return b + a")
    assert (bench.clone / "calc.py").read_text() == "def add(a, b):\n    return b + a\n"


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        ("a", "b", "`old` occurs 3 times in 'f' (lines 1, 2, 2); it must occur exactly once."),
        ("xx", "y", "`old` occurs 2 times in 'f' (lines 3, 3)"),
        ("", "x", "`old` is empty"),
        ("a one", "a one", "are the same"),
        ("  ", "x", "only white space"),
        ("a twoo", "x", "does not occur in 'f'. The nearest lines are:\n1: a one\n2: a two a"),
        ("qqqqqq", "x", "No line of it looks similar."),
    ],
)
def test_an_edit_that_does_not_match_once_says_why_and_what_is_near(old: str, new: str, expected: str) -> None:
    with pytest.raises(ToolFailed) as raised:
        replace_once("f", "a one\na two a\nxxx\n", old, new)
    assert expected in str(raised.value)


def test_a_passage_with_wrong_indentation_is_shown_as_it_really_is() -> None:
    text = "import os\n\n\nclass A:\n    def f(self):\n        return 1\n\n    def g(self):\n        return 2\n"
    with pytest.raises(ToolFailed, match="nearest") as raised:
        replace_once("f", text, "def g(self):\n    return 2", "x")
    assert str(raised.value).endswith("6:         return 1\n7: \n8:     def g(self):\n9:         return 2\n10: ")


def test_windows_line_ends_survive_an_edit_that_does_not_know_them() -> None:
    assert replace_once("f", "a\r\nb\r\nc\r\n", "a\nb", "1\n2") == "1\r\n2\r\nc\r\n"


async def test_a_command_gives_its_exit_code_and_output(bench: Bench) -> None:
    result = await bench.call("run_command", command=["sh", "-c", f"pwd; echo {TOKEN}; exit 4"])
    assert not result.is_error
    assert (result.data["exit_code"], result.data["output"]) == (4, "/workspace\n***\n")
    assert TOKEN not in result.text + json.dumps(dict(result.data))
    ended = await bench.data("run_command", command=["sleep", "20"], timeout_s=0.5)
    assert (ended["exit_code"], ended["ended_by"]) == (None, "timeout")


async def test_without_the_sandbox_a_command_runs_in_the_clone_itself(bench: Bench) -> None:
    caller = Caller(task_id="t1", agent="feature-dev", without_sandbox=True)
    result = await bench.call("run_command", caller, command=["pwd"])
    assert result.data["output"] == f"{bench.clone}\n"


async def test_the_projects_tests_run_and_see_the_change(bench: Bench) -> None:
    done = await bench.data("run_tests")
    assert done["command"] == [sys.executable, "-m", "pytest"]
    assert (done["exit_code"], done["ended_by"]) == (0, None)
    await bench.data("write_file", path="calc.py", content=CALC.replace("+", "-"))
    done = await bench.data("run_tests", paths=["test_calc.py::test_add"])
    assert done["exit_code"] == 1
    assert "assert -1 == 3" in done["output"]
    assert "is an option" in await bench.error("run_tests", paths=["--rootdir=/"])
    assert "out of the workspace" in await bench.error("run_tests", paths=["../x"])


async def test_a_malicious_conftest_reaches_nothing(empty: Bench, tmp_path: Path) -> None:
    bashrc = Path.home() / ".bashrc"
    before = bashrc.read_bytes() if bashrc.exists() else None
    secret = tmp_path / "secret"
    secret.write_text("top secret")
    conftest = f"""
import os, socket
def attempt(what):
    with open("attempts", "a") as log:
        try:
            print("DID", what(), file=log)
        except OSError:
            print("no", file=log)
def escape():
    os.symlink({str(tmp_path)!r}, "out")
    return open("out/secret").read()
attempt(lambda: open(".git/hooks/post-commit", "w"))
attempt(lambda: os.mkdir(".git/hooks"))
attempt(lambda: open(".git/config", "a"))
attempt(lambda: open({str(bashrc)!r}, "a"))
attempt(escape)
attempt(lambda: socket.create_connection(("192.0.2.1", 80), 1))
attempt(lambda: os.kill({os.getpid()}, 9))
"""
    await empty.start({"conftest.py": conftest, "test_x.py": "def test_x(): pass\n"})
    done = await empty.data("run_tests")
    assert done["exit_code"] == 0
    assert (empty.clone / "attempts").read_text() == "no\n" * 7
    assert not (empty.clone / ".git" / "hooks").exists()
    assert (bashrc.read_bytes() if bashrc.exists() else None) == before
    assert "symbolic link" in await empty.error("read_file", path="out/secret")
    assert "symbolic link" in await empty.error("write_file", path="out/new", content="x")


async def test_the_test_command_of_the_base_commit_rules(empty: Bench) -> None:
    await empty.start({"dev-tools.toml": '[test]\ncommand = ["sh", "-c", "exit 7"]\n'})
    await empty.data("write_file", path="dev-tools.toml", content='[test]\ncommand = ["true"]\n')
    assert (await empty.data("run_tests"))["exit_code"] == 7


async def test_the_interpreter_of_the_persons_repository_runs_the_tests(empty: Bench) -> None:
    await empty.start({"test_a.py": "import only_there\ndef test_a(): assert only_there.HERE\n"})
    venv.create(empty.project / ".venv", symlinks=True)
    packages = next((empty.project / ".venv").glob("lib/python*/site-packages"))
    ours = Path(pytest.__file__).parent.parent
    (packages / "ours.pth").write_text(f"{ours}\n")
    (packages / "only_there.py").write_text("HERE = True\n")
    done = await empty.data("run_tests")
    assert done["command"][0] == str(empty.project / ".venv" / "bin" / "python")
    assert done["exit_code"] == 0, done["output"]


async def test_a_configured_interpreter_must_be_there(empty: Bench) -> None:
    await empty.start({"dev-tools.toml": '[test]\npython = "envs/py/bin/python"\n', "test_a.py": TESTS})
    assert "which is no Python environment" in await empty.error("run_tests")


async def test_a_repository_without_tests_is_told_how_to_name_them(empty: Bench) -> None:
    await empty.start({"README.md": "x"})
    result = await empty.call("run_tests")
    assert (result.is_error, result.data["code"]) == (True, "no_test_command")
    assert "dev-tools.toml" in result.text


async def test_calls_of_one_task_take_turns(bench: Bench) -> None:
    script = "test -e busy && echo overlap; touch busy; sleep 0.3; rm busy"
    command = ["sh", "-c", script]
    results = await asyncio.gather(*(bench.data("run_command", command=command) for _ in range(3)))
    assert [done["output"] for done in results] == ["", "", ""]


PY = {"PYTHONPATH": "/workspace"}
SRC = {"PYTHONPATH": "/workspace/src:/workspace"}
UNIT = "import unittest\nclass T(unittest.TestCase):\n    def test_x(self): pass\n"


@pytest.mark.parametrize(
    ("contents", "expected"),
    [
        ({"test_a.py": "def test_a(): pass"}, TestCommand(("py", "-m", "pytest"), "pytest", PY)),
        ({"pkg/test_a.py": "import pytest\n"}, TestCommand(("py", "-m", "pytest"), "pytest", PY)),
        ({"src/a.py": "", "pytest.ini": ""}, TestCommand(("py", "-m", "pytest"), "pytest", SRC)),
        ({"tests/conftest.py": ""}, TestCommand(("py", "-m", "pytest"), "pytest", PY)),
        ({"a.py": "", "setup.cfg": "[tool:pytest]\n"}, TestCommand(("py", "-m", "pytest"), "pytest", PY)),
        ({"a.py": "", "tox.ini": "[pytest]\n"}, TestCommand(("py", "-m", "pytest"), "pytest", PY)),
        (
            {"a.py": "", "pyproject.toml": "[tool.pytest.ini_options]\n"},
            TestCommand(("py", "-m", "pytest"), "pytest", PY),
        ),
        (
            {"test_a.py": UNIT, "pyproject.toml": ""},
            TestCommand(("py", "-m", "unittest", "discover"), "unittest", PY),
        ),
        (
            {"tests/test_a.py": UNIT, "tests/__init__.py": ""},
            TestCommand(("py", "-m", "unittest", "discover", "-s", "tests", "-t", "."), "unittest", PY),
        ),
        (
            {"tests/test_a.py": UNIT},
            TestCommand(("py", "-m", "unittest", "discover", "-s", "tests"), "unittest", PY),
        ),
        (
            {"tests/unit/test_a.py": UNIT, "tests/test_b.py": UNIT},
            TestCommand(("py", "-m", "unittest", "tests/test_b.py", "tests/unit/test_a.py"), "unittest", PY),
        ),
        ({"a_test.py": UNIT}, TestCommand(("py", "-m", "unittest", "a_test.py"), "unittest", PY)),
        ({"package.json": '{"scripts": {"test": "node --test"}}'}, TestCommand(("npm", "test"), "npm")),
        ({"package.json": '{"scripts": {"test": "echo \\"Error: no test specified\\" && exit 1"}}'}, None),
        ({"package.json": "not json", "go.mod": ""}, TestCommand(("go", "test", "./..."), "go")),
        ({"Cargo.toml": ""}, TestCommand(("cargo", "test"), "cargo")),
        ({"Makefile": "build:\n\ntest: build\n\tx\n"}, TestCommand(("make", "test"), "make")),
        ({"Makefile": "test := 1\n"}, None),
        ({"a.py": ""}, None),
    ],
)
def test_the_test_command_is_found_from_what_the_repository_has(
    contents: dict[str, str], expected: TestCommand | None
) -> None:
    found = detect_test_command(contents, contents.get, config=TestConfig(), python="py", root="/workspace")
    assert found == expected


@pytest.mark.parametrize(
    "contents",
    [
        {"test_a.py": UNIT},
        {"tests/test_a.py": UNIT, "tests/__init__.py": ""},
        {"tests/test_a.py": UNIT},
        {"tests/unit/test_a.py": UNIT, "tests/other/test_b.py": UNIT},
        {"pkg/__init__.py": "", "pkg/a_test.py": UNIT},
    ],
)
def test_unittest_really_finds_the_tests_it_is_pointed_to(contents: dict[str, str], tmp_path: Path) -> None:
    write(tmp_path, contents)
    found = detect_test_command(contents, contents.get, config=TestConfig(), python=sys.executable, root=".")
    assert found
    done = subprocess.run(found.argv, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert f"Ran {sum('test' in Path(name).name for name in contents)} test" in done.stderr


def test_paths_are_handed_to_each_runner_in_its_own_way() -> None:
    assert TestCommand(("py", "-m", "unittest", "discover"), "unittest").on(["tests/a.py"]) == (
        *("py", "-m", "unittest", "tests/a.py"),
    )
    assert TestCommand(("npm", "test"), "npm").on(["a.js"]) == ("npm", "test", "--", "a.js")
    assert TestCommand(("go", "test", "./..."), "go").on(["pkg"]) == ("go", "test", "./pkg")
    with pytest.raises(ToolFailed, match="without them"):
        TestCommand(("make", "test"), "make").on(["x"])


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("test = 1", "must be a section"),
        ("[test", "not valid TOML"),
        ('[test]\ncommand = "make test"', "list of words"),
        ("[test]\ncommand = []", "list of words"),
        ('[test]\npython = "../../etc/python"', "inside the repository"),
    ],
)
def test_a_wrong_configuration_is_named(text: str, reason: str) -> None:
    with pytest.raises(ToolFailed, match=reason):
        parse_config(text)


async def test_changes_show_the_difference_to_where_the_task_started(bench: Bench) -> None:
    assert (await bench.call("changes")).text == "Nothing changed."
    write(bench.clone, {"calc.py": CALC + f"# {TOKEN}\n", "new.py": "x = 1\n"})
    changes = await bench.data("changes")
    assert changes["stat"] == {"files": 2, "insertions": 2, "deletions": 0}
    assert "+x = 1" in changes["diff"]
    assert TOKEN not in changes["diff"]
    assert changes["base"] == run("rev-parse", "HEAD", cwd=bench.project).strip()


async def blocking(bench: Bench) -> list[tuple[str, str, str, int]]:
    data = await bench.data("analyze")
    assert data["not_run"] == []
    found = [Finding.model_validate(finding) for finding in data["findings"]]
    return [(f.source, f.rule, f.path, f.line or 0) for f in found if f.is_blocking]


async def test_planted_injection_secret_and_errors_block(bench: Bench) -> None:
    write(
        bench.clone,
        {
            "calc.py": CALC + "\n\ndef run(name):\n    subprocess.run('ls ' + name, shell=True)  # noqa # nosec\n",
            "db.py": "def find(cursor, name):\n    cursor.execute('select * from t where n = ' + name)\n",
            "load.py": "import yaml\n\n\ndef load(text):\n    return yaml.load(text), eval(text)\n",
            "broken.py": "x = 1\ndef f(:\n",
            "settings.toml": f"a = 1\ntoken = '{TOKEN}'\n",
            "ruff.py": "raise SystemExit('hijacked')\n",
            "pyproject.toml": "[tool.ruff]\nexclude = ['*']\n",
        },
    )
    data = await bench.data("analyze")
    assert data["ran"] == ["secrets", "detect-secrets", "ruff", "bandit"]
    assert [missing["what"] for missing in data["not_run"]] == ["bandit"]
    assert "broken.py" in data["not_run"][0]["why"]
    found = {(f["source"], f["rule"], f["path"], f["line"]) for f in data["findings"] if f["is_blocking"]}
    assert found >= {
        ("bandit", "B602", "calc.py", 6),
        ("ruff", "F821", "calc.py", 6),
        ("bandit", "B608", "db.py", 2),
        ("bandit", "B506", "load.py", 5),
        ("bandit", "B307", "load.py", 5),
        ("ruff", "invalid-syntax", "broken.py", 2),
        ("secrets", "secret", "settings.toml", 2),
    }
    assert TOKEN not in json.dumps(dict(data))
    result = await bench.call("analyze")
    assert "BLOCKING: calc.py:6: subprocess call with shell=True" in result.text
    assert "Not run: bandit: broken.py" in result.text


async def test_clean_code_and_its_tests_do_not_block(bench: Bench) -> None:
    write(
        bench.clone,
        {
            "calc.py": CALC + '\n\ndef greet(name):\n    """Greets."""\n    return _("Hello") + name\n',
            "fetch.py": "from urllib.request import urlopen\n\n\ndef f(url):\n    return urlopen(url)\n",
            "test_new.py": "import subprocess\n\n\ndef test_x():\n"
            "    assert eval('1') == 1\n    subprocess.run('ls ' + 'x', shell=True)\n",
        },
    )
    assert await blocking(bench) == []


async def test_old_sins_do_not_block_a_change_beside_them(empty: Bench) -> None:
    sin = "import subprocess\n\n\ndef run(name):\n    subprocess.run(name, shell=True)\n    undefined()\n"
    sin += f"# {TOKEN}\n"
    await empty.start({"old.py": sin})
    write(empty.clone, {"old.py": sin + "\n\nx = 1\n"})
    assert await blocking(empty) == []
    data = await empty.data("analyze")
    assert {f["rule"] for f in data["findings"] if f["source"] in {"ruff", "bandit"}} == {"B602", "F821"}
    (empty.clone / "old.py").unlink()
    assert await blocking(empty) == []


async def test_an_argument_added_to_an_old_call_is_the_changes_doing(empty: Bench) -> None:
    old = "import subprocess\n\n\ndef run(name):\n    subprocess.run(\n        name,\n    )\n"
    await empty.start({"old.py": old})
    write(empty.clone, {"old.py": old.replace("        name,\n", "        name,\n        shell=True,\n")})
    assert [finding[1] for finding in await blocking(empty)] == ["B602"]


async def test_without_a_python_change_only_secrets_are_looked_for(bench: Bench) -> None:
    write(bench.clone, {"notes.txt": "Adds numbers.\n"})
    ran = ["secrets", "detect-secrets"]
    assert await bench.data("analyze") == {"findings": [], "ran": ran, "not_run": [], "omitted": 0}


async def test_an_analyzer_that_fails_is_named_never_passed_over(bench: Bench) -> None:
    write(bench.clone, {"calc.py": CALC + "x = 1\n"})
    bench.tools = WorkspaceTools(bench.workspaces, limits=Limits(timeout_s=0.01, memory_mb=1024))
    data = await bench.data("analyze")
    assert data["ran"] == ["secrets"]
    assert [(m["what"], "timeout limit" in m["why"]) for m in data["not_run"]] == [
        ("detect-secrets", True),
        ("ruff", True),
        ("bandit", True),
    ]


@pytest.mark.parametrize("output", ["", "panicked", "[{]", '[{"code": "F821"}]'])
def test_a_report_that_cannot_be_read_counts_as_not_run(output: str) -> None:
    outcome = read_report(RUFF, CommandResult(("ruff",), 0, 0.1, output, None), "")
    assert not outcome.has_run
    assert "cannot be read" in str(outcome.why_not)
