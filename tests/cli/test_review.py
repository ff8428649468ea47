"""`dev-tools review`, as typed: a branch judged by analyzers, without a stack and without a model."""

import json
from pathlib import Path

import pytest

from stacks import clean_env, git, make_repo, run_cli


@pytest.fixture
def repo(tmp_path: Path) -> Path:
    folder = make_repo(tmp_path / "repo", {"app.py": "x = 1\n", "Dockerfile": "FROM debian:12\nUSER app\n"})
    git(folder, "checkout", "-q", "-b", "feature")
    return folder


def commit(repo: Path, path: str, text: str) -> None:
    (repo / path).write_text(text)
    git(repo, "-c", "user.name=T", "-c", "user.email=t@example.com", "commit", "-qam", "change")


def test_a_branch_with_a_defect_is_blocked_and_told_as_sarif(repo: Path, tmp_path: Path) -> None:
    commit(repo, "Dockerfile", "FROM debian:latest\nUSER app\n")
    sarif = tmp_path / "review.sarif"
    done = run_cli("review", "--repo", str(repo), "--sarif", str(sarif), env=clean_env())
    assert done.returncode == 20, done.stderr
    assert "BLOCKING Dockerfile:1" in done.stdout
    assert "FROM debian:latest" in done.stdout
    assert "judged by analyzers only" in done.stderr
    results = [result for run in json.loads(sarif.read_text())["runs"] for result in run["results"]]
    assert "DL3007" in {result["ruleId"] for result in results}
    assert git(repo, "status", "--porcelain") == ""
    assert git(repo, "for-each-ref").count("\n") == 1, "nothing was left in the repository"


def test_a_clean_branch_is_approved_and_what_is_not_committed_is_named(repo: Path) -> None:
    commit(repo, "app.py", "x = 2\n")
    (repo / "app.py").write_text("undefined()\n")
    done = run_cli("review", "--repo", str(repo), "--json", env=clean_env())
    assert done.returncode == 0, done.stderr
    said = json.loads(done.stdout)
    assert said["review"]["verdict"] == "approve"
    assert {"ruff", "bandit"} <= set(said["review"]["judged_by"])
    assert [entry["what"] for entry in said["not_run"]] == ["uncommitted changes"]


def test_a_base_that_is_not_there_and_a_change_that_is_none_are_said(repo: Path) -> None:
    nothing = run_cli("review", "--repo", str(repo), env=clean_env())
    unknown = run_cli("review", "--repo", str(repo), "--base", "--output=x", env=clean_env())
    assert "adds nothing to 'main'" in nothing.stderr
    assert "'--output=x' and HEAD" in unknown.stderr
    assert "next:" in unknown.stderr
