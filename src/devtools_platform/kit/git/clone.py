"""The clone a task works in: made, committed, kept as snapshots, copied and merged."""

import asyncio
import os
import re
import shutil
from pathlib import Path

from devtools_platform.core.errors import BadInput, Conflict, ProgramFailed
from devtools_platform.kit.git.changes import list_unstaged, stage, staged
from devtools_platform.kit.git.program import git, in_clone, printable, split_paths, text_of
from devtools_platform.kit.git.repository import Repository

BASE_REF = "refs/dev-tools/base"
"""In a task's clone: the commit the task started from."""

RULES_REF = "refs/dev-tools/rules"
"""In a clone that started from another commit than the repository's own: that one."""

SNAPSHOT_REFS = "refs/dev-tools/snapshots/"
"""In a task's clone: its files as they were after each agent's run."""


async def clone_for_task(repo: Repository, destination: Path) -> str:
    """Clone `repo` at its HEAD into `destination` on the new branch `task/<folder name>`; returns the branch.

    The clone is complete or not there at all, so a repeated call after a crash finds the finished one.
    Objects are hard-linked where the file system allows; nothing in the clone leads back to `repo` but a note
    for `origin_of`.
    """
    branch = f"task/{destination.name}"
    if destination.exists():  # noqa: ASYNC240 - one look at a local folder
        return branch
    destination.parent.mkdir(parents=True, exist_ok=True)
    half_done = destination.with_name(f".{destination.name}.partial")
    shutil.rmtree(half_done, ignore_errors=True)
    # Not `--local`: that word makes git refuse, not copy, when the two lie on different file systems.
    options = ("--quiet", "--no-checkout", "--no-tags", "--no-recurse-submodules", "--template=")
    note = ("--config", f"dev-tools.origin={repo.path}")
    await git("clone", *options, *note, "--", str(repo.path), str(half_done), cwd=destination.parent, timeout_s=600)
    await git("remote", "remove", "origin", cwd=half_done)
    await git("update-ref", BASE_REF, repo.head, cwd=half_done)
    if repo.rules is not None:
        await git("update-ref", RULES_REF, repo.rules, cwd=half_done)
    await asyncio.to_thread(_write_attributes, half_done)
    await git("checkout", "--quiet", "--force", "--no-track", "-B", branch, repo.head, cwd=half_done, timeout_s=600)
    half_done.rename(destination)
    return branch


def _write_attributes(clone: Path) -> None:
    """What stands here wins over any `.gitattributes`: a task can neither ask for filters, nor call its text
    binary to keep it out of the diff that is reviewed."""
    folder = clone / ".git" / "info"
    folder.mkdir(exist_ok=True)
    (folder / "attributes").write_text("* !filter !diff\n")


async def origin_of(workspace: Path) -> Path | None:
    """The repository a task's clone was made from."""
    done = await in_clone(workspace, "config", "--get", "dev-tools.origin", check=False)
    return Path(os.fsdecode(done.stdout.removesuffix(b"\n"))) if done.code == 0 else None


async def base_commit(workspace: Path) -> str:
    """The commit the task started from."""
    return text_of(await in_clone(workspace, "rev-parse", "--verify", f"{BASE_REF}^{{commit}}"))


async def settings_at(workspace: Path, path: str) -> str | None:
    """A file of settings that the task heeds, as the repository's own commit has it, also where the task started from
    another; None when that has no such file."""
    wanted = (f"{RULES_REF}^{{commit}}", f"{RULES_REF}:{path}", f"{BASE_REF}^{{commit}}", f"{BASE_REF}:{path}")
    listing = "".join(f"{name}\n" for name in wanted).encode()
    found = _objects((await in_clone(workspace, "cat-file", "--batch", stdin=listing)).stdout)
    rules, of_rules, base, of_base = found
    if rules is None and base is None:
        await base_commit(workspace)  # says what is missing: without a commit there are no settings to heed
    text = of_base if rules is None else of_rules
    return None if text is None else text.decode("utf-8", errors="replace")


_OBJECT = re.compile(rb"[0-9a-f]+ (?P<kind>commit|blob|tree|tag) (?P<size>[0-9]+)\n")


def _objects(batch: bytes) -> list[bytes | None]:
    """What `cat-file --batch` printed, object by object; None for one that is missing, or that no file is."""
    found: list[bytes | None] = []
    while batch:
        if (head := _OBJECT.match(batch)) is None:
            batch = batch.partition(b"\n")[2]
            found.append(None)
            continue
        end = head.end() + int(head["size"])
        found.append(batch[head.end() : end] if head["kind"] in (b"commit", b"blob") else None)
        batch = batch[end + 1 :]
    return found


async def head_of(workspace: Path) -> str:
    """The commit a task's branch is at."""
    return text_of(await in_clone(workspace, "rev-parse", "--verify", "HEAD^{commit}"))


async def list_files(workspace: Path, pattern: str = "**") -> tuple[str, ...]:
    """Tracked files, and untracked ones that are not ignored. `pattern` is a glob from the top."""
    listing = ["ls-files", "-z", "--cached", "--others", "--exclude-standard", "--", f":(glob){pattern}"]
    names = set(split_paths((await in_clone(workspace, *listing)).stdout))
    return tuple(printable(name) for name in sorted(names) if _is_file(workspace, name))


def _is_file(workspace: Path, name: str) -> bool:
    path = workspace / name
    return path.is_symlink() or path.is_file()


