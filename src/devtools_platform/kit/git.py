"""Git, run so that no repository can make it run anything else.

Two kinds of repository meet here: the person's own, which is read and never changed but for one new branch,
and the clone a task works in, whose files were written by models and by programs models wrote. Neither gets
its hooks, filters, file monitors, external diffs or submodules executed. Files are staged by path with
plumbing commands: `git add` and `git status` start a second git in any submodule, under the configuration
that lies there.
"""

import asyncio
import base64
import errno
import os
import re
import shutil
import signal
import tempfile
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path

from devtools_platform.core.errors import BadInput, Conflict, DiskFull, NotARepository, NotFound, ProgramFailed
from devtools_platform.core.redact import redact_text
from devtools_platform.core.tasks import DiffStat

BASE_REF = "refs/dev-tools/base"
"""In a task's clone: the commit the task started from."""

RULES_REF = "refs/dev-tools/rules"
"""In a clone that started from another commit than the repository's own: that one."""

SNAPSHOT_REFS = "refs/dev-tools/snapshots/"
"""In a task's clone: its files as they were after each agent's run."""

MAX_STDERR_BYTES = 20_000

_ENV = {
    "PATH": "/usr/local/bin:/usr/bin:/bin",
    "HOME": "/nonexistent",
    "LANG": "C.UTF-8",
    "GIT_CONFIG_NOSYSTEM": "1",
    "GIT_CONFIG_GLOBAL": os.devnull,
    "GIT_ATTR_NOSYSTEM": "1",
    "GIT_TERMINAL_PROMPT": "0",
    "GIT_OPTIONAL_LOCKS": "0",
    "GIT_NO_REPLACE_OBJECTS": "1",
}
_SETTINGS = (
    "core.hooksPath=/dev/null",
    "core.fsmonitor=false",
    "core.quotePath=false",
    "protocol.ext.allow=never",
    "submodule.recurse=false",
    "diff.ignoreSubmodules=all",
    "gc.auto=0",
    "maintenance.auto=false",
    "commit.gpgSign=false",
    "advice.detachedHead=false",
)
_DIFF = ("--no-ext-diff", "--no-textconv", "--no-renames", "--no-color", "--ignore-submodules=all")


@dataclass(frozen=True)
class Repository:
    """A person's repository as it was when we looked."""

    path: Path
    """The top of its working tree."""
    head: str
    branch: str | None
    """None when HEAD is detached."""
    is_dirty: bool
    rules: str | None = None
    """The commit whose settings a task heeds where that is not `head`: what it starts from may be a stranger's."""


@dataclass(frozen=True)
class _Done:
    code: int
    stdout: bytes
    stderr: str


async def git(*args: str, cwd: Path, timeout_s: float = 60, check: bool = True) -> str:
    """What git printed. Raises `ProgramFailed` with git's own words when it fails and `check` is set."""
    done = await _run(args, cwd=cwd, timeout_s=timeout_s, check=check)
    return done.stdout.decode("utf-8", errors="replace")


async def resolve_repository(path: Path) -> Repository:
    """The repository `path` lies in. Raises `NotARepository` saying which of its conditions is not met."""
    if not path.is_dir():  # noqa: ASYNC240 - one look at a local folder
        raise NotARepository(f"{str(path)!r} is not a folder.", hint="Give the path of a git repository.")
    top = await _run(["rev-parse", "--is-bare-repository", "--show-toplevel"], cwd=path, check=False)
    is_bare, _, toplevel = top.stdout.partition(b"\n")
    if top.code != 0 or is_bare == b"true":
        raise _not_a_repository(path, top, is_bare=is_bare == b"true")
    root = Path(os.fsdecode(toplevel.removesuffix(b"\n")))
    head = await _run(["rev-parse", "--verify", "--quiet", "HEAD^{commit}"], cwd=root, check=False)
    if head.code != 0:
        raise NotARepository(
            f"{str(root)!r} has no commit yet; a task needs one to start from.",
            hint=f"Run `git -C {root} add -A && git -C {root} commit -m Start`.",
        )
    branch = await _run(["symbolic-ref", "--quiet", "--short", "HEAD"], cwd=root, check=False)
    status = ["status", "--porcelain", "-z", "--untracked-files=normal", "--ignore-submodules=all"]
    changes = await _run(status, cwd=root, env=await _without_filters(root))
    return Repository(root, _text(head), _text(branch) or None, is_dirty=bool(changes.stdout))


