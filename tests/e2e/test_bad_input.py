"""What people get wrong: a clear error, an exit code, and nothing touched."""

import json
import socket
from pathlib import Path
from typing import Any

import httpx2
import pytest

from devtools_platform.app.demo import FILES
from devtools_platform.core.tasks import MAX_TASK_TEXT
from stacks import StackProcess, clean_env, git, make_repo, run_cli, running_stack

TASK = "Fix the failing test: an order of exactly 100 must get the discount."


def cli(stack: StackProcess, *arguments: str) -> tuple[int, dict[str, Any]]:
    """A `task run --json` against the running stack: exit code and what it printed."""
    done = run_cli("task", "run", *arguments, "--json", "--data-dir", str(stack.data_dir), env=stack.env)
    assert "Traceback" not in done.stderr, done.stderr
    return done.returncode, json.loads(done.stdout)


@pytest.mark.parametrize(
    ("text", "code"), [("", "bad_input"), ("   ", "bad_input"), ("x" * (MAX_TASK_TEXT + 1), "bad_input")]
)
def test_an_empty_or_huge_text_is_refused(stack: StackProcess, shop: Path, text: str, code: str) -> None:
    exit_code, printed = cli(stack, text, "--repo", str(shop))

    assert (exit_code, printed["error"]["code"]) == (2, code)
    assert printed["error"]["hint"]


def test_a_folder_without_git_or_without_a_commit_is_refused(stack: StackProcess, tmp_path: Path) -> None:
    plain, empty = tmp_path / "plain", tmp_path / "empty"
    plain.mkdir()
    empty.mkdir()
    git(empty, "init", "-q")

    for folder in (plain, empty, tmp_path / "missing"):
        exit_code, printed = cli(stack, TASK, "--repo", str(folder))
        assert (exit_code, printed["error"]["code"]) == (2, "not_a_repository"), printed
        assert folder.name in printed["error"]["message"]


def test_an_unknown_agent_is_named_with_the_known_ones(stack: StackProcess, shop: Path) -> None:
    exit_code, printed = cli(stack, TASK, "--repo", str(shop), "--agent", "wizard")

    assert (exit_code, printed["error"]["code"]) == (2, "unknown_agent")
    assert "feature-dev" in printed["error"]["hint"]


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["task", "run"], "TEXT"),
        (["nosuch"], "nosuch"),
        (["up", "--bogus"], "--bogus"),
        (["task", "list", "--limit", "many"], "--limit"),
    ],
)
def test_a_mistyped_command_is_told_how_it_is_used(arguments: list[str], says: str) -> None:
    done = run_cli(*arguments, env=clean_env())

    assert done.returncode == 2
    assert "Usage:" in done.stderr
    assert says.lower() in done.stderr.lower()
    assert "Traceback" not in done.stderr


def test_what_takes_part_in_every_task_takes_none_alone(stack: StackProcess, shop: Path) -> None:
    exit_code, printed = cli(stack, TASK, "--repo", str(shop), "--agent", "code-review")

    assert (exit_code, printed["error"]["code"]) == (2, "bad_input")
    assert "documentation" in printed["error"]["hint"]


def test_a_task_that_ends_without_a_branch_has_an_exit_code_of_its_own(stack: StackProcess, shop: Path) -> None:
    exit_code, printed = cli(stack, "Fix the bug where there is nothing to do.", "--repo", str(shop))

    assert (exit_code, printed["reason"], printed["branch"]) == (20, "no_change", None)


