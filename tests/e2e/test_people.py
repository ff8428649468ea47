"""People in the middle of a task: they are asked, they talk, pause, deny, try again from a step, fork."""

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import psycopg
import pytest

from devtools_platform.app.demo import FILES
from e2e.scenarios import LONG_S
from fakes.openai_server import FakeOpenAI, Fault
from processes import is_of
from stacks import StackProcess, clean_env, git, make_repo, running_stack, wait_until

TASK = "Fix the failing test, but ask me first."
PLAIN = "Fix the failing test: an order of exactly 100 must get the discount."
ENDED_WITHIN_S = 10
"""Workers look each second for what was cancelled; a command's own limit is 20 s here, a model's 120."""
HEARD_WITHIN_S = 30
"""It is looked for a second or two after the new connection, which itself takes one; without that, minutes later."""
RULES = "rules:\n- {name: commands, kind: tool, tools: [workspace_run_command], min_risk: low}\n"


@pytest.fixture(scope="module")
def asking(tmp_path_factory: pytest.TempPathFactory, endpoint_env: dict[str, str]) -> Iterator[StackProcess]:
    """A stack whose agents ask before they run a command."""
    folder = tmp_path_factory.mktemp("asking")
    (folder / "rules.yaml").write_text(RULES)
    env = clean_env(**endpoint_env, DEV_TOOLS_APPROVAL_RULES=str(folder / "rules.yaml"))
    with running_stack(folder / "data", env) as stack:
        yield stack


def asked(stack: StackProcess, repo: Path, text: str = TASK, **more: Any) -> tuple[str, dict[str, Any]]:
    """A task that waits, and the approval it waits for."""
    task_id = stack.create_task(text, repo, **more)["id"]
    event = stack.wait_for_event(task_id, "approval")
    return task_id, stack.get(f"/approvals/{event['data']['id']}")


def decide(stack: StackProcess, approval: dict[str, Any], decision: str, **more: Any) -> dict[str, Any]:
    response = stack.post(f"/approvals/{approval['id']}/decision", {"decision": decision, **more})
    assert response.status_code == 200, response.text
    return response.json()


def kinds(stack: StackProcess, task_id: str) -> list[str]:
    return [event["kind"] for event in stack.get(f"/tasks/{task_id}/events")]


def test_an_approved_call_runs_once_with_the_arguments_a_person_put_in(asking: StackProcess, shop: Path) -> None:
    task_id, approval = asked(asking, shop)
    assert asking.get(f"/tasks/{task_id}")["status"] == "input_required"
    assert approval["arguments"]["command"][0] == "python3"
    edited = {"command": ["python3", "-c", "open('edited.txt', 'a').write('once\\n')"]}
    decide(asking, approval, "approve", arguments=edited)

    task = asking.wait_for_end(task_id)
    assert task["status"] == "completed", task
    assert git(shop, "show", f"{task['branch']}:edited.txt") == "once"
    assert "asked.txt" not in git(shop, "ls-tree", "--name-only", task["branch"])
    runs = asking.get(f"/tasks/{task_id}/runs")
    assert [(run["agent"], run["n"], run["status"]) for run in runs] == [
        ("feature-dev", 1, "suspended"),
        ("feature-dev", 2, "completed"),
        ("code-review", 1, "completed"),
    ]
    late = asking.post(f"/approvals/{approval['id']}/decision", {"decision": "deny"})
    assert (late.status_code, late.json()["code"]) == (409, "too_late")


def test_a_denied_call_is_not_made_and_the_agent_is_told_why(
    asking: StackProcess, shop: Path, endpoint: FakeOpenAI
) -> None:
    task_id, approval = asked(asking, shop)
    decide(asking, approval, "deny", reason="No commands, please.")

    task = asking.wait_for_end(task_id)
    assert task["status"] == "completed", task
    assert "asked.txt" not in git(shop, "ls-tree", "--name-only", task["branch"])
    assert any("No commands, please." in str(chat.body) for chat in endpoint.chats)


def long_commands() -> list[psutil.Process]:
    return [process for process in psutil.process_iter() if is_of(process, f"time.sleep({LONG_S})")]