async def at_commit(repo: Repository, commit: str) -> Repository:
    """`repo` as if its HEAD were at `commit`. Raises `NotFound` when it does not have it."""
    found = await _run(["rev-parse", "--verify", "--quiet", f"{commit}^{{commit}}"], cwd=repo.path, check=False)
    if found.code != 0:
        raise NotFound(
            f"{str(repo.path)!r} has no commit {commit[:12]!r}.", hint=f"Fetch it: `git -C {repo.path} fetch --all`."
        )
    return replace(repo, head=_text(found), branch=None, rules=repo.head)


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
    await git("clone", *options, "--", str(repo.path), str(half_done), cwd=destination.parent, timeout_s=600)
    await git("remote", "remove", "origin", cwd=half_done)
    await git("config", "dev-tools.origin", str(repo.path), cwd=half_done)
    await git("update-ref", BASE_REF, repo.head, cwd=half_done)
    if repo.rules is not None:
        await git("update-ref", RULES_REF, repo.rules, cwd=half_done)
    await asyncio.to_thread(_write_attributes, half_done)
    await git("checkout", "--quiet", "--force", "--no-track", "-B", branch, repo.head, cwd=half_done, timeout_s=600)
    half_done.rename(destination)
    return branch


async def origin_of(workspace: Path) -> Path | None:
    """The repository a task's clone was made from."""
    done = await _in_clone(workspace, "config", "--get", "dev-tools.origin", check=False)
    return Path(os.fsdecode(done.stdout.removesuffix(b"\n"))) if done.code == 0 else None


async def base_commit(workspace: Path) -> str:
    """The commit the task started from."""
    return _text(await _in_clone(workspace, "rev-parse", "--verify", f"{BASE_REF}^{{commit}}"))


async def rules_commit(workspace: Path) -> str:
    """The commit whose settings the task heeds: the repository's own, also where it started from another."""
    done = await _in_clone(workspace, "rev-parse", "--verify", "--quiet", f"{RULES_REF}^{{commit}}", check=False)
    return _text(done) if done.code == 0 else await base_commit(workspace)


async def head_of(workspace: Path) -> str:
    """The commit a task's branch is at."""
    return _text(await _in_clone(workspace, "rev-parse", "--verify", "HEAD^{commit}"))


async def file_at(workspace: Path, commit: str, path: str) -> str | None:
    """A file's text as `commit` has it; None when it has no such file."""
    done = await _in_clone(workspace, "cat-file", "blob", f"{commit}:{path}", check=False)
    return done.stdout.decode("utf-8", errors="replace") if done.code == 0 else None


async def list_files(workspace: Path, pattern: str = "**") -> tuple[str, ...]:
    """Tracked files, and untracked ones that are not ignored. `pattern` is a glob from the top."""
    listing = ["ls-files", "-z", "--cached", "--others", "--exclude-standard", "--", f":(glob){pattern}"]
    names = set(_paths((await _in_clone(workspace, *listing)).stdout))
    return tuple(_printable(name) for name in sorted(names) if _is_file(workspace, name))


async def commit_all(workspace: Path, message: str, author: str) -> str | None:
    """Commit everything that is not ignored; None when nothing changed. `author` reads `Name <address>`.

    Embedded repositories are left out: their files belong to someone else's history.
    """
    await _stage(workspace, env={})
    tree = _text(await _in_clone(workspace, "write-tree"))
    head = _text(await _in_clone(workspace, "rev-parse", "--verify", "HEAD^{commit}"))
    if tree == _text(await _in_clone(workspace, "rev-parse", f"{head}^{{tree}}")):
        return None
    create = ["commit-tree", tree, "-p", head, "-F", "-"]
    made = await _in_clone(workspace, *create, stdin=message.encode(errors="replace"), env=_identity(author))
    await _in_clone(workspace, "update-ref", "HEAD", _text(made), head)
    return _text(made)


async def take_snapshot(workspace: Path, name: str, author: str) -> None:
    """Keep the files as they are now, under `name`, without a commit on the branch. Taking it again replaces it."""
    async with _snapshot(workspace) as env:
        tree = _text(await _in_clone(workspace, "write-tree", env=env))
    create = ["commit-tree", tree, "-p", BASE_REF, "-m", f"Snapshot {name}"]
    made = _text(await _in_clone(workspace, *create, env=_identity(author)))
    await _in_clone(workspace, "update-ref", f"{SNAPSHOT_REFS}{name}", made)


