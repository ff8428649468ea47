"""Workers that die, freeze and lose their database in the middle of six-agent tasks: nothing lost, nothing done twice.

Real processes and real kills. Effects are counted outside our database: each agent appends a line to a file, and the
file's lines in the branch that the person gets say how often it did. `CHAOS_KILLS` sets how often a worker is killed
(20 here, 100 in `make chaos`).
"""

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil
import pytest

from devtools_platform.app.demo import FILES
from stacks import FINAL, StackProcess, clean_env, git, make_repo, running_stack

pytestmark = [pytest.mark.timeout(3600), pytest.mark.alone]

KILLS = int(os.environ.get("CHAOS_KILLS", "20"))
TASK = "SIX AGENTS: everybody does a share."
SHARES = ["cicd", "feature-dev", "infrastructure"]
TAKE_OVER_S = 15


@dataclass
class Crew:
    """Two worker processes of a stack that does not work itself."""

    stack: StackProcess
    members: list[subprocess.Popen[str]] = field(default_factory=list[subprocess.Popen[str]])

    def add(self) -> subprocess.Popen[str]:
        command = [
            sys.executable,
            "-m",
            "devtools_platform",
            "worker",
            "--json",
            "--data-dir",
            str(self.stack.data_dir),
        ]
        env = {**self.stack.env, "DEV_TOOLS_QUEUES": '["tasks", "agents"]'}
        log = (self.stack.data_dir.parent / "workers.stderr").open("a")
        member = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=log, text=True, env=env)
        log.close()
        self.members.append(member)
        return member

    def wait_until_ready(self, member: subprocess.Popen[str]) -> str:
        """The worker's id, once it works."""
        assert member.stdout is not None
        line = member.stdout.readline()
        assert line, (self.stack.data_dir.parent / "workers.stderr").read_text()[-3000:]
        return json.loads(line)["worker"]

    def kill(self, member: subprocess.Popen[str]) -> None:
        member.kill()
        member.wait()
        assert member.stdout is not None
        member.stdout.close()
        self.members.remove(member)


@pytest.fixture(scope="module")
def crew(tmp_path_factory: pytest.TempPathFactory, endpoint_env: dict[str, str]) -> Iterator[Crew]:
    env = clean_env(**endpoint_env, DEV_TOOLS_QUEUES="[]", DEV_TOOLS_CONCURRENT_TASKS="4")
    with running_stack(tmp_path_factory.mktemp("chaos") / "data", env) as stack:
        crew = Crew(stack)
        for member in [crew.add(), crew.add()]:
            crew.wait_until_ready(member)
        yield crew
        for member in list(crew.members):
            crew.kill(member)


def new_task(crew: Crew, folder: Path) -> tuple[str, Path]:
    repo = make_repo(folder, FILES)
    return crew.stack.create_task(TASK, repo)["id"], repo


def open_tasks(crew: Crew, tasks: dict[str, Path]) -> list[str]:
    listed = crew.stack.get("/tasks?limit=500")["items"]
    return [task["id"] for task in listed if task["id"] in tasks and task["status"] not in FINAL]


def assert_done_once(crew: Crew, task_id: str, repo: Path) -> None:
    task = crew.stack.wait_for_end(task_id)
    assert task["status"] == "completed", (task["reason"], task["message"])
    effects = git(repo, "show", f"{task['branch']}:effects.log").split()
    assert sorted(effects) == SHARES, "each effect exactly once"
    assert git(repo, "show", f"{task['branch']}:README.md").count("Documented.") == 1
    assert git(repo, "rev-list", "--count", f"main..{task['branch']}") == "1"
    kinds = [event["kind"] for event in crew.stack.get(f"/tasks/{task_id}/events")]
    assert (kinds.count("finished"), kinds.count("commit"), kinds.count("reported")) == (1, 1, 4)