@pytest.mark.parametrize(
    ("change", "reason", "says"),
    [
        ({"DEV_TOOLS_MODEL_API_KEY": "wrong"}, "model_refused", "key"),
        ({"DEV_TOOLS_MODEL": "no-such-model"}, "model_refused", "no-such-model"),
        ({"DEV_TOOLS_MODEL_BASE_URL": "http://127.0.0.1:9/v1"}, "model_failed", "127.0.0.1:9"),
        ({"DEV_TOOLS_MODEL_BASE_URL": "", "DEV_TOOLS_MODEL": ""}, "needs_model", "dev-tools model pull"),
    ],
    ids=["wrong key", "unknown model", "endpoint away", "no model"],
)
def test_a_model_that_cannot_serve_ends_the_task_with_the_way_out(
    tmp_path: Path, endpoint_env: dict[str, str], shop: Path, change: dict[str, str], reason: str, says: str
) -> None:
    env = {**clean_env(**endpoint_env), **change, "DEV_TOOLS_CACHE_DIR": str(tmp_path / "empty-cache")}
    env = {key: value for key, value in env.items() if value}

    done = run_cli("task", "run", TASK, "--repo", str(shop), "--json", "--data-dir", str(tmp_path / "data"), env=env)

    assert done.returncode == 20, done.stderr
    task = json.loads(done.stdout)
    assert (task["status"], task["reason"]) == ("failed", reason), task
    assert says in task["message"]
    assert git(shop, "branch", "--list", "task/*") == ""


def test_no_sandbox_is_a_refusal_unless_it_is_waived(tmp_path: Path, endpoint_env: dict[str, str], shop: Path) -> None:
    env = clean_env(**endpoint_env, DEV_TOOLS_SANDBOX_PROGRAM=str(tmp_path / "no-bwrap"))
    with running_stack(tmp_path / "data", env) as stack:
        exit_code, printed = cli(stack, TASK, "--repo", str(shop))
        assert (exit_code, printed["error"]["code"]) == (7, "no_sandbox")
        waived = stack.run_task(TASK, shop, without_sandbox=True)

    assert waived["status"] == "completed", waived
    assert "no sandbox" in [item["what"] for item in waived["degraded"]]


def test_a_port_in_use_is_named_with_the_setting_that_moves_it(tmp_path: Path, endpoint_env: dict[str, str]) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        env = clean_env(**endpoint_env, DEV_TOOLS_GATEWAY_PORT=port)
        done = run_cli("up", "--data-dir", str(tmp_path / "data"), env=env)

    assert done.returncode == 8
    assert port in done.stderr
    assert "DEV_TOOLS_GATEWAY_PORT" in done.stderr


def test_a_second_up_says_what_is_already_running(stack: StackProcess) -> None:
    done = run_cli("up", "--free-ports", "--data-dir", str(stack.data_dir), env=stack.env)

    assert done.returncode == 8
    assert stack.facts is not None
    assert stack.facts["urls"]["gateway"] in " ".join(done.stderr.split())


def test_too_little_disk_is_said_before_anything_is_stored(
    tmp_path: Path, endpoint_env: dict[str, str], shop: Path
) -> None:
    env = clean_env(**endpoint_env, DEV_TOOLS_MIN_FREE_DISK_MB="999999999")
    with running_stack(tmp_path / "data", env) as stack:
        exit_code, printed = cli(stack, TASK, "--repo", str(shop))
        assert (exit_code, printed["error"]["code"]) == (9, "disk_full")
        assert stack.get("/tasks")["items"] == []


def test_a_misspelt_setting_names_the_nearest_one(tmp_path: Path) -> None:
    done = run_cli("doctor", "--data-dir", str(tmp_path), env=clean_env(DEV_TOOLS_GATEWAY_PROT="1"))

    assert done.returncode == 2
    assert "DEV_TOOLS_GATEWAY_PORT" in done.stderr


HANG = "import time, unittest\n\n\nclass T(unittest.TestCase):\n    def test_it(self):\n        time.sleep(3600)\n"
FLOOD = HANG.replace("time.sleep(3600)", "[print('x' * 9999) for _ in iter(int, 1)]")


@pytest.mark.parametrize(("body", "ended_by"), [(HANG, "timeout"), (FLOOD, "output")], ids=["hang", "flood"])
def test_tests_that_hang_or_flood_end_by_their_limit(
    tmp_path: Path, endpoint_env: dict[str, str], body: str, ended_by: str
) -> None:
    repo = make_repo(tmp_path / "repo", {**FILES, "tests/test_more.py": body})
    env = clean_env(**{**endpoint_env, "DEV_TOOLS_COMMAND_TIMEOUT_S": "3"})
    with running_stack(tmp_path / "data", env) as stack:
        task = stack.run_task(TASK, repo)

    assert (task["status"], task["reason"]) == ("failed", "tests_failed"), task
    assert task["tests"][0]["ended_by"] == ended_by
    assert task["tests"][0]["exit_code"] is None
    assert len(task["tests"][0]["output"]) < 500_000


