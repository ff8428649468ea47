"""The commands around a running stack, as typed: workers, control, approvals, audit."""

import json
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from devtools_platform.app.demo import TASK
from stacks import StackProcess, clean_env, run_cli

pytestmark = pytest.mark.timeout(300)


def cli(stack: StackProcess, *arguments: str, exit_code: int = 0) -> Any:
    done = run_cli(*arguments, "--json", "--data-dir", str(stack.data_dir), env=stack.env)
    assert done.returncode == exit_code, done.stderr + done.stdout
    return json.loads(done.stdout)


@contextmanager
def working(stack: StackProcess, *arguments: str) -> Iterator[dict[str, Any]]:
    command = [sys.executable, "-m", "devtools_platform", "worker", *arguments, "--json"]
    process = subprocess.Popen(
        [*command, "--data-dir", str(stack.data_dir)],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=dict(stack.env),
    )  # fmt: skip
    assert process.stdout is not None
    try:
        line = process.stdout.readline()
        assert line, process.communicate()[1]
        yield json.loads(line)
    finally:
        process.send_signal(signal.SIGTERM)
        _, errors = process.communicate(timeout=30)
    assert process.returncode == 0, errors


def test_a_worker_joins_is_listed_and_says_good_bye(stack: StackProcess) -> None:
    with working(stack, "--queues", "agents") as facts:
        assert facts["queues"] == ["agents"]
        statuses = {one["id"]: one["status"] for one in cli(stack, "worker", "list")}
        assert statuses[facts["worker"]] == "alive"
        assert len([status for status in statuses.values() if status == "alive"]) == 2

    assert {one["id"]: one["status"] for one in cli(stack, "worker", "list")}[facts["worker"]] != "alive"


def test_a_worker_without_a_stack_says_what_to_do(tmp_path: Path) -> None:
    env = clean_env()
    alone = run_cli("worker", "run", "--data-dir", str(tmp_path / "none"), env=env)
    assert (alone.returncode, "dev-tools up" in alone.stderr) == (8, True), alone.stderr

    away = {**env, "DEV_TOOLS_GATEWAY_URL": "http://10.0.0.5:8000"}
    unfinished = run_cli("worker", "--data-dir", str(tmp_path / "none"), env=away)
    assert unfinished.returncode == 2
    assert "DATABASE_URL and DEV_TOOLS_STACK_SECRET" in unfinished.stderr

    told = {**away, "DATABASE_URL": "postgresql://me@10.0.0.5/x", "DEV_TOOLS_STACK_SECRET": "s"}
    both = run_cli("worker", "--data-dir", str(tmp_path / "none"), env=told)
    assert both.returncode == 2
    assert "--queues agents" in both.stderr


def test_a_task_that_asks_is_listed_approved_and_audited(stack: StackProcess, shop: Path) -> None:
    task = stack.create_task(TASK, shop, ask_before=["plan"])["id"]
    for event in stack.follow(task):
        if event["kind"] == "approval":
            break
    waiting = cli(stack, "task", "approvals", task)
    assert [(one["kind"], one["status"]) for one in waiting] == [("plan", "pending")]

    decided = cli(stack, "task", "approve", waiting[0]["id"], "--reason", "looks right")
    assert (decided["status"], decided["reason"]) == ("approved", "looks right")
    assert cli(stack, "task", "deny", waiting[0]["id"], "--reason", "late", exit_code=4)["error"]["code"] == "too_late"
    assert stack.wait_for_end(task)["status"] == "completed"

    numbers = [step["number"] for step in cli(stack, "task", "steps", task)]
    assert numbers == sorted(numbers)
    assert numbers
    subject = f"approval:{waiting[0]['id']}"
    assert [one["action"] for one in cli(stack, "audit", "list", "--subject", subject)] == ["approval.decide"]
    chains = cli(stack, "audit", "verify")
    assert {name: chain["broken_at"] for name, chain in chains.items()} == {"people": None, "calls": None}
    assert chains["calls"]["entries"] > 0, "what the agents called is in it"
    page = cli(stack, "task", "list", "--status", "completed", "--limit", "1")
    assert page["items"][0]["id"] == task


def test_a_task_is_paused_steered_resumed_retried_and_forked(stack: StackProcess, shop: Path) -> None:
    task = stack.create_task(TASK, shop, ask_before=["publish"])["id"]
    cli(stack, "task", "pause", task)
    cli(stack, "task", "steer", task, "Keep the change small.")
    cli(stack, "task", "resume", task)
    for event in stack.follow(task):
        if event["kind"] == "approval":
            cli(stack, "task", "approve", event["data"]["id"])
            break
    assert stack.wait_for_end(task)["status"] == "completed"
    assert cli(stack, "task", "pause", task, exit_code=4)["error"]["code"] == "conflict"
    assert cli(stack, "task", "retry", task, "--from", "9999", exit_code=3)["error"]["code"] == "not_found"

    assert cli(stack, "task", "retry", task)["attempt"] == 2
    fork = cli(stack, "task", "fork", task)
    assert (fork["forked_from"], fork["id"] != task) == (task, True)
    kinds = [event["kind"] for event in stack.get(f"/tasks/{task}/events")]
    assert [kind for kind in kinds if kind in {"pause_requested", "message", "resumed", "retried"}] == [
        "pause_requested", "message", "resumed", "retried",
    ]  # fmt: skip
    for id_ in (task, fork["id"]):
        cli(stack, "task", "cancel", id_)


def test_the_doctor_of_a_running_stack_reminds_of_a_token_that_ends(stack: StackProcess) -> None:
    made = cli(stack, "token", "create", "ana", "--scope", "tools:*", "--days", "3")

    checks = {check["name"]: check for check in cli(stack, "doctor")}

    assert "'ana' ends" in checks["tokens"]["found"]
    assert checks["tokens"]["fix"] == f"dev-tools token rotate {made['id']} --overlap 24"
    assert "schema" in checks["database"]["found"]
    assert "servers ready" in checks["upstreams"]["found"]
    renewed = cli(stack, "token", "rotate", made["id"], "--overlap", "1")
    ends = {token["id"]: token["is_valid"] for token in cli(stack, "token", "list")}
    assert (ends[made["id"]], ends[renewed["id"]]) == (True, True)