async def restore_snapshot(workspace: Path, name: str | None, branch: str) -> None:
    """Make the files what they were at a snapshot (None: as cloned), on `branch`, which begins at the base again.

    Files that no ignore rule names and the snapshot does not have are removed; ignored ones stay.
    Raises `Conflict` when there is no such snapshot.
    """
    ref = BASE_REF if name is None else f"{SNAPSHOT_REFS}{name}"
    found = await _in_clone(workspace, "rev-parse", "--verify", "--quiet", f"{ref}^{{commit}}", check=False)
    if found.code != 0:
        raise Conflict(
            f"The workspace {workspace.name!r} has no snapshot {name!r}.", hint="Start from an earlier step."
        )
    base = await base_commit(workspace)
    await _in_clone(workspace, "symbolic-ref", "HEAD", f"refs/heads/{branch}")
    await _in_clone(workspace, "update-ref", "HEAD", base)
    await _in_clone(workspace, "read-tree", "--reset", "-u", _text(found), timeout_s=300)
    _, new = await _unstaged(workspace, {})
    for path in new:
        await asyncio.to_thread((workspace / os.fsdecode(path)).unlink, missing_ok=True)
    # The files stay; only the index goes back, so that the next commit sees them all as changes.
    await _in_clone(workspace, "read-tree", "--reset", base)


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
    await _in_clone(workspace, *fetch, "--", str(other), f"+{theirs}:{theirs}", timeout_s=600)
    base = _text(await _in_clone(workspace, "rev-parse", f"{SNAPSHOT_REFS}{since}^{{commit}}"))
    sides = [
        _text(await _in_clone(workspace, *_child_of(base, f"{SNAPSHOT_REFS}{name}"), env=_identity(author)))
        for name in ("merge-ours", "merge-theirs")
    ]
    merge = ["merge-tree", "--write-tree", "--name-only", "--no-messages", "-z", *sides]
    merged = await _in_clone(workspace, *merge, check=False, timeout_s=300)
    tree, *files = [part.decode("utf-8", errors="replace") for part in merged.stdout.split(b"\0") if part]
    if merged.code == 1:
        return tuple(files)
    if merged.code != 0:
        raise ProgramFailed(f"git could not merge the files of {other.name!r}: {merged.stderr}")
    create = ["commit-tree", tree, "-p", BASE_REF, "-m", "Snapshot merged"]
    made = _text(await _in_clone(workspace, *create, env=_identity(author)))
    await _in_clone(workspace, "update-ref", f"{SNAPSHOT_REFS}merged", made)
    branch = _text(await _in_clone(workspace, "symbolic-ref", "--short", "HEAD"))
    await restore_snapshot(workspace, "merged", branch)
    return ()


def _child_of(base: str, snapshot: str) -> list[str]:
    """A commit with a snapshot's files whose parent is `base`: a merge then finds the right ancestor by itself."""
    return ["commit-tree", f"{snapshot}^{{tree}}", "-p", base, "-m", "Merge side"]


async def diff_stat(workspace: Path, base: str) -> DiffStat:
    """Size of the difference between `base` and the files as they are. Binary files have no lines."""
    rows = _paths(await _diff(workspace, base, "--numstat", "-z"))
    counts = [row.split("\t", 2)[:2] for row in rows]
    added, deleted = (sum(int(count[side]) for count in counts if count[side] != "-") for side in (0, 1))
    return DiffStat(files=len(counts), insertions=added, deletions=deleted)


async def diff_text(workspace: Path, base: str, max_chars: int) -> str:
    """The difference as a patch, untracked files included, cut after `max_chars` with a line that says so."""
    patch = await _diff(workspace, base, "--patch", max_bytes=4 * max_chars + 4)
    text = patch.decode("utf-8", errors="replace")
    return text if len(text) <= max_chars else f"{text[:max_chars]}\n[... diff cut after {max_chars} characters ...]\n"


async def changed_paths(workspace: Path, base: str) -> tuple[str, ...]:
    """Files added, changed or deleted since `base`, untracked ones included."""
    return tuple(_printable(name) for name in _paths(await _diff(workspace, base, "--name-only", "-z")))