def test_a_cancelled_task_ends_its_command_at_once(stack: StackProcess, shop: Path) -> None:
    task_id = stack.create_task("Fix the failing test, which takes long.", shop)["id"]
    wait_until(lambda: long_commands() != [], "the command at work")
    began = time.monotonic()
    assert stack.post(f"/tasks/{task_id}/cancel").status_code == 200
    wait_until(lambda: long_commands() == [], "the end of the command")
    assert time.monotonic() - began < ENDED_WITHIN_S
    assert stack.get(f"/tasks/{task_id}")["status"] == "cancelled"

    assert stack.post(f"/tasks/{task_id}/retry").status_code == 200, "at once: what was stopped is not in its way"
    began_file = stack.data_dir / "workspaces" / task_id / "began.txt"
    wait_until(lambda: long_commands() != [] and began_file.exists() and began_file.read_text() != "", "it, once more")
    assert began_file.read_text() == "x", "in a workspace as it was before"
    assert stack.post(f"/tasks/{task_id}/cancel").status_code == 200


def test_a_cancelled_task_hangs_up_on_its_model(stack: StackProcess, shop: Path, endpoint: FakeOpenAI) -> None:
    calls, before = len(endpoint.chats), endpoint.hung_up
    endpoint.inject(Fault(kind="hang"))
    task_id = stack.create_task(PLAIN, shop)["id"]
    wait_until(lambda: any(chat.fault == "hang" for chat in endpoint.chats[calls:]), "a call that is not answered")
    began = time.monotonic()
    assert stack.post(f"/tasks/{task_id}/cancel").status_code == 200
    wait_until(lambda: endpoint.hung_up > before, "a caller that hangs up")
    assert time.monotonic() - began < ENDED_WITHIN_S


def test_what_a_person_says_reaches_the_agent_at_work(asking: StackProcess, shop: Path, endpoint: FakeOpenAI) -> None:
    task_id, approval = asked(asking, shop)
    said = asking.post(f"/tasks/{task_id}/messages", {"text": "Mind the refunds too."}, **{"Dev-Tools-Actor": "ann"})
    assert said.status_code == 201
    decide(asking, approval, "approve")

    assert asking.wait_for_end(task_id)["status"] == "completed"
    assert any("Mind the refunds too." in str(chat.body) for chat in endpoint.chats)


def test_a_paused_task_makes_no_call_and_goes_on_after_a_restart(asking: StackProcess, shop: Path) -> None:
    task_id, approval = asked(asking, shop)
    assert asking.post(f"/tasks/{task_id}/pause").json()["status"] == "input_required"
    decide(asking, approval, "approve")
    paused = asking.wait_for_event(task_id, "paused")
    assert asking.get(f"/tasks/{task_id}")["status"] == "paused"
    wrong = asking.post(f"/tasks/{task_id}/pause")
    assert (wrong.status_code, "paused already" in wrong.json()["message"]) == (409, True)

    asking.kill_everything()
    asking.start()
    assert asking.get(f"/tasks/{task_id}")["status"] == "paused"
    assert asking.post(f"/tasks/{task_id}/resume").status_code == 200
    task = asking.wait_for_end(task_id, after=paused["seq"])
    assert task["status"] == "completed", task
    assert git(shop, "show", f"{task['branch']}:asked.txt") == "once"


def test_an_approval_survives_kill_9_and_a_new_version(asking: StackProcess, shop: Path) -> None:
    task_id, approval = asked(asking, shop)
    asking.kill_everything()
    asking.env = {**asking.env, "DEV_TOOLS_MAX_AGENT_TURNS": "39", "DEV_TOOLS_CONCURRENT_TASKS": "3"}
    asking.start()
    decide(asking, approval, "approve")

    task = asking.wait_for_end(task_id)
    assert task["status"] == "completed", task
    assert git(shop, "show", f"{task['branch']}:asked.txt") == "once"
    assert kinds(asking, task_id).count("approval") == 1


def test_a_denied_plan_ends_the_task_before_anything_is_changed(asking: StackProcess, shop: Path) -> None:
    task_id, approval = asked(asking, shop, PLAIN, ask_before=["plan"])
    assert (approval["kind"], "feature-dev" in approval["preview"]) == ("plan", True)
    decide(asking, approval, "deny", reason="Not now.")

    task = asking.wait_for_end(task_id)
    assert (task["status"], task["reason"]) == ("failed", "denied")
    assert "Not now." in task["message"]
    assert "delegated" not in kinds(asking, task_id)


