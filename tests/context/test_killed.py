"""`kill -9` at any point of indexing: what comes after reopens, finishes, and holds neither duplicates nor ghosts."""

import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path

from context.conftest import git
from devtools_platform.context.adapters.edge import EdgeEngine
from devtools_platform.context.service import ContextService

Commit = Callable[[Path, Mapping[str, str | bytes | None]], str]
PROGRAM = Path(__file__).with_name("indexing_process.py")
SOURCE = Path(__file__).parents[2] / "src"
FILES = 12
CHUNKS = 36
"""Two functions and what stands after them, of each file."""


def write(branch: str, number: int) -> str:
    name = f"{branch}_{number}"
    return f"def {name}_first():\n    return 1\n\n\ndef {name}_second():\n    return 2\n" + "# filler\n" * 40


def make_branches(repo: Path, commit: Commit) -> None:
    """Two branches that share half of their files."""
    shared: dict[str, str | bytes | None] = {f"shared/f{n}.py": write("shared", n) for n in range(FILES // 2)}
    commit(repo, shared | {f"old/f{n}.py": write("old", n) for n in range(FILES // 2)})
    git(repo, "branch", "old")
    commit(
        repo,
        {f"old/f{n}.py": None for n in range(FILES // 2)}
        | {f"new/f{n}.py": write("new", n) for n in range(FILES // 2)},
    )
    git(repo, "branch", "new")


def index(data: Path, repo: Path, die_at: int = 0) -> tuple[int, list[str]]:
    """Exit code, and the steps that were said."""
    done = subprocess.run(
        [sys.executable, str(PROGRAM), str(data), str(repo), str(die_at)],
        capture_output=True, text=True, check=False, timeout=60, env={"PYTHONPATH": str(SOURCE)},
    )  # fmt: skip
    assert done.returncode in {0, -9}, done.stderr
    return done.returncode, done.stdout.split("\n")[:-1]


async def test_indexing_killed_at_any_kind_of_step_and_then_taken_back_leaves_nothing_behind(
    tmp_path: Path, commit: Commit
):
    """Each time a switch to another branch is killed, and the branch switched back: what was stored must go again."""
    repo, data = tmp_path / "repo", tmp_path / "data"
    make_branches(repo, commit)
    git(repo, "checkout", "-q", "old")
    assert index(data, repo)[0] == 0
    git(repo, "checkout", "-q", "new")
    code, steps = index(data, repo)
    assert code == 0
    assert {step.partition(" ")[2] for step in steps} >= {"put", "delete", "save", "flush"}
    points = {steps.index(step) + 1: step for step in dict.fromkeys(steps)}
    points[steps.index("after put") + 2] = "after the first put"
    for point, step in points.items():
        await check_old(data, repo, step)
        git(repo, "checkout", "-q", "new")
        assert index(data, repo, die_at=point)[0] == -9, step
    await check_old(data, repo, "the last")
    git(repo, "checkout", "-q", "new")
    assert index(data, repo)[0] == 0
    await check(data, repo, {"shared": 1, "new": 1, "old": 0})


async def check_old(data: Path, repo: Path, step: str) -> None:
    git(repo, "checkout", "-q", "old")
    await check(data, repo, {"shared": 1, "new": 0, "old": 1}, step)


async def check(data: Path, repo: Path, expected: Mapping[str, int], step: str = "") -> None:
    """Index to the end and see that every function is there as often as it should be, and nothing else."""
    engine = EdgeEngine(data / "engine")
    service = ContextService(engine, data / "manifests")
    status = await service.index("shop", repo)
    assert (status.files, status.error) == (FILES, None)
    assert status.chunks == await engine.count() == CHUNKS, step
    for branch, times in expected.items():
        hits = await service.search("shop", f"{branch}_1_first", 50)
        found = [hit.path for hit in hits if hit.name == f"{branch}_1_first"]
        assert found == [f"{branch}/f1.py"] * times, step
    await service.aclose()
    await engine.aclose()


async def test_switching_branches_back_and_forth_leaves_the_index_the_same_size(
    service: ContextService, tmp_path: Path, commit: Commit
):
    repo = tmp_path / "repo"
    make_branches(repo, commit)
    sizes: dict[str, set[int]] = {"old": set(), "new": set()}
    for branch in ("old", "new") * 4:
        git(repo, "checkout", "-q", branch)
        read: list[int] = []
        await service.index("shop", repo, lambda _, total, read=read: read.append(total))
        sizes[branch].add(await service.engine.count())
        assert len(sizes["old"]) == 1
        assert read[0] <= (FILES if len(sizes["new"]) == 0 else FILES // 2), "what both branches have is not read again"
    assert [len(found) for found in sizes.values()] == [1, 1]
