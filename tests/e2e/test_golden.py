"""A task from request to branch, through everything real but the model."""

import json
import re
import time
from pathlib import Path
from typing import Any

from devtools_platform.app.demo import FILES
from fakes.openai_server import FakeOpenAI, Fault
from stacks import StackProcess, git, make_repo

TASK = "Fix the failing test: an order of exactly 100 must get the discount."


def events_of(stack: StackProcess, task: dict[str, Any]) -> list[dict[str, Any]]:
    return stack.get(f"/tasks/{task['id']}/events")


def test_a_task_becomes_a_tested_and_reviewed_branch(stack: StackProcess, shop: Path) -> None:
    (shop / "notes.txt").write_text("not committed")
    before = git(shop, "status", "--porcelain"), git(shop, "rev-parse", "HEAD"), git(shop, "branch", "--show-current")

    task = stack.run_task(TASK, shop)

    assert task["status"] == "completed", task
    branch = task["branch"]
    assert branch == f"task/{task['id']}"
    assert git(shop, "rev-list", "--count", f"main..{branch}") == "1"
    assert task["commits"] == [git(shop, "rev-parse", branch)]
    assert git(shop, "diff", "main", branch, "--stat").count("shop/prices.py") == 1
    assert "total >= DISCOUNT_FROM" in git(shop, "show", f"{branch}:shop/prices.py")
    assert (task["diff"]["files"], task["diff"]["insertions"], task["diff"]["deletions"]) == (1, 1, 1)
    assert [(run["stage"], run["exit_code"]) for run in task["tests"]] == [("baseline", 1), ("final", 0)]
    assert "test_an_order_of_exactly_100_gets_the_discount" in task["tests"][0]["output"]
    assert task["review"]["verdict"] == "approve"
    assert {"ruff", "bandit", "secrets", "model"} <= set(task["review"]["judged_by"])
    assert task["tokens"]["model_calls"] == 6
    assert task["tokens"]["input"] > 0
    assert task["cost_usd"] is None, "the endpoint's price is unknown, so the cost is"
    assert task["model"]["provider"] == "openai-compatible"
    assert [item["what"] for item in task["degraded"]] == ["uncommitted changes left out"]
    after = git(shop, "status", "--porcelain"), git(shop, "rev-parse", "HEAD"), git(shop, "branch", "--show-current")
    assert after == before, "the person's working tree is never touched"
    assert (stack.data_dir / "workspaces" / task["id"]).is_dir(), "kept for a retry, until retention takes it"


def test_the_trace_holds_every_model_and_tool_call(stack: StackProcess, shop: Path) -> None:
    task = stack.run_task(TASK, shop)

    spans = wait_for_root_span(stack, task)
    assert {span["trace_id"] for span in spans} == {task["trace_id"]}
    chats = [s for s in spans if s["attributes"].get("gen_ai.operation.name") == "chat"]
    gateway_calls = [s for s in spans if "devtools.tool.key" in s["attributes"]]
    assert len(chats) == task["tokens"]["model_calls"]
    assert len(gateway_calls) == task["tokens"]["tool_calls"]
    assert len(gateway_calls) == sum(event["kind"] == "tool_call" for event in events_of(stack, task))
    assert sum(event["kind"] == "model_call" for event in events_of(stack, task)) == len(chats)
    assert {s["task_id"] for s in chats + gateway_calls} == {task["id"]}
    assert {s["agent"] for s in chats} == {"feature-dev", "code-review"}
    by_id = {span["span_id"]: span for span in spans}
    lost = [call for call in gateway_calls if call["parent_id"] not in by_id]
    assert not lost, "one tree, across the gateway"


def test_the_trace_shows_what_the_agent_was_given_of_the_repository(stack: StackProcess, shop: Path) -> None:
    task = stack.run_task(TASK, shop)

    spans = wait_for_root_span(stack, task)
    by_id = {span["span_id"]: span for span in spans}
    retrievals = [s for s in spans if s["attributes"].get("gen_ai.operation.name") == "retrieval"]
    (search,) = [s for s in retrievals if s["attributes"]["gen_ai.retrieval.query.text"] == "order discount total"]
    assert (search["task_id"], search["agent"]) == (task["id"], "feature-dev")
    assert by_id[search["parent_id"]]["name"] == "tools/call context_search"
    given = json.loads(search["attributes"]["gen_ai.retrieval.documents"])
    assert any(re.fullmatch(r"shop/prices\.py:\d+-\d+", document["id"]) for document in given), given
    assert all(0 < document["score"] <= 1 for document in given)
    assert git(shop, "diff", "--name-only", "main", task["branch"]) == "shop/prices.py", "and it was used"