async def added_lines(workspace: Path, base: str, max_bytes: int) -> dict[str, dict[int, str]] | None:
    """For each changed text file its added lines by number; None when the difference is over `max_bytes`."""
    async with _snapshot(workspace) as env:
        names = await _diff_index(workspace, env, base, "--name-only", "-z")
        patch = await _diff_index(workspace, env, base, "--patch", "--unified=0", max_bytes=max_bytes + 1)
    if len(patch) > max_bytes:
        return None
    # Patches come in the order of the names, which spares us from reading quoted names in them.
    sections = re.split(rb"^diff --git .*\n", patch, flags=re.MULTILINE)[1:]
    pairs = zip(_paths(names), sections, strict=True)
    return {_printable(name): _added(section) for name, section in pairs}


async def publish_branch(workspace: Path, repo: Repository, branch: str) -> str:
    """Bring the task's branch into `repo` as a new branch; nothing else changes there. Returns its commit.

    Publishing the same commit again is no error; another commit under that name is a `Conflict`.
    """
    ref = f"refs/heads/{branch}"
    if (await _run(["check-ref-format", ref], cwd=repo.path, check=False)).code != 0:
        raise BadInput(f"{branch!r} is not a branch name.", hint="See `git help check-ref-format`.")
    commit = _text(await _in_clone(workspace, "rev-parse", "--verify", f"{ref}^{{commit}}"))
    options = (
        "--quiet",
        "--no-tags",
        "--no-write-fetch-head",
        "--no-recurse-submodules",
        "--no-auto-maintenance",
    )
    await git("fetch", *options, "--", str(workspace), ref, cwd=repo.path, timeout_s=600)
    # All zeros: only if the branch does not exist at this very moment.
    created = await _run(["update-ref", ref, commit, "0" * len(commit)], cwd=repo.path, check=False)
    if created.code != 0 and (existing := await branch_commit(repo, branch)) != commit:
        raise Conflict(
            f"Branch {branch!r} of {str(repo.path)!r} cannot be made at {commit[:12]}: "
            + (f"it is at {existing[:12]} already." if existing else created.stderr),
            hint=f"Rename the branch in the way: `git -C {repo.path} branch -m {branch} {branch}-old`.",
        )
    return commit


async def push_branch(repo: Path, branch: str, url: str, remote_branch: str, token: str) -> None:
    """Make `remote_branch` at `url` what `branch` of `repo` is. It must be a branch of our own: it is overwritten.

    The token travels in git's environment, where neither other users nor error messages see it.
    """
    refs = f"+refs/heads/{branch}:refs/heads/{remote_branch}"
    push = ["push", "--quiet", "--no-verify", "--", url, refs]
    await _run(push, cwd=repo, env=_with_token(token), timeout_s=600)


def _with_token(token: str) -> dict[str, str]:
    header = base64.b64encode(f"x-access-token:{token}".encode()).decode()
    return {
        "GIT_CONFIG_COUNT": "1",
        "GIT_CONFIG_KEY_0": "http.extraHeader",
        "GIT_CONFIG_VALUE_0": f"Authorization: Basic {header}",
    }


async def fetch_ref(repo: Path, url: str, ref: str, kept_as: str, token: str) -> str:
    """Fetch `ref` from `url` into `repo` and keep it under the ref `kept_as`; returns its commit.

    Nothing else of the repository changes. The token travels as in `push_branch`.
    """
    options = ("--quiet", "--no-tags", "--no-recurse-submodules", "--no-write-fetch-head", "--no-auto-maintenance")
    await _run(["fetch", *options, "--", url, f"+{ref}:{kept_as}"], cwd=repo, env=_with_token(token), timeout_s=600)
    return _text(await _run(["rev-parse", "--verify", f"{kept_as}^{{commit}}"], cwd=repo))


async def branch_commit(repo: Repository, branch: str) -> str | None:
    """The commit `branch` is at; None when there is no such branch."""
    find = ["rev-parse", "--verify", "--quiet", f"refs/heads/{branch}^{{commit}}"]
    done = await _run(find, cwd=repo.path, check=False)
    return _text(done) if done.code == 0 else None


def _write_attributes(clone: Path) -> None:
    """What stands here wins over any `.gitattributes`: a task can neither ask for filters, nor call its text
    binary to keep it out of the diff that is reviewed."""
    folder = clone / ".git" / "info"
    folder.mkdir(exist_ok=True)
    (folder / "attributes").write_text("* !filter !diff\n")


