"""git as we run it: no hook, no configuration but the repository's own, no prompt, bounded in time.

A repository a person hands us is trusted as far as its own `.git/config`; a task's clone is written to by code nobody
has read, but never its `.git` (the sandbox mounts that read-only), so what runs here runs as we configured it.
"""

import asyncio
import contextlib
import os
import shutil
from dataclasses import dataclass
from pathlib import Path

from devtools_platform.core.errors import Conflict, DiskFull, NotARepository, ProgramFailed
from devtools_platform.core.redact import redact_text
from devtools_platform.core.tasks import DiffStat

TIMEOUT_S = 120.0
MAX_OUTPUT = 50_000_000
BASE_REF = "refs/dev-tools/base"

_ENV = {
    "PATH": "/usr/local/bin:/usr/bin:/bin",
    "HOME": "/nonexistent",
    "LANG": "C.UTF-8",
    "GIT_CONFIG_NOSYSTEM": "1",
    "GIT_CONFIG_GLOBAL": "/dev/null",
    "GIT_TERMINAL_PROMPT": "0",
    "GIT_OPTIONAL_LOCKS": "0",
}
_SAFE = [
    *("-c", "core.hooksPath=/dev/null"),
    *("-c", "core.fsmonitor=false"),
    *("-c", "core.quotePath=false"),
    *("-c", "protocol.allow=never"),
    *("-c", "protocol.file.allow=always"),
    *("-c", "submodule.recurse=false"),
    *("-c", "fetch.recurseSubmodules=false"),
    *("-c", "gc.auto=0"),
    *("-c", "commit.gpgSign=false"),
    *("-c", "diff.external="),
]


@dataclass(frozen=True)
class Repository:
    """A person's repository: its top folder and what HEAD is."""

    path: Path
    head: str
    is_dirty: bool


async def git(*arguments: str, cwd: Path, check: bool = True, env: dict[str, str] | None = None) -> str:
    """Run git and return what it printed. Raises `ProgramFailed` with its last words."""
    code, out, err = await _run(arguments, cwd, env)
    if check and code != 0:
        words = redact_text(err.strip()[-1000:])
        if "No space left on device" in words:
            raise DiskFull(f"git ran out of room: {words}", hint="Free some disk space and try again.")
        raise ProgramFailed(f"`git {' '.join(arguments[:3])}` failed in {str(cwd)!r}: {words}")
    return out


