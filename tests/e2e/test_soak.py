"""Hours in minutes: tasks, approvals, tool calls and indexing at once on the embedded stack, with kills at random.

The stack's own process is never killed: it is the one whose memory and descriptors must not grow. Killed are workers,
the database and the index engine. `SOAK_MINUTES` says how long (120 in `make soak`, 10 in CI).
"""

import os
import random
import statistics
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx2
import psutil
import pytest

from devtools_platform.app.demo import FILES
from e2e.test_chaos import SHARES, Crew
from processes import is_of, kill_now, names_of
from stacks import FINAL, clean_env, git, make_repo, running_stack, wait_until

MINUTES = float(os.environ.get("SOAK_MINUTES", "2"))
pytestmark = [pytest.mark.timeout(MINUTES * 60 + 600), pytest.mark.alone]

WARM_UP = 0.25
"""The share of the time after which memory must be flat: caches are full, pools are open, code is loaded."""
MAX_GROWTH = 0.05 if MINUTES >= 10 else 0.25
"""Two minutes hardly hold the warming up: they can only tell a leak that is large."""
MAX_DESCRIPTORS = 15
"""More at the end than after warming up: a pool opens a connection when two calls meet."""
RULES = "rules:\n- {name: commands, kind: tool, tools: [workspace_run_command], min_risk: low}\n"
SIX, ASKING, PLAIN = "SIX AGENTS: everybody does a share.", "Fix the test, but ask me first.", "Start at exactly 100."
OPEN_AT_ONCE = 3


@dataclass
class Soak:
    crew: Crew
    folder: Path
    rng: random.Random
    tasks: dict[str, tuple[str, Path]] = field(default_factory=dict)
    """Id -> what was asked, and where."""
    done: set[str] = field(default_factory=set)
    kills: dict[str, int] = field(default_factory=lambda: {"worker": 0, "database": 0, "index": 0})
    calls: int = 0
    indexed: int = 0
    approvals: int = 0
    samples: list[tuple[float, int, int]] = field(default_factory=list)
    """Seconds since the start, bytes of the stack's own process in memory, its descriptors. Not the bytes that no other
    process has: half of them are shared for as long as a child is being started."""

    def send(self, method: str, service: str, path: str, **more: Any) -> httpx2.Response:
        """Until it is answered: 503 is what a part says that is being started again."""
        facts = self.crew.stack.facts
        assert facts is not None
        deadline = time.monotonic() + 60
        with self.crew.stack.http as http:
            while (answer := http.request(method, facts["urls"][service] + path, **more)).status_code == 503:
                assert time.monotonic() < deadline, answer.text
                time.sleep(0.1)
        assert answer.status_code < 300, (path, answer.status_code, answer.text)
        return answer

    def look(self) -> list[str]:
        """What is open, after those that wait were answered and those that ended were checked."""
        for id_ in [id_ for id_ in self.tasks if id_ not in self.done]:
            task = self.send("GET", "state", f"/tasks/{id_}").json()
            if task["status"] == "input_required":
                self.approve(id_)
            elif task["status"] in FINAL:
                self.check(id_, task)
        return [id_ for id_ in self.tasks if id_ not in self.done]

    def keep_busy(self) -> None:
        if len(self.look()) < OPEN_AT_ONCE:
            text = self.rng.choice([SIX, ASKING, PLAIN])
            repo = make_repo(self.folder / f"repo{len(self.tasks)}", FILES)
            body = {"text": text, "repo": str(repo)}
            self.tasks[self.send("POST", "state", "/tasks", json=body).json()["id"]] = (text, repo)

    def approve(self, id_: str) -> None:
        waiting = self.send("GET", "state", "/approvals", params={"status": "pending", "task_id": id_})
        for one in waiting.json():
            self.send("POST", "state", f"/approvals/{one['id']}/decision", json={"decision": "approve"})
            self.approvals += 1

    def check(self, id_: str, task: dict[str, Any]) -> None:
        """Ended well, each effect once."""
        text, repo = self.tasks[id_]
        assert task["status"] == "completed", (text, task["reason"], task["message"])
        assert git(repo, "rev-list", "--count", f"main..{task['branch']}") == "1"
        if text == SIX:
            assert sorted(git(repo, "show", f"{task['branch']}:effects.log").split()) == SHARES
        if text == ASKING:
            assert git(repo, "show", f"{task['branch']}:asked.txt") == "once"
        self.done.add(id_)

    def call_tools(self) -> None:
        for q in ("discount", "price of an order"):
            self.send("GET", "gateway", "/tools/search", params={"q": q})
            self.calls += 1

    def index(self) -> None:
        repo = self.folder / "indexed"
        if not repo.exists():
            make_repo(repo, FILES)
        (repo / "shop" / f"part{self.indexed % 20}.py").write_text(f"def part_{self.indexed}() -> int:\n    return 1\n")
        git(repo, "add", "-A")
        git(repo, "-c", "user.name=T", "-c", "user.email=t@example.com", "commit", "-q", "-m", "more")
        self.send("POST", "context", "/collections", json={"repo": str(repo), "follow": "commit", "watch": False})
        self.indexed += 1

    def describe(self, ids: list[str]) -> str:
        """What the stack says of tasks that do not end, and of who should work on them."""
        paths = [path for id_ in ids for path in (f"/tasks/{id_}", f"/tasks/{id_}/events", f"/tasks/{id_}/runs")]
        return "\n".join(f"{path}: {self.send('GET', 'state', path).text}" for path in (*paths, "/workers"))

    def kill(self) -> None:
        never = [kind for kind, count in self.kills.items() if count == 0]
        what = never[0] if never else self.rng.choices(["worker", "database", "index"], [6, 1, 2])[0]
        if what == "worker":
            self.crew.kill(self.rng.choice(self.crew.members))
            self.crew.wait_until_ready(self.crew.add())
        else:
            name = "postgres" if what == "database" else "edge_child"
            kill_now(child for child in self.children() if is_of(child, name))
        self.kills[what] += 1

    def children(self) -> list[psutil.Process]:
        assert self.crew.stack.process is not None
        return psutil.Process(self.crew.stack.process.pid).children()

    def sample(self, began: float) -> None:
        assert self.crew.stack.process is not None
        process = psutil.Process(self.crew.stack.process.pid)
        self.samples.append((time.monotonic() - began, process.memory_info().rss, process.num_fds()))


