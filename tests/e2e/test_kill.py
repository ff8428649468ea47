"""`kill -9` of the stack and everything it started, at points all along a task; `up` again must finish it."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from devtools_platform.app.demo import FILES
from stacks import StackProcess, clean_env, git, make_repo, running_stack

TASK = "Fix the failing test: an order of exactly 100 must get the discount."

#: The event after which everything is killed, and from which agent (None: from any).
POINTS = [
    ("workspace", None),  # the clone is made, nothing is tested yet
    ("tool_call", "feature-dev"),  # in the middle of the agent's run
    ("reported", None),  # the change is made, not judged
    ("review", None),  # judged, not committed
    ("commit", None),  # published, not finished
]


@pytest.fixture(scope="module")
def mortal(tmp_path_factory: pytest.TempPathFactory, endpoint_env: dict[str, str]) -> Iterator[StackProcess]:
    with running_stack(tmp_path_factory.mktemp("mortal") / "data", clean_env(**endpoint_env)) as stack:
        yield stack


@pytest.mark.parametrize(("kind", "agent"), POINTS, ids=[kind for kind, _ in POINTS])
def test_a_task_killed_anywhere_is_finished_by_the_next_up(
    mortal: StackProcess, tmp_path: Path, kind: str, agent: str | None
) -> None:
    repo = make_repo(tmp_path / "shop", FILES)
    created = mortal.create_task(TASK, repo)
    kill_at(mortal, created["id"], kind, agent)

    mortal.start()
    task = mortal.wait_for_end(created["id"])

    assert task["status"] == "completed", task
    assert git(repo, "branch", "--list", "task/*").split() == [task["branch"]]
    assert git(repo, "rev-list", "--count", f"main..{task['branch']}") == "1"
    assert git(repo, "diff", "--name-only", "main", task["branch"]) == "shop/prices.py"
    keys = [(event["kind"], str(event["data"])) for event in mortal.get(f"/tasks/{created['id']}/events")]
    assert sum(kind == "commit" for kind, _ in keys) == 1
    assert sum(kind == "finished" for kind, _ in keys) == 1


def kill_at(stack: StackProcess, task_id: str, kind: str, agent: str | None) -> dict[str, Any]:
    for event in stack.follow(task_id):
        if event["kind"] == kind and agent in {None, event["agent"]}:
            stack.kill_everything()
            return event
    raise AssertionError(f"the task ended without an event {kind!r}")


@pytest.mark.parametrize(
    ("kind", "agent"), [("tool_call", "infrastructure"), ("reported", None)], ids=["work", "merge"]
)
def test_steps_that_run_at_once_are_neither_lost_nor_done_twice_by_a_kill(
    mortal: StackProcess, tmp_path: Path, kind: str, agent: str | None
) -> None:
    repo = make_repo(tmp_path / "shop", FILES)
    created = mortal.create_task("Please do what follows, KILLED TOGETHER.", repo)
    kill_at(mortal, created["id"], kind, agent)

    mortal.start()
    task = mortal.wait_for_end(created["id"])

    assert task["status"] == "completed", task
    for path, line in (("shop/__init__.py", "# packed"), ("README.md", "Documented.")):
        assert git(repo, "show", f"{task['branch']}:{path}").splitlines().count(line) == 1
    assert "total >= DISCOUNT_FROM" in git(repo, "show", f"{task['branch']}:shop/prices.py")
    runs = [(run["agent"], run["status"]) for run in mortal.get(f"/tasks/{created['id']}/runs")]
    agents = ["code-review", "documentation", "feature-dev", "infrastructure", "orchestrator"]
    assert sorted(runs) == [(name, "completed") for name in agents]
    events = mortal.get(f"/tasks/{created['id']}/events")
    steps = [event["data"]["step"] for event in events if event["kind"] == "reported"]
    assert sorted(steps) == ["1", "2", "3"]
    assert not list((mortal.data_dir / "workspaces").glob(f"{created['id']}--*")), "the clones of the steps are gone"


def test_a_task_interrupted_by_ctrl_c_goes_on_with_the_next_up(mortal: StackProcess, tmp_path: Path) -> None:
    repo = make_repo(tmp_path / "shop", FILES)
    created = mortal.create_task(TASK, repo)
    for event in mortal.follow(created["id"]):
        if event["kind"] == "delegated":
            break

    assert mortal.stop() == 0
    mortal.start()
    task = mortal.wait_for_end(created["id"])

    assert task["status"] == "completed", task
    assert git(repo, "rev-list", "--count", f"main..{task['branch']}") == "1"
