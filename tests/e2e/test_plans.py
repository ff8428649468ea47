"""Plans as graphs: steps at once, changes that go together or not, new plans, questions."""

import json
from pathlib import Path
from typing import Any

from stacks import StackProcess, git


def events(stack: StackProcess, task: dict[str, Any], kind: str) -> list[dict[str, Any]]:
    return [event["data"] for event in stack.get(f"/tasks/{task['id']}/events") if event["kind"] == kind]


def test_steps_that_need_nothing_of_each_other_run_at_once_and_go_together(stack: StackProcess, shop: Path) -> None:
    task = stack.run_task("Please do the three things AT ONCE.", shop)

    assert task["status"] == "completed", task
    assert [step["needs"] for step in task["plan"]["steps"]] == [[], [], ["1", "2"]]
    assert [step["cost_usd"] for step in task["plan"]["steps"]] == [None] * 3, "nothing computed an estimate"
    changed = git(shop, "diff", "--name-only", "main", task["branch"]).splitlines()
    assert changed == ["Dockerfile", "README.md", "shop/prices.py"]
    delegated = events(stack, task, "delegated")
    assert [step.get("at_once") for step in delegated] == [["1", "2"], ["1", "2"], None]
    runs = {run["agent"]: run for run in stack.get(f"/tasks/{task['id']}/runs")}
    first, second = runs["infrastructure"], runs["documentation"]
    assert max(first["started_at"], second["started_at"]) < min(first["ended_at"], second["ended_at"])
    read = [e for e in events(stack, task, "tool_call") if e["tool"] == "workspace_read_file"]
    assert [call["is_error"] for call in read] == [False], "a later step sees what those before it did"
    left = [path.name for path in (stack.data_dir / "workspaces").iterdir() if path.name.startswith(task["id"])]
    assert left == [task["id"]]


def test_a_step_whose_change_does_not_fit_is_done_again_on_top_of_the_other(stack: StackProcess, shop: Path) -> None:
    task = stack.run_task("Two that are IN EACH OTHER'S WAY.", shop)

    assert task["status"] == "completed", task
    assert events(stack, task, "conflict") == [{"step": "2", "files": ["README.md"]}]
    assert git(shop, "show", f"{task['branch']}:README.md").startswith("# shop of one and two")
    assert "steps got in each other's way" in [item["what"] for item in task["degraded"]]
    # What the first try of the second step also did was not taken in: nothing half is.
    assert task["tests"][-1]["exit_code"] == 0 or "shop/prices.py" not in json.dumps(task["diff"])


def test_a_plan_that_fails_is_followed_by_another(stack: StackProcess, shop: Path) -> None:
    task = stack.run_task("FIRST PLAN IS NO GOOD, make another.", shop)

    assert task["status"] == "completed", task
    plans = events(stack, task, "plan")
    assert [[(step["id"], step["agent"]) for step in plan["steps"]] for plan in plans] == [
        [("1", "infrastructure")],
        [("2", "feature-dev")],
    ]
    assert [item["what"] for item in task["degraded"]] == ["the plan failed"]


def test_an_unclear_request_waits_for_an_answer(stack: StackProcess, shop: Path) -> None:
    task = stack.create_task("Make it right, please.", shop)
    asked = stack.wait_for_event(task["id"], "approval")
    question = stack.get(f"/approvals/{asked['data']['id']}")
    assert (question["kind"], question["preview"]) == ("question", "What is wrong: the discount or the prices?")
    verdict = {"decision": "approve", "reason": "The discount, at exactly 100."}
    assert stack.post(f"/approvals/{question['id']}/decision", verdict).status_code == 200
    ended = stack.wait_for_end(task["id"])
    assert ended["status"] == "completed", ended
    assert [step["agent"] for step in ended["plan"]["steps"]] == ["feature-dev"]
