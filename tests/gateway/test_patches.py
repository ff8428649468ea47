"""The tool `apply_patch`, in both forms: exactly or not at all, over several files, never out of the workspace."""

import asyncio
import difflib
import subprocess
from collections.abc import Mapping
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from devtools_platform.core.errors import ToolFailed
from devtools_platform.core.tools import Caller, ToolResult
from devtools_platform.gateway.toolsets import files
from devtools_platform.gateway.toolsets.patches import apply_patch, parse_patch
from devtools_platform.gateway.toolsets.workspace import WorkspaceTools
from devtools_platform.kit.sandbox import Limits

APP = """class A:
    def run(self):
        go()
        return 1


class B:
    def run(self):
        go()
        return 1
"""


class Bench:
    def __init__(self, folder: Path) -> None:
        self.clone = folder / "workspaces" / "t1"
        (self.clone / ".git").mkdir(parents=True)
        self.tools = WorkspaceTools(self.clone.parent, limits=Limits(10, 256))
        self.write({"app.py": APP, "docs/a.md": "one\ntwo\n", "old.txt": "bye\n"})

    def write(self, tree: Mapping[str, str]) -> None:
        for name, text in tree.items():
            (self.clone / name).parent.mkdir(parents=True, exist_ok=True)
            (self.clone / name).write_bytes(text.encode())

    def tree(self) -> dict[str, str]:
        paths = (path for path in self.clone.rglob("*") if path.is_file())
        return {str(path.relative_to(self.clone)): path.read_bytes().decode() for path in paths}

    async def call(self, patch: str) -> ToolResult:
        return await self.tools.call("apply_patch", {"patch": patch}, Caller("t1", "feature-dev"))

    async def apply(self, patch: str) -> Mapping[str, object]:
        result = await self.call(patch)
        assert not result.is_error, result.text
        return result.data

    async def refuse(self, patch: str) -> str:
        before = self.tree()
        result = await self.call(patch)
        assert result.is_error, result.text
        assert self.tree() == before
        return result.text


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    return Bench(tmp_path)


def v4a(*lines: str) -> str:
    return "\n".join(("*** Begin Patch", *lines, "*** End Patch"))


MANY = v4a(
    "*** Update File: app.py",
    "@@ class B:",
    "@@     def run(self):",
    "         go()",
    "-        return 1",
    "+        return 2",
    "*** Add File: docs/new/b.md",
    "+new",
    "+",
    "*** Update File: docs/a.md",
    "*** Move to: docs/c.md",
    "@@",
    " one",
    "+one and a half",
    "*** Delete File: old.txt",
)


async def test_one_patch_updates_adds_moves_and_deletes(bench: Bench) -> None:
    (bench.clone / "docs/a.md").chmod(0o755)
    done = await bench.apply(MANY)
    assert done == {"added": ["docs/new/b.md"], "updated": ["app.py", "docs/c.md"], "deleted": ["old.txt"]}
    assert bench.tree() == {
        "app.py": APP[:-2] + "2\n",
        "docs/new/b.md": "new\n\n",
        "docs/c.md": "one\none and a half\ntwo\n",
    }
    assert (bench.clone / "docs/c.md").stat().st_mode & 0o777 == 0o755


async def test_a_patch_that_is_sent_again_after_an_interruption_changes_nothing_more(bench: Bench) -> None:
    await bench.apply(MANY)
    after = bench.tree()
    again = await bench.call(MANY)
    assert (again.is_error, again.text) == (False, "Everything is as the patch wants it already.")
    assert bench.tree() == after
    # ... and one that was carried out in part is finished.
    bench.write({"old.txt": "bye\n", "app.py": APP})
    assert await bench.apply(MANY) == {"added": [], "updated": ["app.py"], "deleted": ["old.txt"]}
    assert bench.tree() == after


