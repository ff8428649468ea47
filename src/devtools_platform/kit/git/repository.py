"""A person's own repository: read, and never changed but for one new branch or ref."""

import base64
import os
from dataclasses import dataclass, replace
from pathlib import Path

from devtools_platform.core.errors import BadInput, Conflict, NotARepository, NotFound
from devtools_platform.kit.git.program import Done, git, in_clone, run, split_paths, text_of, without_filters


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


async def resolve_repository(path: Path) -> Repository:
    """The repository `path` lies in. Raises `NotARepository` saying which of its conditions is not met."""
    if not path.is_dir():  # noqa: ASYNC240 - one look at a local folder
        raise NotARepository(f"{str(path)!r} is not a folder.", hint="Give the path of a git repository.")
    top = await run(["rev-parse", "--is-bare-repository", "--show-toplevel"], cwd=path, check=False)
    is_bare, _, toplevel = top.stdout.partition(b"\n")
    if top.code != 0 or is_bare == b"true":
        raise _not_a_repository(path, top, is_bare=is_bare == b"true")
    root = Path(os.fsdecode(toplevel.removesuffix(b"\n")))
    # All in one: the commit, the branch and whether anything differs. The distance to an upstream is not asked for.
    status = ["status", "--porcelain=v2", "--branch", "--no-ahead-behind", "-z"]
    status += ["--untracked-files=normal", "--ignore-submodules=all"]
    found = await run(status, cwd=root, env=await without_filters(root))
    lines = split_paths(found.stdout)
    said = dict(line.removeprefix("# branch.").split(" ", 1) for line in lines if line.startswith("# branch."))
    if said["oid"] == "(initial)":
        raise NotARepository(
            f"{str(root)!r} has no commit yet; a task needs one to start from.",
            hint=f"Run `git -C {root} add -A && git -C {root} commit -m Start`.",
        )
    branch = None if said["head"] == "(detached)" else said["head"]
    return Repository(root, said["oid"], branch, is_dirty=any(not line.startswith("# ") for line in lines))


async def at_commit(repo: Repository, commit: str) -> Repository:
    """`repo` as if its HEAD were at `commit`. Raises `NotFound` when it does not have it."""
    found = await run(["rev-parse", "--verify", "--quiet", f"{commit}^{{commit}}"], cwd=repo.path, check=False)
    if found.code != 0:
        raise NotFound(
            f"{str(repo.path)!r} has no commit {commit[:12]!r}.", hint=f"Fetch it: `git -C {repo.path} fetch --all`."
        )
    return replace(repo, head=text_of(found), branch=None, rules=repo.head)


async def publish_branch(workspace: Path, repo: Repository, branch: str) -> str:
    """Bring the task's branch into `repo` as a new branch; nothing else changes there. Returns its commit.

    Publishing the same commit again is no error; another commit under that name is a `Conflict`.
    """
    ref = f"refs/heads/{branch}"
    if (await run(["check-ref-format", ref], cwd=repo.path, check=False)).code != 0:
        raise BadInput(f"{branch!r} is not a branch name.", hint="See `git help check-ref-format`.")
    commit = text_of(await in_clone(workspace, "rev-parse", "--verify", f"{ref}^{{commit}}"))
    options = (
        "--quiet",
        "--no-tags",
        "--no-write-fetch-head",
        "--no-recurse-submodules",
        "--no-auto-maintenance",
    )
    await git("fetch", *options, "--", str(workspace), ref, cwd=repo.path, timeout_s=600)
    # All zeros: only if the branch does not exist at this very moment.
    created = await run(["update-ref", ref, commit, "0" * len(commit)], cwd=repo.path, check=False)
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
    await run(push, cwd=repo, env=_with_token(token), timeout_s=600)


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
    await run(["fetch", *options, "--", url, f"+{ref}:{kept_as}"], cwd=repo, env=_with_token(token), timeout_s=600)
    return text_of(await run(["rev-parse", "--verify", f"{kept_as}^{{commit}}"], cwd=repo))


async def branch_commit(repo: Repository, branch: str) -> str | None:
    """The commit `branch` is at; None when there is no such branch."""
    find = ["rev-parse", "--verify", "--quiet", f"refs/heads/{branch}^{{commit}}"]
    done = await run(find, cwd=repo.path, check=False)
    return text_of(done) if done.code == 0 else None


def _not_a_repository(path: Path, answer: Done, *, is_bare: bool) -> NotARepository:
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
