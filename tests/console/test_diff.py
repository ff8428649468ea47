"""Reading what git prints, odd cases included."""

import subprocess
from pathlib import Path

from devtools_platform.console.diff import MAX_LINES, view_changes

GIT = ["git", "-c", "user.name=T", "-c", "user.email=t@example.invalid", "-c", "commit.gpgsign=false"]


def git(repo: Path, *arguments: str) -> str:
    done = subprocess.run([*GIT, "-C", str(repo), *arguments], check=True, capture_output=True, text=True)
    return done.stdout


def change(tmp_path: Path, before: dict[str, str], after: dict[str, str]) -> str:
    """What git itself says about going from one set of files to the other."""
    git(tmp_path, "init", "-q")
    for files in (before, after):
        for path in tmp_path.iterdir():
            if path.name != ".git":
                path.unlink()
        for name, text in files.items():
            tmp_path.joinpath(name).write_text(text)
        git(tmp_path, "add", "-A")
        git(tmp_path, "commit", "-q", "--allow-empty", "-m", "x")
    return git(tmp_path, "diff", "-M", "HEAD~1", "HEAD")


def test_lines_carry_their_old_and_new_numbers(tmp_path):
    diff = change(tmp_path, {"a": "1\n2\n3\n"}, {"a": "1\ntwo\n3\n4\n"})
    [file] = view_changes(diff, ()).files
    lines = [(line.kind, line.old, line.new, line.text) for hunk in file.hunks for line in hunk.lines]
    assert lines == [
        ("same", 1, 1, "1"),
        ("del", 2, None, "2"),
        ("add", None, 2, "two"),
        ("same", 3, 3, "3"),
        ("add", None, 4, "4"),
    ]


def test_content_that_looks_like_a_header_is_content(tmp_path):
    before = {"a": "-- a/x\n++ b/x\ndiff --git a/q b/q\n@@ -1 +1 @@\n"}
    diff = change(tmp_path, before, {"a": "end\n"})
    [file] = view_changes(diff, ()).files
    assert file.path == "a"
    assert [line.text for line in file.hunks[0].lines] == [*before["a"].splitlines(), "end"]


def test_new_deleted_renamed_and_oddly_named_files_keep_their_names(tmp_path):
    before = {"gone.py": "1\n", "old name.py": "same\n" * 9}
    after = {"new name.py": "same\n" * 9, "naïve \t.py": "2\n"}
    files = view_changes(change(tmp_path, before, after), ()).files
    assert {file.path: file.notes[0].split()[0] for file in files} == {
        "gone.py": "deleted",
        "naïve \t.py": "new",
        "new name.py": "similarity",
    }


def test_a_missing_newline_at_the_end_is_a_note_and_no_line(tmp_path):
    [file] = view_changes(change(tmp_path, {"a": "1"}, {"a": "2"}), ()).files
    assert [(line.kind, line.new) for line in file.hunks[0].lines] == [
        ("del", None),
        ("note", None),
        ("add", 1),
        ("note", None),
    ]


def test_no_diff_is_no_files():
    assert view_changes(None, ()).files == view_changes("", ()).files == ()


def test_a_huge_diff_is_cut_and_says_by_how_much():
    diff = "diff --git a/a b/a\n--- a/a\n+++ b/a\n@@ -0,0 +1,9996 @@\n" + "+x\n" * (MAX_LINES - 4 + 7)
    changes = view_changes(diff, ())
    assert len(changes.files[0].hunks[0].lines) == MAX_LINES - 4
    assert changes.omitted == 7