async def test_nothing_is_changed_when_one_part_does_not_fit_and_each_is_said_with_the_nearest_lines(
    bench: Bench,
) -> None:
    patch = v4a(
        "*** Add File: new.txt",
        "+x",
        "*** Update File: docs/a.md",
        "@@",
        " one",
        "-tow",
        "+2",
        "*** Update File: nowhere.py",
        "@@",
        "-a",
        "+b",
    )
    said = await bench.refuse(patch)
    assert said == (
        "Nothing was changed. The patch does not fit:\n"
        "docs/a.md: the hunk does not fit: its lines do not stand there exactly. The nearest lines are:\n"
        "1: one\n2: two\n3: \n"
        "nowhere.py: it does not exist; list_files shows what does."
    )


async def test_white_space_is_not_guessed_at(bench: Bench) -> None:
    said = await bench.refuse(
        v4a("*** Update File: app.py", "@@ class A:", " def run(self):", "-    go()", "+    stop()")
    )
    assert "do not stand there after line 1 exactly" in said
    assert "2:     def run(self):\n3:         go()" in said


@pytest.mark.parametrize(
    ("lines", "said"),
    [
        (["@@", "         go()", "-        return 1", "+        return 2"], "fits at 2 places (lines 3, 9)"),
        (
            ["@@ class C:", "-        return 1"],
            "there is no line 'class C:'. The nearest lines are:\n1: class A:\n7: class B:",
        ),
        (["@@", "+import os"], "only adds lines and does not say where"),
        (["@@", "-class A:", "*** End of File"], "does not stand at the end of the file"),
        (
            ["@@ class B:", "-        return 1", "@@", "-class A:"],
            "hunk 2 does not fit: its lines do not stand there after line 10",
        ),
        ([], "is updated by no hunk"),
        (["@@", "* go()"], "Line 4 of the patch is '* go()'"),
    ],
)
async def test_what_is_wrong_with_a_hunk_is_said(bench: Bench, lines: list[str], said: str) -> None:
    assert said in await bench.refuse(v4a("*** Update File: app.py", *lines))


@pytest.mark.parametrize(
    ("patch", "said"),
    [
        (MANY.removesuffix("*** End Patch"), "does not end with '*** End Patch': it may have been cut off"),
        (v4a(), "changes no file"),
        (v4a("*** Rename File: app.py"), "expected `*** Update File: PATH`"),
        (v4a("*** Add File: app.py", "+x"), "it exists; update it"),
        (v4a("*** Add File: new.py", "x = 1"), "each line of a new file begins with `+`"),
        (v4a("*** Delete File: old.txt", "-bye"), "nothing may follow"),
        (v4a("*** Update File: app.py", "*** Move to: old.txt"), "'old.txt' exists"),
        (v4a("*** Delete File: old.txt", "*** Delete File: ./old.txt"), "names 'old.txt' twice"),
        ("please change app.py", "a patch begins with"),
        ("--- a/app.py\n+++ b/app.py\n@@ -1 +1 @@\n-class X:\n+class Y:\n", "1: class A:"),
        ("--- a/app.py\n+++ b/app.py\n@@ line 3 @@\n-x\n", "expected `@@ -LINE,COUNT +LINE,COUNT @@`"),
        ("--- a/app.py\n+++ b/app.py\n", "a hunk `@@ -1,3 +1,4 @@` is missing"),
        ("--- a/old.txt\n+++ /dev/null\n@@ -1 +0,0 @@\n-hello\n", "do not stand there"),
        ("diff --git a/app.py b/app.py\nold mode 100644\nnew mode 100755\n", "use run_command to change modes"),
        ('--- "a/\\303.py"\n+++ "b/\\303.py"\n@@ -1 +1 @@\n-a\n+b\n', "is quoted"),
    ],
)
async def test_what_is_wrong_with_a_patch_is_said(bench: Bench, patch: str, said: str) -> None:
    assert said in await bench.refuse(patch)