async def commit_all(workspace: Path, message: str, author: str) -> str | None:
    """Commit everything that is not ignored; None when nothing changed. `author` reads `Name <address>`.

    Embedded repositories are left out: their files belong to someone else's history.
    """
    await stage(workspace, env={})
    tree = text_of(await in_clone(workspace, "write-tree"))
    head, before = text_of(await in_clone(workspace, "rev-parse", "HEAD^{commit}", "HEAD^{tree}")).split("\n")
    if tree == before:
        return None
    create = ["commit-tree", tree, "-p", head, "-F", "-"]
    made = await in_clone(workspace, *create, stdin=message.encode(errors="replace"), env=identity(author))
    await in_clone(workspace, "update-ref", "HEAD", text_of(made), head)
    return text_of(made)


async def take_snapshot(workspace: Path, name: str, author: str) -> None:
    """Keep the files as they are now, under `name`, without a commit on the branch. Taking it again replaces it."""
    async with staged(workspace) as env:
        tree = text_of(await in_clone(workspace, "write-tree", env=env))
    create = ["commit-tree", tree, "-p", BASE_REF, "-m", f"Snapshot {name}"]
    made = text_of(await in_clone(workspace, *create, env=identity(author)))
    await in_clone(workspace, "update-ref", f"{SNAPSHOT_REFS}{name}", made)


async def restore_snapshot(workspace: Path, name: str | None, branch: str) -> None:
    """Make the files what they were at a snapshot (None: as cloned), on `branch`, which begins at the base again.

    Files that no ignore rule names and the snapshot does not have are removed; ignored ones stay.
    Raises `Conflict` when there is no such snapshot.
    """
    ref = BASE_REF if name is None else f"{SNAPSHOT_REFS}{name}"
    found = await in_clone(workspace, "rev-parse", "--verify", "--quiet", f"{ref}^{{commit}}", check=False)
    if found.code != 0:
        raise Conflict(
            f"The workspace {workspace.name!r} has no snapshot {name!r}.", hint="Start from an earlier step."
        )
    base = await base_commit(workspace)
    await in_clone(workspace, "symbolic-ref", "HEAD", f"refs/heads/{branch}")
    await in_clone(workspace, "update-ref", "HEAD", base)
    await in_clone(workspace, "read-tree", "--reset", "-u", text_of(found), timeout_s=300)
    _, new = await list_unstaged(workspace, {})
    for path in new:
        await asyncio.to_thread((workspace / os.fsdecode(path)).unlink, missing_ok=True)
    # The files stay; only the index goes back, so that the next commit sees them all as changes.
    await in_clone(workspace, "read-tree", "--reset", base)


async def copy_workspace(source: Path, destination: Path) -> None:
    """A second clone with the same base, snapshots and origin; complete or not there at all."""
    half_done = destination.with_name(f".{destination.name}.partial")
    await asyncio.to_thread(shutil.rmtree, half_done, ignore_errors=True)
    try:
        await asyncio.to_thread(shutil.copytree, source, half_done, symlinks=True)
    except shutil.Error:  # files that came and went while it looked
        await asyncio.to_thread(shutil.rmtree, half_done, ignore_errors=True)
        raise Conflict(
            f"The workspace {source.name!r} changed while it was copied.", hint="Pause its task, then try again."
        ) from None
    half_done.rename(destination)


async def merge_clone(workspace: Path, other: Path, since: str, author: str) -> tuple[str, ...]:
    """Bring what `other` changed since the snapshot `since` (which both have) into `workspace`.

    Returns the files both changed in one place; then nothing was brought in. Doing it again changes nothing.
    """
    await take_snapshot(other, "merge-theirs", author)
    await take_snapshot(workspace, "merge-ours", author)
    theirs = f"{SNAPSHOT_REFS}merge-theirs"
    fetch = ("fetch", "--quiet", "--no-tags", "--no-write-fetch-head", "--no-recurse-submodules")
    await in_clone(workspace, *fetch, "--", str(other), f"+{theirs}:{theirs}", timeout_s=600)
    base = text_of(await in_clone(workspace, "rev-parse", f"{SNAPSHOT_REFS}{since}^{{commit}}"))
    sides = [
        text_of(await in_clone(workspace, *_child_of(base, f"{SNAPSHOT_REFS}{name}"), env=identity(author)))
        for name in ("merge-ours", "merge-theirs")
    ]
    merge = ["merge-tree", "--write-tree", "--name-only", "--no-messages", "-z", *sides]
    merged = await in_clone(workspace, *merge, check=False, timeout_s=300)
    tree, *files = [part.decode("utf-8", errors="replace") for part in merged.stdout.split(b"\0") if part]
    if merged.code == 1:
        return tuple(files)
    if merged.code != 0:
        raise ProgramFailed(f"git could not merge the files of {other.name!r}: {merged.stderr}")
    create = ["commit-tree", tree, "-p", BASE_REF, "-m", "Snapshot merged"]
    made = text_of(await in_clone(workspace, *create, env=identity(author)))
    await in_clone(workspace, "update-ref", f"{SNAPSHOT_REFS}merged", made)
    branch = text_of(await in_clone(workspace, "symbolic-ref", "--short", "HEAD"))
    await restore_snapshot(workspace, "merged", branch)
    return ()


def _child_of(base: str, snapshot: str) -> list[str]:
    """A commit with a snapshot's files whose parent is `base`: a merge then finds the right ancestor by itself."""
    return ["commit-tree", f"{snapshot}^{{tree}}", "-p", base, "-m", "Merge side"]


def identity(author: str) -> dict[str, str]:
    match = re.fullmatch(r"([^<>\n]+) <([^<>\s]+)>", author)
    if match is None:
        raise BadInput(f"Author {author!r} does not read `Name <address>`.")
    name, address = match.groups()
    roles = ("AUTHOR", "COMMITTER")
    return {f"GIT_{role}_{key}": value for role in roles for key, value in (("NAME", name), ("EMAIL", address))}
