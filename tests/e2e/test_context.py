"""`dev-tools context`, as typed, against a running stack, and what one task leaves for the next."""

import json
import time
from pathlib import Path
from typing import Any

import pytest

from devtools_platform.app.demo import TASK
from devtools_platform.context.names import name_collection, name_memory
from stacks import StackProcess, clean_env, git, run_cli

pytestmark = pytest.mark.timeout(120)


def cli(stack: StackProcess, *arguments: str, exit_code: int = 0) -> Any:
    done = run_cli("context", *arguments, "--json", "--data-dir", str(stack.data_dir), env=stack.env)
    assert done.returncode == exit_code, done.stderr + done.stdout
    return json.loads(done.stdout)


def test_a_repository_is_indexed_found_in_and_forgotten(stack: StackProcess, shop: Path) -> None:
    early = cli(stack, "search", "order total", "--repo", str(shop), exit_code=3)
    assert "context index" in early["error"]["hint"]

    status = cli(stack, "index", str(shop))
    assert (status["commit"], status["is_indexing"], status["error"]) == (git(shop, "rev-parse", "HEAD"), False, None)
    found = cli(stack, "search", "order total", "--repo", str(shop), "--limit", "2")
    assert found[0]["path"] == "shop/prices.py"
    assert [hit["name"] for hit in cli(stack, "symbol", "order_total", "--repo", str(shop))] == ["order_total"]
    assert status["collection"] in [one["collection"] for one in cli(stack, "status")]
    shown = run_cli(
        "context", "search", "order total", "--repo", str(shop), "--data-dir", str(stack.data_dir), env=stack.env
    )
    assert "shop/prices.py:" in shown.stdout

    cli(stack, "forget", status["collection"])
    assert cli(stack, "status", status["collection"], exit_code=3)["error"]["code"] == "not_found"
    nothing = cli(stack, "index", str(shop.parent), exit_code=2)
    assert nothing["error"]["code"] == "not_a_repository"


def test_documents_are_added_listed_and_forgotten(stack: StackProcess, tmp_path: Path) -> None:
    (tmp_path / "ops.md").write_text("# Restart\n\nRestart quagga by hand.\n")
    assert cli(stack, "add", "wiki", str(tmp_path / "ops.md"))["files"] == 1
    (hit,) = cli(stack, "search", "quagga", "--collection", "wiki")
    assert (hit["path"], hit["source"]["file"]) == ("ops.md", str(tmp_path / "ops.md"))
    assert [one["title"] for one in cli(stack, "documents", "wiki")] == ["Restart"]
    assert cli(stack, "add", "wiki", str(tmp_path), exit_code=2)["error"]["code"] == "bad_input"
    cli(stack, "forget", "wiki", "ops.md")
    assert cli(stack, "documents", "wiki") == []


def test_a_later_task_is_told_what_an_earlier_one_came_to_until_it_is_forgotten(
    stack: StackProcess, shop: Path
) -> None:
    first = stack.run_task(TASK, shop)
    memory = name_memory(name_collection(shop))
    deadline = time.monotonic() + 20
    while memory not in [one["collection"] for one in cli(stack, "status")]:
        assert time.monotonic() < deadline, "the first task was never learnt"

    second = stack.run_task(TASK, shop)
    (told,) = remembered(stack, second["id"], memory)
    assert [document["id"].partition(":")[0] for document in told] == [f"tasks/{first['id']}.md"]

    cli(stack, "forget", memory, f"tasks/{first['id']}.md")
    third = stack.run_task(TASK, shop)
    assert first["id"] not in json.dumps(remembered(stack, third["id"], memory))


def remembered(stack: StackProcess, task: str, memory: str) -> list[list[dict[str, Any]]]:
    """What feature-dev was given from memory, by its trace."""
    deadline = time.monotonic() + 10
    spans: list[dict[str, Any]] = []
    while "task" not in [span["name"] for span in spans]:
        assert time.monotonic() < deadline
        spans = stack.get(f"/tasks/{task}/trace")
    of_memory = [s for s in spans if s["name"] == f"retrieval {memory}" and s["agent"] == "feature-dev"]
    return [json.loads(span["attributes"]["gen_ai.retrieval.documents"]) for span in of_memory]


def test_the_measure_on_a_history_needs_no_stack(tmp_path: Path, shop: Path) -> None:
    (shop / "shop/prices.py").write_text((shop / "shop/prices.py").read_text() + "\n# more\n")
    git(shop, "-c", "user.name=T", "-c", "user.email=t@example.com", "commit", "-qam", "Say more about the order total")
    done = run_cli("context", "bench", str(shop), "--json", env=clean_env())
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["acc@5"] == 1.0
