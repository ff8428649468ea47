"""The measure on a repository's own history."""

from collections.abc import Callable, Mapping
from pathlib import Path

import pytest

from context.conftest import git
from devtools_platform.context.adapters.edge import EdgeEngine
from devtools_platform.context.localisation import Question, judge, measure, read_questions
from devtools_platform.core.errors import BadInput

Commit = Callable[[Path, Mapping[str, str | bytes | None]], str]


def say(repo: Path, subject: str) -> None:
    git(repo, "commit", "-q", "--amend", "-m", subject)


@pytest.fixture
def repo(tmp_path: Path, commit: Commit) -> Path:
    repo = tmp_path / "repo"
    commit(repo, {"tax.py": "def vat(net):\n    return net\n", "cart.py": "def total(lines):\n    return 0\n"})
    commit(repo, {"tax.py": "def vat(net):\n    return net * 1.2\n", "new.py": "x = 1\n"})
    say(repo, "Compute VAT of the net amount")
    commit(repo, {"test_tax.py": "def test_vat(): ...\n"})
    say(repo, "Tests alone ask for nothing")
    commit(repo, {"cart.py": "def total(lines):\n    return sum(lines)\n", "tax.py": None})
    say(repo, "Sum the total of all lines")
    return repo


async def test_questions_are_commits_that_changed_files_which_were_there_before(repo: Path):
    start, questions = await read_questions(repo, 4)
    assert start == git(repo, "rev-parse", "HEAD~3")
    assert questions == [
        Question("Compute VAT of the net amount", frozenset({"tax.py"})),
        Question("Sum the total of all lines", frozenset({"cart.py"})),
    ]


async def test_the_tree_before_the_commits_is_searched(repo: Path, tmp_path: Path, engine: EdgeEngine):
    told: list[tuple[int, int]] = []
    found = await measure(
        engine, tmp_path / "m", repo, 4, lambda _, __: None, lambda done, total: told.append((done, total))
    )
    assert (found.files, found.questions, told[-1]) == (2, 2, (2, 2))
    assert found.accuracy == {1: 1.0, 5: 1.0, 10: 1.0}


def test_files_that_were_never_asked_about_take_no_place():
    answers = [["README.md", "a.py", "a.py", "b.py"], ["b.py", "a.py"]]
    assert judge([Question("x", frozenset({"b.py"}))] * 2, answers)[1] == 0.5
    assert judge([], [])[1] is None


async def test_a_history_too_short_is_said_so(tmp_path: Path, commit: Commit):
    commit(tmp_path / "one", {"a.py": "x = 1\n"})
    with pytest.raises(BadInput, match="only 1 commits"):
        await read_questions(tmp_path / "one", 100)