async def test_no_patch_leads_out_of_the_workspace(bench: Bench) -> None:
    outside = bench.clone.parent / "t2"
    outside.mkdir()
    (outside / "theirs.txt").write_text("theirs\n")
    (bench.clone / "link.txt").symlink_to(outside / "theirs.txt")
    (bench.clone / "folder").symlink_to(outside)
    (bench.clone / ".git" / "config").write_text("[core]\n")
    for path in ("../t2/theirs.txt", "link.txt", "folder/theirs.txt", str(outside / "theirs.txt"), ".git/config"):
        update = ["@@", "-theirs", "+mine"]
        for lines in (
            [f"*** Update File: {path}", *update],
            [f"*** Delete File: {path}"] if path != "link.txt" else [f"*** Add File: {path}", "+mine"],
            [f"*** Add File: {path}x" if path != "link.txt" else f"*** Add File: {path}", "+mine"],
            ["*** Update File: old.txt", f"*** Move to: {path}x" if path != "link.txt" else f"*** Move to: {path}"],
        ):
            result = await bench.call(v4a(*lines))
            assert result.is_error or path == ".git/config", (path, lines)
            assert result.is_error, (path, lines)
    plain = "--- a/../t2/theirs.txt\n+++ b/../t2/theirs.txt\n@@ -1 +1 @@\n-theirs\n+mine\n"
    assert "leads out of the workspace" in await bench.refuse(plain)
    assert [path.name for path in outside.iterdir()] == ["theirs.txt"]
    assert (outside / "theirs.txt").read_text() == "theirs\n"
    assert (bench.clone / ".git" / "config").read_text() == "[core]\n"


