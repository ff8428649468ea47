"""A `ChangeLog` becomes a repository with a past, and questions about what came next."""

import subprocess
from pathlib import Path

import pytest

from devtools_platform.context.localisation import Question

with pytest.MonkeyPatch.context() as patch:  # not for longer: modules there are named as packages here
    patch.syspath_prepend(Path(__file__).parents[2] / "bench")
    from context_changelogs import make_repository, read_changelog

CHANGELOG = """2024-03-02  Ann  <ann@example.org>

\tls: say what is wrong
\tIt said nothing.
\t* src/ls.c (usage): Say it.
\t* NEWS: Mention it.

\tbuild: update

2024-03-01  Ann  <ann@example.org>

\tls: fix a leak
\t* src/ls.c, lib/own.c: Free it.

2024-02-01  Bob  <bob@example.org>

\tcp: begin
\t* src/cp.c: New file.
"""


@pytest.fixture
def source(tmp_path: Path) -> Path:
    source = tmp_path / "prog-1.0"
    for path in ("src/ls.c", "src/cp.c", "lib/own.c", "lib/copied.c", "tests/ls.c"):
        (source / path).parent.mkdir(parents=True, exist_ok=True)
        (source / path).write_text(f"int {Path(path).stem};\n")
    (source / "ChangeLog").write_text(CHANGELOG)
    return source


def test_entries_of_one_day_are_told_apart() -> None:
    found = [(entry.subject, entry.files) for entry in read_changelog(CHANGELOG)]
    assert found == [
        ("ls: say what is wrong", ["src/ls.c", "NEWS"]),
        ("build: update", []),
        ("ls: fix a leak", ["src/ls.c", "lib/own.c"]),
        ("cp: begin", ["src/cp.c"]),
    ]


def test_the_newest_entries_ask_and_the_others_are_commits(source: Path, tmp_path: Path) -> None:
    repo = tmp_path / "repo"
    assert make_repository(source, repo, 2) == [
        Question("ls: say what is wrong", frozenset({"src/ls.c"})),
        Question("ls: fix a leak", frozenset({"src/ls.c", "lib/own.c"})),
    ]

    def git(*arguments: str) -> str:
        return subprocess.run(["git", *arguments], cwd=repo, check=True, capture_output=True, text=True).stdout

    assert git("log", "--format=%s").split("\n")[:-1] == ["release", "cp: begin"]
    assert git("ls-files").split() == ["lib/own.c", "src/cp.c", "src/ls.c", "tests/ls.c"]
    assert (repo / "src/cp.c").read_text() == "int cp;\n"
