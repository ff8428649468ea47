"""Every error of docs/reference/errors.md is met, here or where the table says, with the codes that it promises."""

import json
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from subprocess import CompletedProcess

import httpx2
import pytest

from stacks import StackProcess, run_cli

TESTS = Path(__file__).parents[1]
PAGE = TESTS.parent / "docs" / "reference" / "errors.md"
ROWS = re.findall(r"^\| `(\w+)` \| (\d+) \| (\d+) \|", PAGE.read_text(), re.MULTILINE)
PROMISED = {code: (int(status), int(exit_code)) for code, status, exit_code in ROWS}
TASK = "Fix the failing test: an order of exactly 100 must get the discount."


def ended(stack: StackProcess, repo: Path) -> str:
    return stack.run_task(TASK, repo)["id"]


def decided(stack: StackProcess, repo: Path) -> str:
    """An approval that was denied."""
    task = stack.create_task(TASK, repo, ask_before=["publish"])["id"]
    approval = stack.wait_for_event(task, "approval")["data"]["id"]
    assert stack.post(f"/approvals/{approval}/decision", {"decision": "deny"}).status_code == 200
    return approval


def narrow(stack: StackProcess) -> str:
    """A token for tools."""
    done = command(stack.data_dir, "token", "create", "narrow", "--scope", "tools:memory_*", env=stack.env)
    return json.loads(done.stdout)["token"]


def reuse_a_key(stack: StackProcess, repo: Path) -> httpx2.Response:
    key = {"Idempotency-Key": "said-once"}
    assert stack.post("/tasks", {"text": TASK, "repo": str(repo)}, **key).status_code == 201
    return stack.post("/tasks", {"text": "Something else.", "repo": str(repo)}, **key)


def send(stack: StackProcess, service: str, path: str, body: bytes, token: str = "") -> httpx2.Response:
    assert stack.facts is not None
    token = token or (stack.data_dir / "token").read_text().strip()
    headers = {"Authorization": f"Bearer {token}", "Content-Type": "application/json"}
    url = stack.facts["urls"][service] + path
    return httpx2.post(url, content=body, headers=headers, trust_env=False, timeout=30)


def command(data_dir: Path, *arguments: str, env: Mapping[str, str]) -> CompletedProcess[str]:
    place = [] if arguments[0] == "review" else ["--data-dir", str(data_dir)]
    return run_cli(*arguments, "--json", *place, env=env)


COMMANDS: dict[str, Callable[[StackProcess, Path], list[str]]] = {
    "bad_input": lambda _, repo: ["task", "run", " ", "--repo", str(repo)],
    "not_a_repository": lambda _, repo: ["task", "run", TASK, "--repo", str(repo.parent)],
    "unknown_agent": lambda _, repo: ["task", "run", TASK, "--repo", str(repo), "--agent", "wizard"],
    "not_found": lambda *_: ["task", "show", "nosuchtask"],
    "conflict": lambda stack, repo: ["task", "cancel", ended(stack, repo)],
    "too_late": lambda stack, repo: ["task", "approve", decided(stack, repo)],
    "already_running": lambda *_: ["up", "--free-ports"],
    "not_running": lambda *_: ["task", "list"],
    "program_failed": lambda _, repo: ["review", "--repo", str(repo)],
}
REQUESTS: dict[str, Callable[[StackProcess, Path], httpx2.Response]] = {
    "too_large": lambda stack, _: send(stack, "gateway", "/tools/memory/search_nodes", b" " * 5_000_000),
    "key_reused": reuse_a_key,
    "unauthorized": lambda stack, _: send(stack, "state", "/tasks", b"{}", token="not-a-token"),
    "forbidden": lambda stack, _: send(stack, "gateway", "/tokens", b"{}", token=narrow(stack)),
}
ELSEWHERE = {
    "no_model": "e2e/test_without_model.py::test_a_conversation_without_a_model_names_the_setting_too",
    "no_sandbox": "e2e/test_bad_input.py::test_no_sandbox_is_a_refusal_unless_it_is_waived",
    "port_in_use": "e2e/test_bad_input.py::test_a_port_in_use_is_named_with_the_setting_that_moves_it",
    "disk_full": "e2e/test_bad_input.py::test_too_little_disk_is_said_before_anything_is_stored",
    "model_refused": "e2e/test_bad_input.py::test_a_model_that_cannot_serve_ends_the_task_with_the_way_out",
    "over_budget": "e2e/test_budgets.py::test_a_conversation_is_paid_from_the_budgets_and_stands_in_the_ledger",
    "tool_failed": "gateway/test_front.py::test_rest_lists_searches_calls_and_tells_the_state",
    "unavailable": "state/test_service.py::test_a_database_that_is_away_is_said_and_not_a_crash",
}


@pytest.mark.parametrize("code", COMMANDS)
def test_a_command_ends_with_the_promised_exit_code_and_a_way_out(stack: StackProcess, shop: Path, code: str) -> None:
    data_dir = shop.parent / "nothing" if code == "not_running" else stack.data_dir
    without_git = {"PATH": str(shop.parent)} if code == "program_failed" else {}
    done = command(data_dir, *COMMANDS[code](stack, shop), env={**stack.env, **without_git})
    printed = json.loads(done.stdout)["error"]
    assert (printed["code"], done.returncode) == (code, PROMISED[code][1]), printed
    assert printed["hint"]


@pytest.mark.parametrize("code", REQUESTS)
def test_a_request_is_answered_with_the_promised_status_and_a_way_out(
    stack: StackProcess, shop: Path, code: str
) -> None:
    answer = REQUESTS[code](stack, shop)
    said = answer.json()
    assert (said["code"], answer.status_code) == (code, PROMISED[code][0]), said
    assert said["hint"]


def test_every_error_of_the_page_is_met() -> None:
    assert {*COMMANDS, *REQUESTS, *ELSEWHERE} == set(PROMISED)
    for place in ELSEWHERE.values():
        file, _, name = place.partition("::")
        assert f"def {name}" in (TESTS / file).read_text(), place