def test_a_dead_worker_s_work_is_taken_over_within_seconds(crew: Crew, tmp_path: Path) -> None:
    task_id, repo = new_task(crew, tmp_path / "repo")
    crew.stack.wait_for_event(task_id, "tests")
    holders = {worker["pid"] for worker in crew.stack.get("/workers") if task_id in worker["holds"]}
    (victim,) = [member for member in crew.members if member.pid in holders]
    seen = crew.stack.get(f"/tasks/{task_id}/events")[-1]["seq"]

    killed_at = time.monotonic()
    crew.kill(victim)
    next(event for event in crew.stack.follow(task_id, after=seen) if event["agent"] == "orchestrator")
    took = time.monotonic() - killed_at
    assert took < TAKE_OVER_S, took
    assert_done_once(crew, task_id, repo)
    crew.wait_until_ready(crew.add())


def test_a_frozen_worker_that_comes_back_doubles_nothing(crew: Crew, tmp_path: Path) -> None:
    task_id, repo = new_task(crew, tmp_path / "repo")
    crew.stack.wait_for_event(task_id, "delegated")
    holders = {worker["pid"] for worker in crew.stack.get("/workers") if worker["holds"]}
    frozen = next(member for member in crew.members if member.pid in holders)
    frozen.send_signal(signal.SIGSTOP)
    try:
        assert crew.stack.wait_for_end(task_id)["status"] == "completed"
    finally:
        frozen.send_signal(signal.SIGCONT)
    other_id, other = new_task(crew, tmp_path / "other")
    assert_done_once(crew, task_id, repo)
    assert_done_once(crew, other_id, other)


def test_the_database_dies_in_the_middle_and_every_task_ends(crew: Crew, tmp_path: Path) -> None:
    tasks = dict(new_task(crew, tmp_path / f"repo{n}") for n in range(2))
    crew.stack.wait_for_event(next(iter(tasks)), "delegated")
    assert crew.stack.process is not None
    family = psutil.Process(crew.stack.process.pid).children()
    (postmaster,) = [child for child in family if child.name() == "postgres"]
    postmaster.kill()

    deadline = time.monotonic() + 90
    while open_or_away(crew, tasks):
        assert time.monotonic() < deadline, "the tasks never ended"
    for task_id, repo in tasks.items():
        assert_done_once(crew, task_id, repo)


def open_or_away(crew: Crew, tasks: dict[str, Path]) -> bool:
    """Whether a task is open, or nobody can say: while the database is away, the answer is 503 and never 500."""
    with crew.stack.http as http:
        response = http.get("/tasks?limit=500")
        health = http.get("/health")
    assert response.status_code in {200, 503}, response.text
    if response.status_code == 503:
        assert response.headers["Retry-After"]
        return True
    assert health.status_code in {200, 503}
    items: list[dict[str, Any]] = response.json()["items"]
    return any(task["id"] in tasks and task["status"] not in FINAL for task in items)


def test_workers_killed_at_random_lose_and_double_nothing(crew: Crew, tmp_path: Path) -> None:
    rng = random.Random(20261125)
    tasks: dict[str, Path] = {}
    killed = 0
    while killed < KILLS:
        while len(open_tasks(crew, tasks)) < 2:
            task_id, repo = new_task(crew, tmp_path / f"repo{len(tasks)}")
            tasks[task_id] = repo
        _wait_for_activity(crew, rng)
        crew.kill(rng.choice(crew.members))
        killed += 1
        crew.wait_until_ready(crew.add())
    for task_id, repo in tasks.items():
        assert_done_once(crew, task_id, repo)
    print(f"\n{killed} kills over {len(tasks)} six-agent tasks: 0 lost, 0 doubled")  # noqa: T201 - the figure itself


def _wait_for_activity(crew: Crew, rng: random.Random) -> None:
    """Until a random number of further events of a running task, so that kills fall anywhere in it."""
    running = [task for task in crew.stack.get("/tasks?limit=20")["items"] if task["status"] not in FINAL]
    if not running:
        return
    task_id = rng.choice(running)["id"]
    seen = len(crew.stack.get(f"/tasks/{task_id}/events"))
    for number, _ in enumerate(crew.stack.follow(task_id, after=seen)):
        if number >= rng.randrange(6):
            return
