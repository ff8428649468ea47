"""What is read from a repository: the tree of a commit, the content of blobs, what past commits changed.

Both come from the object store, never from the working tree: no filters, hooks or configured programs of a
repository run. Above it only the service.
"""

import os
import shutil
from collections.abc import AsyncGenerator, Iterable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

from devtools_platform.core.errors import NotARepository, ProgramFailed, TooLarge
from devtools_platform.kit.children import DEVNULL, PIPE, Child, start_child

MAX_TREE_BYTES = 100_000_000
"""Of a listing: about a million files."""
MAX_LOG_BYTES = 50_000_000
_REGULAR_FILES = {"100644", "100755"}


@dataclass(frozen=True)
class TreeEntry:
    """A regular file of a commit. Links and submodules are not files."""

    path: str
    blob: str
    size: int


async def _read_at_most(process: Child, most: int) -> bytes | None:
    """What a process writes until its end; None, and no process any more, once it is more than that."""
    assert process.stdout  # noqa: S101 - opened as a pipe
    out = bytearray()
    while part := await process.stdout.read(1 << 20):
        out += part
        if len(out) > most:
            process.kill()
            await process.communicate()
            return None
    return bytes(out)


@dataclass(frozen=True)
class Commit:
    """What a commit says, and what it changed."""

    id: str
    subject: str
    changed: tuple[str, ...]
    """Files that were there before."""
    added: tuple[str, ...]

    @property
    def files(self) -> tuple[str, ...]:
        return self.changed + self.added


async def find_head(repo: Path) -> str:
    """The commit at HEAD. Raises `NotARepository` when `repo` is not the top of one, or it has none."""
    process = await _start(repo, "rev-parse", "--verify", "--end-of-options", "HEAD^{commit}")
    out, err = await process.communicate()
    if process.returncode:
        said = err.decode(errors="replace").strip()
        raise NotARepository(
            f"{str(repo)!r} is not a git repository with a commit: {said}",
            hint="Give the top folder of a repository; `git init` and a first commit make one.",
        )
    return out.decode().strip()


async def list_tree(repo: Path, commit: str) -> list[TreeEntry]:
    """Every regular file of a commit."""
    process = await _start(repo, "ls-tree", "-r", "-l", "-z", "--full-tree", commit)
    out = await _read_at_most(process, MAX_TREE_BYTES)
    if out is None:
        raise TooLarge(
            f"The tree of {commit[:12]} in {str(repo)!r} lists more than {MAX_TREE_BYTES} bytes of file names.",
            hint="A few objects can stand for billions of files: such a repository is not indexed.",
        )
    assert process.stderr  # noqa: S101 - opened as a pipe
    err = await process.stderr.read()
    if await process.wait():
        raise ProgramFailed(f"git ls-tree failed in {str(repo)!r}: {err.decode(errors='replace').strip()}")
    entries: list[TreeEntry] = []
    for record in out.split(b"\0")[:-1]:
        facts, _, path = record.partition(b"\t")
        mode, _, blob, size = facts.decode().split()
        if mode in _REGULAR_FILES:
            entries.append(TreeEntry(path.decode(errors="replace"), blob, int(size)))
    return entries


async def list_commits(repo: Path, head: str, most: int) -> list[Commit]:
    """The last `most` commits up to `head` without merges, oldest first. Raises `ProgramFailed`, `TooLarge`."""
    # A repository's own configuration could make `git log` run a program to check signatures.
    safe = ("--no-show-signature", "--no-ext-diff", "--no-textconv", "--no-renames", "--no-merges")
    shape = ("--name-status", "--format=%x00%H%x09%s", f"--max-count={most}", "--end-of-options", head)
    process = await _start(repo, "-c", "core.quotePath=false", "log", *safe, *shape)
    try:
        out = await _read_at_most(process, MAX_LOG_BYTES)
        err = await process.stderr.read() if process.stderr else b""
        code = await process.wait()
    finally:
        process.kill()  # where this is cancelled, it is in the middle of a long history
    if out is None:
        raise TooLarge(
            f"The last {most} commits of {str(repo)!r} name more than {MAX_LOG_BYTES} bytes of files.",
            hint="Ask about fewer commits.",
        )
    if code:
        raise ProgramFailed(f"git log failed in {str(repo)!r}: {err.decode(errors='replace').strip()}")
    records = out.decode(errors="replace").split("\0")[1:]
    return [_read_commit(record) for record in reversed(records)]


def _read_commit(record: str) -> Commit:
    head, _, changes = record.partition("\n")
    id_, _, subject = head.partition("\t")
    lines = [line.partition("\t") for line in changes.split("\n")]
    paths = {kind: tuple(path for status, _, path in lines if status == kind) for kind in "MA"}
    return Commit(id_, subject, paths["M"], paths["A"])


async def read_blobs(repo: Path, blobs: Iterable[str]) -> AsyncGenerator[tuple[str, bytes]]:
    """(blob id, content) for each id, one at a time."""
    async with _cat_file(repo) as process:
        assert process.stdin  # noqa: S101 - opened as pipes
        assert process.stdout  # noqa: S101
        for blob in blobs:
            if not process.stdin.is_closing():  # what it has not said then is told below
                process.stdin.write(blob.encode() + b"\n")
            header = (await process.stdout.readline()).decode().split()
            if len(header) != 3:  # noqa: PLR2004 - "id type size"; else "id missing", or nothing at all
                raise ProgramFailed(f"git has no object {blob!r} in {str(repo)!r}: {' '.join(header) or 'it ended'}")
            content = await process.stdout.readexactly(int(header[2]) + 1)
            yield blob, content[:-1]


@asynccontextmanager
async def _cat_file(repo: Path) -> AsyncGenerator[Child]:
    process = await _start(repo, "cat-file", "--batch")
    try:
        yield process
    finally:
        if process.returncode is None:
            process.kill()
        await process.communicate()


async def _start(repo: Path, *arguments: str) -> Child:
    return await start_child(
        _find_git(repo),
        *("-C", str(repo), *arguments),
        stdin=PIPE if "--batch" in arguments else DEVNULL,
        stdout=PIPE,
        stderr=PIPE,
        env=_make_environment(repo),
    )


def _find_git(repo: Path) -> str:
    """The program, once it is sure that there is a folder to run it in."""
    git = shutil.which("git")
    if git is None:
        raise ProgramFailed("git is not installed.", hint="Install git and see that it is on PATH.")
    if not repo.is_dir():
        raise NotARepository(f"{str(repo)!r} is not a folder.", hint="Give the top folder of a git repository.")
    return git


def _make_environment(repo: Path) -> dict[str, str]:
    return {
        "PATH": os.defpath,
        "LC_ALL": "C",
        "GIT_CONFIG_NOSYSTEM": "1",
        "GIT_CONFIG_GLOBAL": os.devnull,
        "GIT_CEILING_DIRECTORIES": str(repo.parent),  # a folder inside a repository is not that repository
        "GIT_ALLOW_PROTOCOL": "none",  # a partial clone must not fetch, with a program of its choice
        "GIT_NO_REPLACE_OBJECTS": "1",
        "GIT_OPTIONAL_LOCKS": "0",
        "GIT_TERMINAL_PROMPT": "0",
    }