async def _stage(workspace: Path, env: Mapping[str, str]) -> None:
    """Make the index (of `env`) equal to the files: changed and deleted tracked ones, and new ones."""
    changed, new = await _unstaged(workspace, env)
    gone = [path for status, path in changed if status == b"D"]
    kept = [path for status, path in changed if status != b"D"]
    # Deleted ones first: a file may have become a folder.
    for option, paths in (("--force-remove", gone), ("--add", kept + new)):
        listing = b"".join(path + b"\0" for path in paths)
        update = ["update-index", option, "-z", "--stdin"]
        await _in_clone(workspace, *update, env=env, stdin=listing, timeout_s=300)


async def _unstaged(workspace: Path, env: Mapping[str, str]) -> tuple[list[tuple[bytes, bytes]], list[bytes]]:
    """(status letter, path) of tracked files that differ from the index, and the untracked files."""
    differing = ["diff-files", "-z", "--name-status", "--ignore-submodules=all"]
    others = ["ls-files", "-z", "--others", "--exclude-standard"]
    fields = (await _in_clone(workspace, *differing, env=env)).stdout.split(b"\0")[:-1]
    found = (await _in_clone(workspace, *others, env=env)).stdout.split(b"\0")[:-1]
    changed = list(zip(fields[::2], fields[1::2], strict=True))
    return changed, [path for path in found if not path.endswith(b"/")]  # a slash: an embedded repository


@asynccontextmanager
async def _snapshot(workspace: Path) -> AsyncGenerator[Mapping[str, str]]:
    """An environment with a throw-away index that holds the files as they are now."""
    with tempfile.TemporaryDirectory(prefix="dev-tools-index-") as folder:
        index = Path(folder) / "index"
        # With its time: git reads a file anew that is not older than the index, by whole seconds. Beside a newer
        # index it would miss a change of the same length made in the second of the checkout.
        await asyncio.to_thread(shutil.copy2, workspace / ".git" / "index", index)
        env = {"GIT_INDEX_FILE": str(index)}
        await _stage(workspace, env)
        yield env


async def _diff(workspace: Path, base: str, *options: str, max_bytes: int | None = None) -> bytes:
    async with _snapshot(workspace) as env:
        return await _diff_index(workspace, env, base, *options, max_bytes=max_bytes)


async def _diff_index(
    workspace: Path, env: Mapping[str, str], base: str, *options: str, max_bytes: int | None = None
) -> bytes:
    """Compare two trees git stores: no file is opened, so no filter can be asked for."""
    compare = ["diff-index", "--cached", *_DIFF, *options, "--end-of-options", base]
    return (await _in_clone(workspace, *compare, env=env, max_bytes=max_bytes)).stdout


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


async def _in_clone(
    workspace: Path,
    *args: str,
    env: Mapping[str, str] | None = None,
    stdin: bytes = b"",
    check: bool = True,
    timeout_s: float = 60,
    max_bytes: int | None = None,
) -> _Done:
    """Run git in a task's clone, where anything may have been planted.

    It is told where the repository is, so that neither `core.worktree` nor a parent folder is followed.
    Filters are off for every command: even `write-tree` reads files, when their time stamps leave a doubt.
    """
    return await _run(
        ["--git-dir", str(workspace / ".git"), "--work-tree", str(workspace), *args],
        cwd=workspace,
        env={**(env or {}), **await _without_filters(workspace)},
        stdin=stdin,
        check=check,
        timeout_s=timeout_s,
        max_bytes=max_bytes,
    )


async def _without_filters(repository: Path) -> dict[str, str]:
    """Settings, as environment, that empty every content filter the repository's configuration defines."""
    find = ["config", "-z", "--name-only", "--get-regexp", r"^filter\..*\.(clean|smudge|process|required)$"]
    names = _paths((await _run(find, cwd=repository, check=False)).stdout)
    env = {"GIT_CONFIG_COUNT": str(len(names))}
    for place, name in enumerate(names):
        env[f"GIT_CONFIG_KEY_{place}"] = name
        env[f"GIT_CONFIG_VALUE_{place}"] = "false" if name.endswith(".required") else ""
    return env


def _identity(author: str) -> dict[str, str]:
    match = re.fullmatch(r"([^<>\n]+) <([^<>\s]+)>", author)
    if match is None:
        raise BadInput(f"Author {author!r} does not read `Name <address>`.")
    name, address = match.groups()
    roles = ("AUTHOR", "COMMITTER")
    return {f"GIT_{role}_{key}": value for role in roles for key, value in (("NAME", name), ("EMAIL", address))}