@pytest.fixture
def soak(tmp_path: Path, endpoint_env: dict[str, str]) -> Iterator[Soak]:
    (tmp_path / "rules.yaml").write_text(RULES)
    env = clean_env(
        **endpoint_env,
        DEV_TOOLS_QUEUES="[]",
        DEV_TOOLS_CONCURRENT_TASKS="4",
        DEV_TOOLS_APPROVAL_RULES=str(tmp_path / "rules.yaml"),
    )
    with running_stack(tmp_path / "data", env) as stack:
        crew = Crew(stack)
        for member in [crew.add(), crew.add()]:
            crew.wait_until_ready(member)
        yield Soak(crew, tmp_path, random.Random(20261129))
        for member in list(crew.members):
            crew.kill(member)


def test_nothing_is_lost_and_nothing_grows(soak: Soak) -> None:
    began, next_kill, next_word = time.monotonic(), 10.0, 60.0
    kinds = names_of(soak.children())
    while (now := time.monotonic() - began) < MINUTES * 60:
        soak.keep_busy()
        soak.call_tools()
        if soak.rng.random() < 0.2:
            soak.index()
        if now > next_kill:
            soak.kill()
            next_kill = now + soak.rng.uniform(5, 20)
        soak.sample(began)
        if now > next_word:
            done, kills = len(soak.done), sum(soak.kills.values())
            print(f"{now / 60:.0f} of {MINUTES:g} minutes: {done} tasks done, {kills} kills")  # noqa: T201 - progress
            next_word = now + 60
        time.sleep(0.5)
    deadline = time.monotonic() + 180
    while open_ := soak.look():
        assert time.monotonic() < deadline, f"these tasks were lost: {open_}\n{soak.describe(open_)}"
        time.sleep(0.2)

    assert soak.send("GET", "state", "/audit/verification").json()["broken_at"] is None
    growth, descriptors = grown(soak)
    print(report(soak, growth, descriptors))  # noqa: T201 - the figures themselves
    # A git that looks after the indexed repository comes and goes.
    wait_until(lambda: names_of(soak.children()) == kinds, "no process more than at the start")
    assert growth < MAX_GROWTH, report(soak, growth, descriptors)
    assert descriptors <= MAX_DESCRIPTORS, report(soak, growth, descriptors)
    data_dir = str(soak.crew.stack.data_dir)
    for member in list(soak.crew.members):
        soak.crew.kill(member)
    assert soak.crew.stack.stop() == 0
    left = [p.cmdline() for p in psutil.process_iter() if is_of(p, data_dir) and p.pid != os.getpid()]
    assert left == [], "no process outlives the stack"


def grown(soak: Soak) -> tuple[float, int]:
    """Memory of the last quarter over that of the quarter after warming up, and how many descriptors more."""
    whole = soak.samples[-1][0]
    early = [s for s in soak.samples if WARM_UP * whole < s[0] <= 2 * WARM_UP * whole]
    late = [s for s in soak.samples if s[0] > (1 - WARM_UP) * whole]
    memory = statistics.median(s[1] for s in late) / statistics.median(s[1] for s in early) - 1
    return memory, min(s[2] for s in late) - min(s[2] for s in early)


def report(soak: Soak, growth: float, descriptors: int) -> str:
    memory = soak.samples[-1][1] / 2**20
    eighths = [soak.samples[len(soak.samples) * i // 8 : len(soak.samples) * (i + 1) // 8] for i in range(8)]
    course = " ".join(f"{statistics.median(s[1] for s in part) / 2**20:.0f}" for part in eighths if part)
    return (
        f"\n{MINUTES:g} min: {len(soak.done)} of {len(soak.tasks)} tasks, {soak.approvals} approvals, {soak.calls} "
        f"searches of tools, {soak.indexed} index runs; killed {soak.kills}; memory {memory:.0f} MB, {growth:+.1%} "
        f"after warm-up (in eighths: {course}); descriptors {soak.samples[-1][2]}, {descriptors:+d}"
    )
