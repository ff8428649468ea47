"""What a task left behind, used again: gone through offline, and done anew with another model."""

import json
from pathlib import Path
from typing import Any

import pytest

from e2e import scenarios
from stacks import StackProcess, git, run_cli

TASK = "Fix the failing test: an order of exactly 100 must get the discount."


def cli(stack: StackProcess, *arguments: str, exit_code: int = 0, **env: str) -> Any:
    done = run_cli(*arguments, "--json", "--data-dir", str(stack.data_dir), env={**stack.env, **env})
    assert done.returncode == exit_code, done.stderr + done.stdout
    return json.loads(done.stdout)


@pytest.mark.parametrize("text", [TASK, "AT ONCE: please do the three things."])
def test_todays_code_goes_the_way_of_the_record(stack: StackProcess, shop: Path, text: str) -> None:
    task = stack.run_task(text, shop)
    found = cli(stack, "task", "replay", task["id"])
    assert found["departures"] == []
    steps = len(stack.get(f"/tasks/{task['id']}/steps"))
    runs = len(stack.get(f"/tasks/{task['id']}/runs"))
    assert found["workflows"] == 1 + runs
    assert found["steps"] > steps, "the agents' own steps as well"


def test_a_replay_says_where_other_settings_would_have_led_elsewhere(stack: StackProcess, shop: Path) -> None:
    task = stack.run_task(TASK, shop)
    found = cli(stack, "task", "replay", task["id"], exit_code=20, DEV_TOOLS_MAX_AGENT_TURNS="2")
    first = found["departures"][0]
    assert first["workflow"] == f"{task['id']}/feature-dev/1"
    assert (first["what"], first["today"]) == ("the next step", "run.end")


def test_tasks_are_done_anew_by_another_model_and_compared(stack: StackProcess, shop: Path, tmp_path: Path) -> None:
    task = stack.run_task(TASK, shop)
    head = git(shop, "rev-parse", "HEAD")
    (shop / "later.txt").write_text("The repository went on.\n")
    git(shop, "add", "-A")
    git(shop, "-c", "user.name=T", "-c", "user.email=t@example.com", "commit", "-q", "-m", "later")
    before = git(shop, "for-each-ref")

    same = cli(stack, "eval", "from-history", task["id"])
    assert same["summary"]["recorded"]["solved"] == same["summary"]["again"]["solved"] == 1
    (one,) = same["tasks"]
    assert one["differences"] == []
    assert one["again"]["model_calls"] == one["recorded"]["model_calls"] == 6
    assert one["recorded"]["cost_usd"] is one["again"]["cost_usd"] is None

    script = tmp_path / "lazy.json"
    script.write_text(json.dumps([{"agent": "feature-dev", "turns": [scenarios.done("Nothing to do.", "Nothing")]}]))
    other = cli(stack, "eval", "from-history", task["id"], DEV_TOOLS_MODEL_SCRIPT=str(script))
    (one,) = other["tasks"]
    assert one["differences"] == [
        "status: completed -> failed",
        "reason: none -> no_change",
        f"model: {task['model']['name']} -> scripted",
        "model calls: 6 -> 1",
    ]
    assert other["summary"]["again"]["solved"] == 0
    assert (git(shop, "for-each-ref"), head != git(shop, "rev-parse", "HEAD")) == (before, True), "nothing is published"


def test_a_task_starts_from_the_commit_it_names(stack: StackProcess, shop: Path) -> None:
    first = git(shop, "rev-parse", "HEAD")
    git(shop, "-c", "user.name=T", "-c", "user.email=t@example.com", "commit", "-q", "--allow-empty", "-m", "later")
    task = stack.run_task(TASK, shop, start_at=first)
    assert (task["status"], task["base_commit"]) == ("completed", first)
    refused = stack.post("/tasks", {"text": TASK, "repo": str(shop), "start_at": "0" * 40})
    assert refused.status_code == 404
    assert "has no commit" in refused.json()["message"]
