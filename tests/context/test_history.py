"""What past commits say of a question moves the files they changed."""

import logging
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest

from context.conftest import git
from devtools_platform.context import git as object_store
from devtools_platform.context.service import ContextService

Commit = Callable[[Path, Mapping[str, str | bytes | None]], str]

QUESTION = "Half a cent goes up"


def say(repo: Path, subject: str) -> None:
    git(repo, "commit", "-q", "--amend", "-m", subject)


@pytest.fixture
def repo(tmp_path: Path, commit: Commit) -> Path:
    """Nothing in the code says which file is about cents; a past commit does."""
    repo = tmp_path / "shop"
    files = {f"{name}.py": f"def {name}(half):\n    return half\n" for name in ("aa", "bb", "cc", "dd")}
    commit(repo, {**files, "CHANGELOG.md": "# half\n", "test_cc.py": "def test_half(): ...\n"})
    commit(repo, {"cc.py": files["cc.py"] + "\n\n", "CHANGELOG.md": "# half a\n", "test_cc.py": "def test_half(): 1\n"})
    say(repo, "A cent is half of two")
    commit(repo, {"dd.py": files["dd.py"] + "\n\n"})
    say(repo, "Unlike that one")
    return repo


async def test_the_file_that_commits_like_the_question_changed_comes_first(service: ContextService, repo: Path) -> None:
    await service.index("shop", repo)
    hits = await service.search("shop", QUESTION)
    assert hits[0].path == "cc.py"
    assert "past commits" in hits[0].why
    others = [hit for hit in hits if hit.path in {"CHANGELOG.md", "test_cc.py"}]
    assert others
    assert not any("past commits" in hit.why for hit in others), "every commit changes these"


async def test_a_commit_is_known_to_the_next_question(service: ContextService, repo: Path, commit: Commit) -> None:
    await service.index("shop", repo)
    for n in range(3):
        commit(repo, {"aa.py": f"def aa(half):\n    return half + {n}\n"})
        say(repo, "Half a cent goes up, and down")
    await service.index("shop", repo)
    assert (await service.search("shop", QUESTION))[0].path == "aa.py"


async def test_files_without_a_repository_are_searched_as_before(service: ContextService, tmp_path: Path) -> None:
    (tmp_path / "plain").mkdir()
    (tmp_path / "plain" / "aa.py").write_text("def aa(half):\n    return half\n")
    await service.index("plain", tmp_path / "plain", follow="files")
    assert [hit.path for hit in await service.search("plain", QUESTION)] == ["aa.py"]


async def test_a_commit_that_changes_many_files_says_nothing_of_them(
    service: ContextService, repo: Path, commit: Commit
) -> None:
    commit(repo, {f"many{n}.py": f"def many{n}(half):\n    return half\n" for n in range(40)})
    say(repo, QUESTION)
    await service.index("shop", repo)
    hits = await service.search("shop", QUESTION, 50, 50_000)
    assert [hit.path for hit in hits if "past commits" in hit.why] == ["cc.py"]


async def test_a_history_too_large_to_read_is_done_without_and_said(
    service: ContextService, repo: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(object_store, "MAX_LOG_BYTES", 10)
    with caplog.at_level(logging.WARNING):
        await service.index("shop", repo)
    hits = await service.search("shop", QUESTION)
    assert {"aa.py", "cc.py"} <= {hit.path for hit in hits}
    assert not any("past commits" in hit.why for hit in hits)
    assert "does without the history" in caplog.text


async def test_a_question_as_long_as_a_page_is_not_taken_for_a_subject(service: ContextService, repo: Path) -> None:
    await service.index("shop", repo)
    page = f"{QUESTION} " + " ".join(f"word{chr(97 + n // 26)}{chr(97 + n % 26)}" for n in range(70))
    assert not any("past commits" in hit.why for hit in await service.search("shop", page))
