"""Plans as graphs, and clones whose changes are brought together with git's own merge."""

import shutil
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from devtools_platform.agents.adapters.git_workspaces import GitWorkspaces
from devtools_platform.agents.planning import goal_of, list_waves, to_plan
from devtools_platform.agents.types import PlanDraft, Workspace, plan_type
from devtools_platform.core.agents import WORKING_AGENTS
from stacks import make_repo


def draft(*needs: list[int] | None) -> PlanDraft:
    steps = [{"agent": "feature-dev", "goal": f"Step {n}.", "needs": need} for n, need in enumerate(needs, 1)]
    return PlanDraft.model_validate({"steps": steps})


def waves(*needs: list[int] | None) -> list[list[str]]:
    return [[step.id for step in wave] for wave in list_waves(to_plan(draft(*needs)).steps)]


def test_steps_run_one_after_the_other_unless_they_say_what_they_need() -> None:
    assert waves(None, None, None) == [["1"], ["2"], ["3"]]
    assert waves([], [], [1, 2]) == [["1", "2"], ["3"]]
    assert waves([], [1], [1], [2, 3]) == [["1"], ["2", "3"], ["4"]]
    assert waves([], [], None, []) == [["1", "2", "4"], ["3"]]


def test_a_new_plan_numbers_on() -> None:
    plan = to_plan(draft([], [1]), first=4)
    assert [(step.id, step.needs) for step in plan.steps] == [("4", ()), ("5", ("4",))]


def test_what_a_step_is_done_by_is_part_of_its_goal() -> None:
    made = PlanDraft.model_validate({"steps": [{"agent": "cicd", "goal": "Do.", "acceptance": "It is green."}]})
    assert goal_of(to_plan(made).steps[0]) == "Do.\n\nIt is done when: It is green."


@pytest.mark.parametrize(
    ("given", "reason"),
    [
        ({}, "either steps or a question"),
        ({"question": "Which?", "steps": [{"agent": "cicd", "goal": "Do."}]}, "either steps or a question"),
        ({"steps": [{"agent": "cicd", "goal": "Do.", "needs": [1]}]}, "needs step 1"),
        ({"steps": [{"agent": "cicd", "goal": "Do.", "needs": [2]}, {"agent": "cicd", "goal": "Do."}]}, "needs step 2"),
        ({"steps": [{"agent": "code-review", "goal": "Do."}]}, "agent"),
    ],
)
def test_a_draft_that_is_no_plan_is_refused(given: dict[str, object], reason: str) -> None:
    with pytest.raises(ValidationError, match=reason):
        plan_type(WORKING_AGENTS).model_validate(given)


@pytest.fixture
async def workspace(tmp_path: Path) -> tuple[GitWorkspaces, Workspace, Path]:
    repo = make_repo(tmp_path / "repo", {"a.txt": "1\n2\n3\n4\n5\n", "b.txt": "b\n", "gone.txt": "x\n"})
    (tmp_path / "workspaces").mkdir()
    workspaces = GitWorkspaces(tmp_path / "workspaces", 0)
    return workspaces, await workspaces.create("t1", str(repo)), tmp_path / "workspaces"


Made = tuple[GitWorkspaces, Workspace, Path]


async def test_changes_of_two_clones_go_together_file_by_file_and_line_by_line(workspace: Made) -> None:
    workspaces, task, root = workspace
    (root / "t1" / "b.txt").write_text("b before\n")
    one, two = await workspaces.split(task, "1"), await workspaces.split(task, "2")
    (root / one / "a.txt").write_text("one\n2\n3\n4\n5\n")
    (root / one / "gone.txt").unlink()
    (root / two / "a.txt").write_text("1\n2\n3\n4\ntwo\n")
    (root / two / "new").mkdir()
    (root / two / "new" / "c.txt").write_text("c\n")
    assert (await workspaces.merge(task, one)).conflicts == []
    assert (await workspaces.merge(task, two)).conflicts == []
    assert (root / "t1" / "a.txt").read_text() == "one\n2\n3\n4\ntwo\n"
    assert (root / "t1" / "b.txt").read_text() == "b before\n"
    assert (root / "t1" / "new" / "c.txt").read_text() == "c\n"
    assert not (root / "t1" / "gone.txt").exists()
    diff = await workspaces.diff(task)
    assert diff.stat.files == 4
    assert [path.name for path in root.iterdir()] == ["t1"]
    assert (await workspaces.merge(task, one)).conflicts == [], "again, after a crash, is no error"


async def test_a_clone_half_removed_by_a_kill_is_not_merged_again(
    workspace: Made, monkeypatch: pytest.MonkeyPatch
) -> None:
    workspaces, task, root = workspace
    folder = await workspaces.split(task, "1")
    (root / folder / "a.txt").write_text("one\n2\n3\n4\n5\n")
    remove = shutil.rmtree

    def half_remove(path: str | Path, **options: Any) -> None:
        index = Path(path) / ".git" / "index"
        if index.exists():
            index.unlink()
            raise RuntimeError("killed")
        remove(path, **options)

    with monkeypatch.context() as patch:
        patch.setattr(shutil, "rmtree", half_remove)
        with pytest.raises(RuntimeError, match="killed"):
            await workspaces.merge(task, folder)

    assert (await workspaces.merge(task, folder)).conflicts == []
    assert (root / "t1" / "a.txt").read_text() == "one\n2\n3\n4\n5\n"
    await workspaces.remove("t1")
    assert list(root.iterdir()) == []


async def test_a_conflict_names_the_files_and_takes_nothing_in(workspace: Made) -> None:
    workspaces, task, root = workspace
    one, two = await workspaces.split(task, "1"), await workspaces.split(task, "2")
    (root / one / "a.txt").write_text("one\n2\n3\n4\n5\n")
    (root / two / "a.txt").write_text("two\n2\n3\n4\n5\n")
    (root / two / "b.txt").write_text("two\n")
    await workspaces.merge(task, one)
    assert (await workspaces.merge(task, two)).conflicts == ["a.txt"]
    assert (root / "t1" / "a.txt").read_text().startswith("one\n")
    assert (root / "t1" / "b.txt").read_text() == "b\n"
    await workspaces.remove("t1")
    assert list(root.iterdir()) == []