HOG = HANG.replace("time.sleep(3600)", "open('hog', 'wb').write(b'x' * 500 * 2**20)")


def test_a_disk_that_fills_up_in_the_middle_ends_the_task_and_nothing_else(
    tmp_path: Path, small_disk: Path, endpoint_env: dict[str, str]
) -> None:
    repo = make_repo(tmp_path / "repo", {**FILES, "tests/test_hog.py": HOG})
    env = clean_env(**endpoint_env, DEV_TOOLS_MIN_FREE_DISK_MB="5")
    with running_stack(small_disk / "data", env) as stack:
        full = stack.run_task(TASK, repo)
        later = stack.run_task(TASK, make_repo(tmp_path / "shop", FILES))

    assert (full["status"], full["reason"], full["branch"]) == ("failed", "disk_full", None), full
    assert git(repo, "branch", "--list", "task/*") == ""
    assert later["status"] == "completed", "with the room back, work goes on"


def test_a_malicious_repository_harms_nobody(stack: StackProcess, tmp_path: Path) -> None:
    trap = tmp_path / "sprung"
    outside = tmp_path / "outside.txt"
    outside.write_text("secret of the host")
    conftest = (
        "import os, pathlib, subprocess\n"
        f"for target in ({str(trap)!r}, '/workspace/.git/hooks/pre-commit', os.path.expanduser('~/.bashrc')):\n"
        "    try:\n        pathlib.Path(target).write_text('owned')\n    except OSError:\n        pass\n"
        "try:\n    subprocess.run(['git', 'config', 'core.fsmonitor', 'touch /tmp/owned-by-git'], cwd='/workspace')\n"
        "except OSError:\n    pass\n"
    )
    files = {name: text for name, text in FILES.items() if name != "tests/__init__.py"}
    repo = make_repo(tmp_path / "repo", {**files, "conftest.py": conftest, ".gitattributes": "* filter=evil\n"})
    (repo / "leak").symlink_to(outside)
    git(repo, "add", "-A")
    git(repo, "-c", "user.name=T", "-c", "user.email=t@example.com", "commit", "-q", "-m", "link")
    (repo / ".gitmodules").write_text('[submodule "x"]\n\tpath = x\n\turl = ext::sh -c touch% /tmp/owned\n')
    hook = repo / ".git" / "hooks" / "reference-transaction"
    hook.write_text(f"#!/bin/sh\ntouch {trap}\n")
    hook.chmod(0o755)

    task = stack.run_task(TASK, repo)

    assert task["status"] == "completed", task
    assert not trap.exists()
    assert not Path("/tmp/owned").exists()
    assert not Path("/tmp/owned-by-git").exists()
    assert outside.read_text() == "secret of the host"
    assert "secret of the host" not in json.dumps(stack.get(f"/tasks/{task['id']}/events"))
    assert git(repo, "diff", "--name-only", "main", task["branch"]) == "shop/prices.py"


def test_the_services_refuse_strangers_and_bad_bodies(stack: StackProcess) -> None:
    assert stack.facts is not None
    for name, path in {"state": "/tasks", "gateway": "/tools", "context": "/collections", "console": "/"}.items():
        assert httpx2.get(stack.facts["urls"][name] + path, trust_env=False).status_code == 401, name
        assert httpx2.get(stack.facts["urls"][name] + "/health", trust_env=False).status_code == 200, name
        metrics = httpx2.get(stack.facts["urls"][name] + "/metrics", trust_env=False)
        assert "devtools_http_requests_total" in metrics.text
    mcp = httpx2.post(stack.facts["urls"]["gateway"] + "/mcp", json={}, trust_env=False)
    assert mcp.status_code == 401
    with stack.http as http:
        assert http.get("/tasks/nothing").status_code == 404
        wrong = http.post("/tasks", json={"text": "x"})
        assert (wrong.status_code, wrong.json()["code"]) == (422, "bad_input")
        assert "repo" in wrong.json()["message"]
        assert http.post("/tasks", content=b"x" * 1_100_000).status_code == 413
