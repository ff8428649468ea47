"""What differs in a clone: between its index and its files, and between a commit and its files."""

import asyncio
import re
import shutil
import tempfile
from collections.abc import AsyncGenerator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path

from devtools_platform.core.tasks import DiffStat
from devtools_platform.kit.git.program import in_clone, printable, split_paths

_DIFF = ("--no-ext-diff", "--no-textconv", "--no-renames", "--no-color", "--ignore-submodules=all")


async def stage(workspace: Path, env: Mapping[str, str]) -> None:
    """Make the index (of `env`) equal to the files: changed and deleted tracked ones, and new ones."""
    changed, new = await list_unstaged(workspace, env)
    gone = [path for status, path in changed if status == b"D"]
    kept = [path for status, path in changed if status != b"D"]
    # Deleted ones first: a file may have become a folder.
    for option, paths in (("--force-remove", gone), ("--add", kept + new)):
        if paths:
            listing = b"".join(path + b"\0" for path in paths)
            update = ["update-index", option, "-z", "--stdin"]
            await in_clone(workspace, *update, env=env, stdin=listing, timeout_s=300)


async def list_unstaged(workspace: Path, env: Mapping[str, str]) -> tuple[list[tuple[bytes, bytes]], list[bytes]]:
    """(status letter, path) of tracked files that differ from the index, and the untracked files."""
    differing = ["diff-files", "-z", "--name-status", "--ignore-submodules=all"]
    others = ["ls-files", "-z", "--others", "--exclude-standard"]
    # At once: neither writes, and most of a small task's time is spent starting git.
    listed = await asyncio.gather(*(in_clone(workspace, *listing, env=env) for listing in (differing, others)))
    fields, found = (done.stdout.split(b"\0")[:-1] for done in listed)
    changed = list(zip(fields[::2], fields[1::2], strict=True))
    return changed, [path for path in found if not path.endswith(b"/")]  # a slash: an embedded repository


@asynccontextmanager
async def staged(workspace: Path) -> AsyncGenerator[Mapping[str, str]]:
    """An environment with a throw-away index that holds the files as they are now."""
    with tempfile.TemporaryDirectory(prefix="dev-tools-index-") as folder:
        index = Path(folder) / "index"
        # With its time: git reads a file anew that is not older than the index, by whole seconds. Beside a newer
        # index it would miss a change of the same length made in the second of the checkout.
        await asyncio.to_thread(shutil.copy2, workspace / ".git" / "index", index)
        env = {"GIT_INDEX_FILE": str(index)}
        await stage(workspace, env)
        yield env


async def difference(workspace: Path, base: str, max_chars: int) -> tuple[DiffStat, str]:
    """What differs between `base` and the files as they are, untracked ones included: its size, and as a patch.

    Binary files have no lines. The patch is cut after `max_chars`, with a line that says so.
    """
    async with staged(workspace) as env:
        rows = split_paths(await _diff_index(workspace, env, base, "--numstat", "-z"))
        patch = await _diff_index(workspace, env, base, "--patch", max_bytes=4 * max_chars + 4) if rows else b""
    counts = [row.split("\t", 2)[:2] for row in rows]
    added, deleted = (sum(int(count[side]) for count in counts if count[side] != "-") for side in (0, 1))
    text = patch.decode("utf-8", errors="replace")
    is_cut = len(text) > max_chars
    shown = f"{text[:max_chars]}\n[... diff cut after {max_chars} characters ...]\n" if is_cut else text
    return DiffStat(files=len(counts), insertions=added, deletions=deleted), shown


async def changed_paths(workspace: Path, base: str) -> tuple[str, ...]:
    """Files added, changed or deleted since `base`, untracked ones included."""
    async with staged(workspace) as env:
        names = await _diff_index(workspace, env, base, "--name-only", "-z")
    return tuple(printable(name) for name in split_paths(names))


async def added_lines(workspace: Path, base: str, max_bytes: int) -> dict[str, dict[int, str]] | None:
    """For each changed text file its added lines by number; None when the difference is over `max_bytes`."""
    async with staged(workspace) as env:
        names, patch = await asyncio.gather(
            _diff_index(workspace, env, base, "--name-only", "-z"),
            _diff_index(workspace, env, base, "--patch", "--unified=0", max_bytes=max_bytes + 1),
        )
    if len(patch) > max_bytes:
        return None
    # Patches come in the order of the names, which spares us from reading quoted names in them.
    sections = re.split(rb"^diff --git .*\n", patch, flags=re.MULTILINE)[1:]
    pairs = zip(split_paths(names), sections, strict=True)
    return {printable(name): _added(section) for name, section in pairs}


async def _diff_index(
    workspace: Path, env: Mapping[str, str], base: str, *options: str, max_bytes: int | None = None
) -> bytes:
    """Compare two trees git stores: no file is opened, so no filter can be asked for."""
    compare = ["diff-index", "--cached", *_DIFF, *options, "--end-of-options", base]
    return (await in_clone(workspace, *compare, env=env, max_bytes=max_bytes)).stdout


def _added(section: bytes) -> dict[int, str]:
    lines: dict[int, str] = {}
    number = 0
    for line in section.split(b"\n"):
        if hunk := re.match(rb"@@ -\S+ \+(\d+)", line):
            number = int(hunk[1])
        elif number and line.startswith(b"+"):
            lines[number] = line[1:].decode("utf-8", errors="replace")
            number += 1
    return lines