async def test_what_was_written_is_taken_back_when_the_disk_refuses_the_rest(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = bench.tree()
    delete = files.delete

    def failing(workspace: Path, path: str) -> None:
        if path == "old.txt":
            raise ToolFailed("the disk does not want to.")
        delete(workspace, path)

    monkeypatch.setattr(files, "delete", failing)
    assert (await bench.call(MANY)).is_error
    assert bench.tree() == before


async def test_line_ends_of_the_file_stay(bench: Bench) -> None:
    bench.write({"win.txt": "one\r\ntwo\r\nthree", "open.txt": "one\ntwo"})
    await bench.apply(
        v4a(
            "*** Update File: win.txt",
            "@@",
            " one",
            "-two",
            "+2",
            " three",
            "*** Update File: open.txt",
            "@@",
            " two",
            "+three",
            "*** End of File",
        )
    )
    assert bench.tree()["win.txt"] == "one\r\n2\r\nthree"
    assert bench.tree()["open.txt"] == "one\ntwo\nthree"


async def test_a_unified_diff_with_wrong_numbers_is_placed_by_its_lines(bench: Bench) -> None:
    patch = "```\n--- a/docs/a.md\n+++ b/docs/a.md\n@@ -40,9 +40,7 @@ heading\n one\n-two\n+2\n"
    assert "a patch begins with" in await bench.refuse(patch)
    await bench.apply(patch.removeprefix("```\n"))
    assert bench.tree()["docs/a.md"] == "one\n2\n"


async def test_a_unified_diff_with_right_numbers_tells_alike_places_apart(bench: Bench) -> None:
    await bench.apply("--- app.py\n+++ app.py\n@@ -9,2 +9,2 @@\n         go()\n-        return 1\n+        return 2\n")
    assert bench.tree()["app.py"] == APP[:-2] + "2\n"


async def test_lines_that_are_added_with_none_around_them_are_refused_whatever_the_numbers_say(bench: Bench) -> None:
    bench.write({"blank.txt": "\n"})
    said = await bench.refuse("--- a/blank.txt\n+++ b/blank.txt\n@@ -1,0 +2 @@\n+\n")
    assert "only adds lines and does not say where" in said


async def test_a_hostile_patch_costs_little(bench: Bench) -> None:
    bench.write({"big.txt": "\n" * 900_000})
    patch = "--- a/big.txt\n+++ b/big.txt\n@@ -9999999 +1 @@\n" + " \n" * 300_000 + "-x\n"
    assert "do not stand there" in await asyncio.wait_for(bench.refuse(patch), 20)


# -- whatever the trees are: the patch from one to the other makes the other ------------------------------------------

LINE = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\n\0"), max_size=6)
LINES = st.lists(st.one_of(LINE, st.sampled_from(["a", "b", "", "-- x", "++ y", "@@ -1 +1 @@", " "])), max_size=8)
NAME = st.sampled_from(["a.txt", "b.txt", "dir/c.txt", "dir/sub/d e.txt"])
TEXT = st.tuples(LINES, st.booleans()).map(lambda made: "\n".join(made[0]) + ("\n" if made[1] and made[0] else ""))


def keep_ends(text: str) -> list[str]:
    *lines, last = text.split("\n")
    return [f"{line}\n" for line in lines] + ([last] if last else [])


def as_unified(first: Mapping[str, str], second: Mapping[str, str], context: int) -> str:
    patch: list[str] = []
    for name in sorted({*first, *second}):
        old, new = first.get(name), second.get(name)
        if old == new:
            continue
        patch.append(f"diff --git a/{name} b/{name}\n")
        patch += ["new file mode 100644\n"] if old is None else ["deleted file mode 100644\n"] if new is None else []
        head = ("/dev/null" if old is None else f"a/{name}", "/dev/null" if new is None else f"b/{name}")
        for line in difflib.unified_diff(keep_ends(old or ""), keep_ends(new or ""), *head, n=context):
            patch.append(line if line.endswith("\n") else f"{line}\n\\ No newline at end of file\n")
    return "".join(patch)


def as_v4a(first: Mapping[str, str], second: Mapping[str, str]) -> str:
    """Each file in one hunk with all its lines: V4A has no line numbers to tell alike places apart."""
    lines: list[str] = []
    for name in sorted({*first, *second}):
        old, new = first.get(name), second.get(name)
        if old == new:
            continue
        if new is None:
            lines.append(f"*** Delete File: {name}")
        elif old is None:
            lines += [f"*** Add File: {name}", *(f"+{line}" for line in new.split("\n")[:-1])]
        else:
            changed = list(difflib.ndiff(old.split("\n")[:-1], new.split("\n")[:-1]))
            lines += [f"*** Update File: {name}", "@@"]
            lines += [f"{line[0]}{line[2:]}" for line in changed if line[0] != "?"]
    return v4a(*lines)


def check(folder: Path, first: Mapping[str, str], second: Mapping[str, str], patch: str) -> None:
    clone = folder / "workspaces" / "t1"
    subprocess.run(["rm", "-rf", clone], check=True)
    bench = Bench.__new__(Bench)
    bench.clone = clone
    clone.mkdir(parents=True)
    bench.write(first)
    apply_patch(clone, parse_patch(patch))
    assert bench.tree() == second


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("trees")


PROPERTY = settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.too_slow])


@PROPERTY
@given(
    first=st.dictionaries(NAME, TEXT), second=st.dictionaries(NAME, TEXT), context=st.integers(min_value=1, max_value=3)
)
def test_a_unified_diff_from_one_tree_to_another_makes_the_other(
    folder: Path, first: dict[str, str], second: dict[str, str], context: int
) -> None:
    if first != second:
        check(folder, first, second, as_unified(first, second, context))


WHOLE = TEXT.map(lambda text: text if text.endswith("\n") else f"{text}\n")


@PROPERTY
@given(first=st.dictionaries(NAME, WHOLE), second=st.dictionaries(NAME, WHOLE))
def test_a_v4a_patch_from_one_tree_to_another_makes_the_other(
    folder: Path, first: dict[str, str], second: dict[str, str]
) -> None:
    if first != second:
        check(folder, first, second, as_v4a(first, second))