def wait_for_root_span(stack: StackProcess, task: dict[str, Any]) -> list[dict[str, Any]]:
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline:
        spans = stack.get(f"/tasks/{task['id']}/trace")
        if any(span["name"] == "task" for span in spans):
            return spans
    raise AssertionError("the task's root span never arrived")


def test_the_model_plans_a_request_that_is_for_two_agents(stack: StackProcess, shop: Path) -> None:
    task = stack.run_task("Fix the discount for orders of exactly 100 and say so in the README.", shop)

    assert task["status"] == "completed", task
    assert task["plan"]["source"] == "model"
    assert [step["agent"] for step in task["plan"]["steps"]] == ["feature-dev", "documentation"]
    assert "Orders from 100.00" in git(shop, "show", f"{task['branch']}:README.md")
    assert git(shop, "rev-list", "--count", f"main..{task['branch']}") == "1"


def test_a_wrong_change_is_caught_by_the_tests(stack: StackProcess, shop: Path) -> None:
    task = stack.run_task("Fix the failing test the WRONG way.", shop)

    assert (task["status"], task["reason"], task["branch"]) == ("failed", "tests_failed", None)
    assert task["tests"][-1]["exit_code"] == 1
    assert git(shop, "branch", "--list", "task/*") == ""
    assert "DISCOUNT_FROM + 1" in str([e["data"] for e in events_of(stack, task) if e["kind"] == "diff"])


def test_a_planted_vulnerability_is_caught_by_the_review(stack: StackProcess, shop: Path) -> None:
    task = stack.run_task("Fix the failing test and add a report command function.", shop)

    assert (task["status"], task["reason"], task["branch"]) == ("failed", "review_blocked", None)
    blocking = [finding for finding in task["review"]["findings"] if finding["is_blocking"]]
    assert [(f["source"], f["path"]) for f in blocking if f["rule"] == "B602"] == [("bandit", "shop/report.py")]
    assert git(shop, "branch", "--list", "task/*") == ""


def test_the_models_own_objection_blocks_too(stack: StackProcess, shop: Path) -> None:
    task = stack.run_task("Fix the discount of exactly 100 where the REVIEWER OBJECTS.", shop)

    assert (task["status"], task["reason"], task["branch"]) == ("failed", "review_blocked", None)
    assert "Refunds differ." in task["message"]


def test_no_change_and_no_solution_are_said_as_such(stack: StackProcess, shop: Path) -> None:
    idle = stack.run_task("Fix the bug where there is nothing to do.", shop)
    stuck = stack.run_task("Fix the bug you cannot see.", shop)

    assert (idle["status"], idle["reason"]) == ("failed", "no_change")
    assert (stuck["status"], stuck["reason"]) == ("failed", "not_solved")
    assert "price list is not in this repository" in stuck["message"]


def test_a_bent_test_is_shown_to_the_person(stack: StackProcess, shop: Path) -> None:
    task = stack.run_task("Fix the failing test, and bend the test if you must.", shop)

    assert task["status"] == "completed", task
    (shown,) = [item["why"] for item in task["degraded"] if item["what"] == "existing tests were changed"]
    assert "tests/test_prices.py" in shown


def test_an_agent_reaches_nothing_outside_its_workspace(stack: StackProcess, shop: Path) -> None:
    task = stack.run_task("Fix the discount and try to reach outside.", shop, agent="feature-dev")

    assert task["status"] == "completed", task
    calls = [e["data"] for e in events_of(stack, task) if e["kind"] == "tool_call" and e["agent"] == "feature-dev"]
    outcome = {call["tool"]: call["is_error"] for call in calls}
    assert outcome["workspace_read_file"] is True
    assert outcome["workspace_write_file"] is True
    assert "workspace_no_such_tool" not in outcome, "a tool that was not offered is not called"
    assert "root:" not in str(calls)
    assert git(shop, "diff", "--name-only", "main", task["branch"]) == "shop/prices.py"


def test_a_failing_endpoint_is_retried_and_then_named(
    stack: StackProcess, shop: Path, endpoint: FakeOpenAI, tmp_path: Path
) -> None:
    endpoint.inject(Fault(kind="status", status=429, retry_after="0.1", agent="feature-dev", times=2))
    recovered = stack.run_task(TASK, shop)
    other = make_repo(tmp_path / "other", FILES)
    endpoint.inject(Fault(kind="status", status=500, retry_after="0.1", agent="feature-dev", times=None))
    try:
        failed = stack.run_task(TASK, other)
    finally:
        endpoint.reset()

    assert recovered["status"] == "completed", recovered
    assert (failed["status"], failed["reason"]) == ("failed", "model_failed")
    assert git(other, "branch", "--list", "task/*") == ""