async def _run(arguments: tuple[str, ...], cwd: Path, env: dict[str, str] | None) -> tuple[int, str, str]:
    process = await asyncio.create_subprocess_exec(
        "git",
        *_SAFE,
        *arguments,
        cwd=cwd,
        env={**_ENV, **(env or {})},
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    try:
        async with asyncio.timeout(TIMEOUT_S):
            out, err = await process.communicate()
    except TimeoutError:
        return 124, "", f"it took longer than {TIMEOUT_S:.0f} s"
    finally:
        if process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                process.kill()
            await process.wait()
    return process.returncode or 0, out[:MAX_OUTPUT].decode("utf-8", "replace"), err.decode("utf-8", "replace")


async def resolve_repository(path: Path) -> Repository:
    """The repository `path` lies in. Raises `NotARepository` saying what it is instead."""
    if not path.is_dir():  # noqa: ASYNC240 - one stat
        raise NotARepository(f"{str(path)!r} is not a folder.", hint="Give --repo the folder of a git repository.")
    code, out, err = await _run(("rev-parse", "--show-toplevel"), path, None)
    if "dubious ownership" in err:
        raise NotARepository(
            f"{str(path)!r} belongs to another user, so its configuration is not trusted.",
            hint="Run the stack as the repository's owner, or change the owner of the folder.",
        )
    if code != 0:
        what = "is a bare repository" if "work tree" in err else "is not in a git repository"
        raise NotARepository(f"{str(path)!r} {what}.", hint="Make one there: `git init && git add -A && git commit`.")
    top = Path(out.strip())
    code, head, _ = await _run(("rev-parse", "--verify", "HEAD^{commit}"), top, None)
    if code != 0:
        raise NotARepository(f"{str(top)!r} has no commit yet.", hint="Make one: `git add -A && git commit`.")
    status = await git("status", "--porcelain", "--ignore-submodules=all", cwd=top)
    return Repository(top, head.strip(), bool(status.strip()))


async def clone_for_task(repository: Repository, destination: Path, task_id: str) -> None:
    """A private clone of HEAD on a new branch `task/<id>`; submodules stay empty, the origin is forgotten."""
    destination.parent.mkdir(parents=True, exist_ok=True)
    partial = destination.with_name(destination.name + ".partial")
    if partial.exists():
        await asyncio.to_thread(shutil.rmtree, partial)
    clone = ("clone", "-q", "--local", "--no-checkout", "--no-tags", "--no-recurse-submodules")
    await git(*clone, "--", str(repository.path), str(partial), cwd=destination.parent)
    await git("checkout", "-q", "-b", f"task/{task_id}", repository.head, cwd=partial)
    await git("remote", "remove", "origin", cwd=partial)
    await git("update-ref", BASE_REF, repository.head, cwd=partial)
    partial.rename(destination)


async def base_commit(workspace: Path) -> str:
    """The commit the task started from."""
    return (await git("rev-parse", BASE_REF, cwd=workspace)).strip()


async def commit_all(workspace: Path, message: str, author: str) -> str | None:
    """Commit everything that changed; None when nothing did. Ignored files stay out."""
    await git("add", "-A", "--", ".", cwd=workspace)
    if not (await git("status", "--porcelain", "--ignore-submodules=all", cwd=workspace)).strip():
        return None
    name, _, mail = author.rstrip(">").partition(" <")
    who = {f"GIT_{role}_NAME": name for role in ("AUTHOR", "COMMITTER")}
    who |= {f"GIT_{role}_EMAIL": mail for role in ("AUTHOR", "COMMITTER")}
    await git("commit", "-q", "--no-verify", "-m", message, cwd=workspace, env=who)
    return (await git("rev-parse", "HEAD", cwd=workspace)).strip()


async def changed_paths(workspace: Path, base: str) -> list[str]:
    """Paths that differ from `base`, new files included, deleted ones not."""
    out = await _diff(workspace, base, "--name-only", "-z", "--diff-filter=d")
    return [path for path in out.split("\0") if path]


async def diff_stat(workspace: Path, base: str) -> DiffStat:
    rows = [row.split("\t", 2) for row in (await _diff(workspace, base, "--numstat", "-z")).split("\0") if row]
    counted = [(int(added), int(gone)) for added, gone, _ in rows if added != "-"]
    return DiffStat(files=len(rows), insertions=sum(a for a, _ in counted), deletions=sum(g for _, g in counted))


async def diff_text(workspace: Path, base: str, max_chars: int, *, context: int = 3) -> str:
    """The unified diff against `base`, cut at `max_chars` with a note."""
    text = await _diff(workspace, base, f"--unified={context}")
    return text if len(text) <= max_chars else f"{text[:max_chars]}\n… the diff goes on …\n"


async def _diff(workspace: Path, base: str, *options: str) -> str:
    """A diff that knows new files: they are entered into an index of its own, not into the clone's."""
    index = workspace / ".git" / "dev-tools-index"
    env = {"GIT_INDEX_FILE": str(index)}
    try:
        await git("read-tree", "HEAD", cwd=workspace, env=env)
        await git("add", "-A", "--", ".", cwd=workspace, env=env)
        fixed = ("--cached", "--no-ext-diff", "--no-textconv", "--no-renames", "--ignore-submodules=all")
        return await git("diff", *fixed, *options, base, "--", cwd=workspace, env=env)
    finally:
        index.unlink(missing_ok=True)


async def branch_commit(repo: Path, branch: str) -> str | None:
    """What a branch points at; None when there is no such branch."""
    out = await git("rev-parse", "--verify", "--quiet", f"refs/heads/{branch}", cwd=repo, check=False)
    return out.strip() or None


async def publish_branch(workspace: Path, repo: Path, branch: str) -> None:
    """Bring `branch` into `repo` by a fetch: its HEAD, index and files are not touched. May be repeated.

    Raises `Conflict` when the branch exists there with another commit.
    """
    ours = await branch_commit(workspace, branch)
    theirs = await branch_commit(repo, branch)
    if theirs is not None and theirs != ours:
        raise Conflict(
            f"The repository already has a branch {branch!r} with another commit ({theirs[:12]}).",
            hint=f"Rename or delete it: `git branch -m {branch} OTHER`.",
        )
    if theirs == ours:
        return
    where = os.fspath(workspace)
    fetch = ("fetch", "-q", "--no-tags", "--no-write-fetch-head", "--no-auto-gc")
    await git(*fetch, where, f"refs/heads/{branch}:refs/heads/{branch}", cwd=repo)
