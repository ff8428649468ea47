"""A task that runs out of money waits for a person, and goes on where it stopped once the limit is raised."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx2
import pytest

from fakes.openai_server import FakeOpenAI
from stacks import StackProcess, clean_env, git, running_stack

TASK = "Fix the failing test: an order of exactly 100 must get the discount."
PRICES = """
prices:
- {model: "*", input_usd: 1, output_usd: 2, source: this test}
"""


@pytest.fixture(scope="module")
def poor(tmp_path_factory: pytest.TempPathFactory, endpoint_env: dict[str, str]) -> Iterator[StackProcess]:
    """A stack with a price for its model and little money for a task."""
    folder = tmp_path_factory.mktemp("poor")
    (folder / "prices.yaml").write_text(PRICES)
    env = clean_env(
        **endpoint_env,
        DEV_TOOLS_PRICES=str(folder / "prices.yaml"),
        DEV_TOOLS_BUDGET_TASK_USD="0.008",
        DEV_TOOLS_BUDGET_MAX_OUTPUT_TOKENS="1000",
    )
    with running_stack(folder / "data", env) as stack:
        yield stack


def stopped(stack: StackProcess, repo: Path) -> tuple[str, dict[str, Any]]:
    """A task that has no money left, and what it asks for."""
    task_id = stack.create_task(TASK, repo)["id"]
    event = stack.wait_for_event(task_id, "approval")
    approval = stack.get(f"/approvals/{event['data']['id']}")
    assert (approval["kind"], approval["arguments"]["budget"]) == ("budget", f"task:{task_id}")
    assert stack.get(f"/tasks/{task_id}")["status"] == "input_required"
    return task_id, approval


def decide(stack: StackProcess, approval: dict[str, Any], decision: str, **more: Any) -> int:
    return stack.post(f"/approvals/{approval['id']}/decision", {"decision": decision, **more}).status_code


def test_a_raised_task_goes_on_where_it_stopped_even_after_a_kill(
    poor: StackProcess, shop: Path, endpoint: FakeOpenAI
) -> None:
    before = len(endpoint.chats)
    task_id, approval = stopped(poor, shop)
    made = len(endpoint.chats) - before
    assert made >= 1
    assert decide(poor, approval, "approve", arguments={"raise_by_usd": -1}) == 422
    poor.kill_everything()
    poor.start()
    assert decide(poor, approval, "approve", arguments={"raise_by_usd": 1}) == 200

    task = poor.wait_for_end(task_id)
    assert task["status"] == "completed", task
    assert git(shop, "rev-parse", task["branch"]) == task["commits"][0]
    calls = [event for event in poor.get(f"/tasks/{task_id}/events") if event["kind"] == "model_call"]
    # Nothing is asked twice: five turns of feature-dev and one of the review.
    assert (len(calls), len(endpoint.chats) - before) == (6, 6)
    assert task["cost_usd"] == pytest.approx(sum(event["data"]["cost_usd"] for event in calls))
    assert task["cost_usd"] > 0

    of_agent = sum(event["data"]["cost_usd"] for event in calls if event["data"]["agent"] == "feature-dev")
    runs = sum(
        run["agent"] == "feature-dev" and run["status"] == "completed" for run in poor.get(f"/tasks/{task_id}/runs")
    )
    assert task["plan"]["steps"][0]["cost_usd"] is None, "there was nothing to tell it by"
    following = poor.create_task(TASK, shop, ask_before=["plan"])["id"]
    plan = poor.wait_for_event(following, "plan")["data"]["steps"][0]
    assert (plan["cost_usd"], plan["cost_runs"]) == (pytest.approx(of_agent / runs), runs)
    asked = poor.get(f"/approvals/{poor.wait_for_event(following, 'approval')['data']['id']}")
    assert f"about ${of_agent / runs:.4f} a run, from {runs}" in asked["preview"]
    assert decide(poor, asked, "deny") == 200


def test_a_person_who_says_stop_ends_the_task(poor: StackProcess, shop: Path) -> None:
    task_id, approval = stopped(poor, shop)
    assert decide(poor, approval, "deny", reason="Enough.") == 200
    task = poor.wait_for_end(task_id)
    assert (task["status"], task["reason"]) == ("failed", "over_budget")
    assert "Enough." in task["message"]
    assert task["cost_usd"] < 0.008


def chat(stack: StackProcess, text: str, **more: Any) -> httpx2.Response:
    assert stack.facts is not None
    url = f"{stack.facts['urls']['gateway']}/agents/cicd/v1/chat/completions"
    headers = {"Authorization": f"Bearer {(stack.data_dir / 'token').read_text()}"}
    body = {"model": "cicd", "messages": [{"role": "user", "content": text}], **more}
    return httpx2.post(url, json=body, headers=headers, trust_env=False, timeout=30)


def costs_of(stack: StackProcess, session: str) -> dict[str, Any]:
    lines = {line["key"]: line for line in stack.get("/costs?by=task")["lines"]}
    return lines[session]


@pytest.mark.parametrize("more", [{}, {"stream": True}], ids=["whole", "streamed"])
def test_a_conversation_is_paid_from_the_budgets_and_stands_in_the_ledger(
    poor: StackProcess, endpoint: FakeOpenAI, more: dict[str, Any]
) -> None:
    answer = chat(poor, "CHAT: what do you do?", **more)
    assert answer.status_code == 200, answer.text
    line = costs_of(poor, answer.headers["dev-tools-session"])
    assert line["calls"] == 1
    assert line["cost_usd"] > 0
    account = f"task:{answer.headers['dev-tools-session']}"
    (kept,) = [budget for budget in poor.get("/budgets") if budget["key"] == account]
    assert kept["spent_usd"] == pytest.approx(line["cost_usd"])
    assert kept["held_usd"] == 0

    before = len(endpoint.chats)
    refused = chat(poor, "CHAT: " + "word " * 12_000, **more)
    assert "over_budget" in refused.text
    assert (refused.status_code, "[DONE]" in refused.text) == (200 if more else 402, False)
    assert len(endpoint.chats) == before, "nothing was asked"