def _not_a_repository(path: Path, answer: _Done, *, is_bare: bool) -> NotARepository:
    if "dubious ownership" in answer.stderr:
        return NotARepository(
            f"{str(path)!r} belongs to another user, and git does not trust it.",
            hint=f"Run the stack as the folder's owner, or `chown -R $(id -u) {path}` if it is yours.",
        )
    if is_bare:
        return NotARepository(
            f"{str(path)!r} is a bare repository, without files to work on.",
            hint=f"Clone it first: `git clone {path} work`.",
        )
    if "not a git repository" in answer.stderr:
        return NotARepository(
            f"{str(path)!r} is not in a git repository.",
            hint=f"Run `git -C {path} init` and commit what is there.",
        )
    return NotARepository(f"git cannot read {str(path)!r}: {answer.stderr}", hint=f"Try `git -C {path} status`.")


def _paths(listing: bytes) -> list[str]:
    return [os.fsdecode(name) for name in listing.split(b"\0") if name]


def _printable(name: str) -> str:
    return os.fsencode(name).decode("utf-8", errors="replace")


def _is_file(workspace: Path, name: str) -> bool:
    path = workspace / name
    return path.is_symlink() or path.is_file()


def _text(done: _Done) -> str:
    return done.stdout.decode("utf-8", errors="replace").strip()


async def _run(
    args: Sequence[str],
    *,
    cwd: Path,
    stdin: bytes = b"",
    env: Mapping[str, str] | None = None,
    timeout_s: float = 60,
    check: bool = True,
    max_bytes: int | None = None,
) -> _Done:
    program = shutil.which("git")
    if program is None:
        raise ProgramFailed("git is not installed.", hint="Install git 2.32 or later.")
    settings = (part for setting in _SETTINGS for part in ("-c", setting))
    process = await asyncio.create_subprocess_exec(
        program,
        "--no-pager",
        *settings,
        *args,
        cwd=cwd,
        env={**_ENV, **(env or {})},
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        start_new_session=True,
    )
    try:
        async with asyncio.timeout(timeout_s):
            done = await _communicate(process, stdin, max_bytes)
    except TimeoutError:
        raise ProgramFailed(f"`git {_name(args)}` did not end within {timeout_s:g} s.") from None
    finally:
        if process.returncode is None:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            await process.wait()
    if check and done.code != 0 and os.strerror(errno.ENOSPC) in done.stderr:
        raise DiskFull(f"git has no room left in {str(cwd)!r}.", hint="Free some disk space, then try again.")
    if check and done.code != 0:
        raise ProgramFailed(
            f"`git {_name(args)}` failed in {str(cwd)!r} with exit code {done.code}: {done.stderr}",
            hint=f"See what git says there: `git -C {cwd} status`.",
        )
    return done


async def _communicate(process: asyncio.subprocess.Process, stdin: bytes, max_bytes: int | None) -> _Done:
    assert process.stdin and process.stdout and process.stderr  # noqa: S101, PT018 - all three are pipes
    stdout, stderr, _ = await asyncio.gather(
        _read_head(process.stdout, max_bytes),
        _read_head(process.stderr, MAX_STDERR_BYTES),
        _feed(process.stdin, stdin),
    )
    words = redact_text(stderr.decode("utf-8", errors="replace").strip())
    return _Done(await process.wait(), stdout, words)


async def _read_head(stream: asyncio.StreamReader, max_bytes: int | None) -> bytes:
    """The first `max_bytes`; the rest is read too, so that the writer can end, and dropped."""
    head = bytearray()
    while chunk := await stream.read(1 << 16):
        head += chunk if max_bytes is None else chunk[: max(0, max_bytes - len(head))]
    return bytes(head)


async def _feed(stream: asyncio.StreamWriter, text: bytes) -> None:
    with suppress(BrokenPipeError, ConnectionResetError):
        if text and not stream.is_closing():  # git may have said all it had to say already
            stream.write(text)
            await stream.drain()
    stream.close()


def _name(args: Sequence[str]) -> str:
    """The subcommand: the first word that is neither an option nor an option's path."""
    return next((arg for arg in args if not arg.startswith(("-", "/"))), "")