def test_a_denied_change_is_reviewed_again_from_a_step_and_published(asking: StackProcess, shop: Path) -> None:
    task_id, approval = asked(asking, shop, PLAIN, ask_before=["publish"])
    assert "DISCOUNT_FROM" in approval["preview"]
    decide(asking, approval, "deny")
    assert asking.wait_for_end(task_id)["reason"] == "denied"
    seen = asking.get(f"/tasks/{task_id}/events")[-1]["seq"]

    again = asking.post(f"/tasks/{task_id}/retry")
    assert (again.status_code, again.json()["attempt"]) == (200, 2), again.text
    second = asking.wait_for_event(task_id, "approval", after=seen)
    assert second["data"]["id"] != approval["id"]
    decide(asking, second["data"], "approve")
    task = asking.wait_for_end(task_id, after=second["seq"])

    assert (task["status"], task["branch"]) == ("completed", f"task/{task_id}.2")
    assert "total >= DISCOUNT_FROM" in git(shop, "show", f"{task['branch']}:shop/prices.py")
    agents = [run["agent"] for run in asking.get(f"/tasks/{task_id}/runs")]
    assert agents == ["feature-dev", "code-review", "code-review"], "what came before the step is not done again"


def test_a_fork_does_the_work_anew_from_its_step_and_leaves_the_first_task_alone(
    asking: StackProcess, shop: Path
) -> None:
    task = asking.run_task(PLAIN, shop)
    steps = asking.get(f"/tasks/{task['id']}/steps")
    first = next(step["number"] for step in steps if step["run"] == f"{task['id']}/feature-dev/1")
    key = {"Idempotency-Key": f"fork-{task['id']}"}
    forked = asking.post(f"/tasks/{task['id']}/fork", {"step": first}, **key)
    assert forked.status_code == 201, forked.text
    assert asking.post(f"/tasks/{task['id']}/fork", {"step": first}, **key).json()["id"] == forked.json()["id"]

    other = asking.wait_for_end(forked.json()["id"])
    assert (other["status"], other["forked_from"]) == ("completed", task["id"]), other
    assert other["branch"] == f"task/{other['id']}"
    assert git(shop, "diff", task["branch"], other["branch"]) == ""
    assert git(shop, "rev-list", "--count", f"main..{other['branch']}") == "1"
    assert next(run["id"] for run in asking.get(f"/tasks/{other['id']}/runs")) == f"{other['id']}/feature-dev/1"
    assert kinds(asking, other["id"])[:2] == ["queued", "workspace"]


def test_everything_people_did_stands_in_an_unbroken_audit(asking: StackProcess, tmp_path: Path) -> None:
    repo = make_repo(tmp_path / "repo", FILES)
    task_id, _ = asked(asking, repo)
    asking.post(f"/tasks/{task_id}/cancel", **{"Dev-Tools-Actor": "bob"})

    deeds = [(entry["actor"], entry["action"]) for entry in asking.get(f"/audit?subject=task:{task_id}")]
    assert deeds == [("bob", "task.cancel"), ("token", "task.create")]
    assert asking.get("/audit/verification")["broken_at"] is None
    assert asking.get(f"/approvals?task_id={task_id}")[0]["status"] == "cancelled"


def test_a_decision_nobody_was_told_of_is_found_in_seconds(asking: StackProcess, shop: Path) -> None:
    """PostgreSQL says it on one connection; where that is lost, the worker hears nothing until it has made another."""
    task_id, approval = asked(asking, shop)
    url = (asking.data_dir / "database_url").read_text().strip().replace("postgresql+psycopg://", "postgresql://")
    with psycopg.connect(url, autocommit=True) as database:
        lost = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE query LIKE 'LISTEN dbos%'"
        assert database.execute(lost).fetchall()
    decided_at = time.monotonic()
    decide(asking, approval, "approve")
    asking.wait_for_event(task_id, "tool_call", after=approval_event(asking, task_id))
    assert time.monotonic() - decided_at < HEARD_WITHIN_S
    assert asking.wait_for_end(task_id)["status"] == "completed"


def approval_event(stack: StackProcess, task_id: str) -> int:
    return next(event["seq"] for event in stack.get(f"/tasks/{task_id}/events") if event["kind"] == "approval")
