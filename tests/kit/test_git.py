"""Git as the platform runs it: nothing planted in a repository is run, nothing of the person's is changed."""

import asyncio
import os
import re
import subprocess
import time
from pathlib import Path

import pytest

from devtools_platform.core.errors import BadInput, Conflict, NotARepository, NotFound, ProgramFailed
from devtools_platform.core.tasks import DiffStat
from devtools_platform.kit.git import (
    Repository,
    added_lines,
    at_commit,
    base_commit,
    branch_commit,
    changed_paths,
    clone_for_task,
    commit_all,
    difference,
    fetch_ref,
    git,
    list_files,
    origin_of,
    publish_branch,
    resolve_repository,
    settings_at,
)

AUTHOR = "Feature Dev <feature-dev@dev-tools.invalid>"


def run(*args: str, cwd: Path) -> str:
    identity = {f"GIT_{r}_{k}": "x" for r in ("AUTHOR", "COMMITTER") for k in ("NAME", "EMAIL")}
    env = {"PATH": "/usr/bin:/bin", "HOME": "/nonexistent", **identity}
    return subprocess.run(["git", *args], cwd=cwd, env=env, check=True, capture_output=True, text=True).stdout


@pytest.fixture
def project(tmp_path: Path) -> Path:
    folder = tmp_path / "project"
    folder.mkdir()
    run("init", "-q", "-b", "main", cwd=folder)
    (folder / "app.py").write_text("one\ntwo\nthree\n")
    (folder / ".gitignore").write_text("*.log\n")
    run("add", "-A", cwd=folder)
    run("commit", "-q", "-m", "Start", cwd=folder)
    return folder


@pytest.fixture
async def repo(project: Path) -> Repository:
    return await resolve_repository(project)


@pytest.fixture
async def clone(repo: Repository, tmp_path: Path) -> Path:
    folder = tmp_path / "workspaces" / "t1"
    await clone_for_task(repo, folder)
    return folder


def plant(git_dir: Path, marker: Path) -> None:
    """Everything in a git folder that makes git run something."""
    script = f'#!/bin/sh\necho "$0" >> {marker}\n'
    (git_dir / "hooks").mkdir(exist_ok=True)
    hooks = [
        "pre-commit",
        "post-commit",
        "commit-msg",
        "post-checkout",
        "reference-transaction",
        "post-index-change",
    ]
    for name in [*hooks, "fsmonitor", "post-merge", "pre-auto-gc"]:
        (git_dir / "hooks" / name).write_text(script)
        (git_dir / "hooks" / name).chmod(0o755)
    tool = git_dir / "hooks" / "fsmonitor"
    with (git_dir / "config").open("a") as config:
        config.write(f"[core]\n\tfsmonitor = {tool}\n\tpager = {tool}\n\teditor = {tool}\n\tgitProxy = {tool}\n")
        config.write(f"[core]\n\thooksPath = {git_dir / 'hooks'}\n\tsshCommand = {tool}\n[gpg]\n\tprogram = {tool}\n")
        config.write(f'[filter "evil"]\n\tclean = {tool}\n\tsmudge = {tool}\n\tprocess = {tool}\n\trequired = true\n')
        config.write(f'[diff]\n\texternal = {tool}\n[diff "evil"]\n\ttextconv = {tool}\n\tcommand = {tool}\n')
        config.write("[commit]\n\tgpgSign = true\n")


ATTRIBUTES = "* filter=evil diff=evil\n"


async def test_a_repository_is_described_from_any_folder_below_it(project: Path) -> None:
    (project / "deep").mkdir()
    repo = await resolve_repository(project / "deep")
    assert repo == Repository(project, run("rev-parse", "HEAD", cwd=project).strip(), "main", is_dirty=False)
    (project / "new.txt").touch()
    run("checkout", "-q", "--detach", cwd=project)
    repo = await resolve_repository(project)
    assert (repo.branch, repo.is_dirty) == (None, True)


async def test_what_is_not_a_usable_repository_is_refused_by_its_reason(tmp_path: Path, project: Path) -> None:
    empty = tmp_path / "empty"
    empty.mkdir()
    run("init", "-q", cwd=empty)
    run("clone", "-q", "--bare", str(project), "bare.git", cwd=tmp_path)
    (tmp_path / "plain").mkdir()
    for folder, reason in [
        (tmp_path / "absent", "is not a folder"),
        (tmp_path / "plain", "is not in a git repository"),
        (empty, "has no commit yet"),
        (tmp_path / "bare.git", "is a bare repository"),
    ]:
        with pytest.raises(NotARepository, match=reason) as raised:
            await resolve_repository(folder)
        assert raised.value.hint


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a folder away")
async def test_a_repository_of_another_user_is_refused_by_name_of_the_reason(project: Path) -> None:
    for path in (project, project / ".git"):
        os.chown(path, 65534, 65534)
    with pytest.raises(NotARepository, match="belongs to another user") as raised:
        await resolve_repository(project)
    assert "owner" in raised.value.hint


async def test_nothing_planted_in_the_persons_repository_is_run(project: Path, tmp_path: Path) -> None:
    marker = tmp_path / "ran"
    (project / ".gitattributes").write_text(ATTRIBUTES)
    run("add", "-A", cwd=project)
    run("commit", "-q", "-m", "Attributes", cwd=project)
    plant(project / ".git", marker)
    (project / "app.py").write_text("1\ntwo\nthree\n")
    repo = await resolve_repository(project)
    clone = tmp_path / "workspaces" / "t1"
    branch = await clone_for_task(repo, clone)
    (clone / "app.py").write_text("changed\n")
    commit = await commit_all(clone, "Change", AUTHOR)
    assert await publish_branch(clone, repo, branch) == commit
    assert repo.is_dirty
    assert not marker.exists()


async def test_nothing_a_program_plants_in_the_clone_is_run(clone: Path, repo: Repository, tmp_path: Path) -> None:
    marker = tmp_path / "ran"
    plant(clone / ".git", marker)
    (clone / ".git" / "info" / "attributes").write_text(ATTRIBUTES)  # as if without the sandbox
    (clone / ".gitattributes").write_text(ATTRIBUTES)
    (clone / "app.py").write_text("changed\n")
    (clone / "new.py").write_text("new\n")
    base = await base_commit(clone)
    assert await changed_paths(clone, base) == (".gitattributes", "app.py", "new.py")
    assert "+changed" in (await difference(clone, base, 10_000))[1]
    assert (await difference(clone, base, 10_000))[0].files == 3
    commit = await commit_all(clone, "Change", AUTHOR)
    assert await publish_branch(clone, repo, "task/t1") == commit
    assert run("show", "task/t1:new.py", cwd=repo.path) == "new\n"
    assert not marker.exists()


@pytest.mark.parametrize(
    ("settings", "file"),
    [
        ('[fIlTeR "evil"]\n\tclean = {tool}\n', "config"),
        ("[iNcLuDe]\n\tpath = more\n", "more"),
        ('[includeIf "gitdir:**"]\n\tpath = more\n', "more"),
        ("[extensions]\n\tworktreeConfig = true\n", "config.worktree"),
    ],
    ids=["in other letters", "included", "included on a condition", "of the worktree"],
)
async def test_no_filter_is_run_wherever_it_is_defined(clone: Path, tmp_path: Path, settings: str, file: str) -> None:
    tool, marker, git_dir = tmp_path / "tool", tmp_path / "ran", clone / ".git"
    tool.write_text(f"#!/bin/sh\necho ran >> {marker}\ncat\n")
    tool.chmod(0o755)
    with (git_dir / "config").open("a") as config:
        config.write(settings.format(tool=tool))
    if file != "config":
        (git_dir / file).write_text(f'[filter "evil"]\n\tclean = {tool}\n')
    (git_dir / "info" / "attributes").write_text("* filter=evil\n")
    (clone / "app.py").write_text("changed\n")
    assert await commit_all(clone, "Change", AUTHOR)
    assert not marker.exists()
    run("add", "--renormalize", "app.py", cwd=clone)
    assert marker.exists(), "git itself would have run it"


async def test_submodules_are_neither_fetched_nor_entered(project: Path, tmp_path: Path) -> None:
    marker = tmp_path / "ran"
    other = tmp_path / "other"
    other.mkdir()
    run("init", "-q", cwd=other)
    run("commit", "-q", "--allow-empty", "-m", "x", cwd=other)
    run("-c", "protocol.file.allow=always", "submodule", "add", "-q", str(other), "sub", cwd=project)
    run("commit", "-q", "-m", "Submodule", cwd=project)
    clone = tmp_path / "workspaces" / "t1"
    await clone_for_task(await resolve_repository(project), clone)
    assert list((clone / "sub").iterdir()) == []
    # A program in the clone makes the submodule's folder a repository that runs things when looked at.
    run("init", "-q", cwd=clone / "sub")
    run("commit", "-q", "--allow-empty", "-m", "y", cwd=clone / "sub")
    plant(clone / "sub" / ".git", marker)
    (clone / "sub" / "file").touch()
    base = await base_commit(clone)
    assert await changed_paths(clone, base) == ()
    assert await commit_all(clone, "x", AUTHOR) is None
    assert not marker.exists()


async def test_an_embedded_repository_is_left_out_of_the_commit(clone: Path, tmp_path: Path) -> None:
    marker = tmp_path / "ran"
    for name in ("empty", "inner"):
        (clone / name).mkdir()
        run("init", "-q", cwd=clone / name)
    run("commit", "-q", "--allow-empty", "-m", "y", cwd=clone / "inner")
    plant(clone / "inner" / ".git", marker)
    (clone / "inner" / "file").touch()
    (clone / "own.txt").write_text("x\n")
    await commit_all(clone, "Change", AUTHOR)
    assert await changed_paths(clone, await base_commit(clone)) == ("own.txt",)
    assert not marker.exists()


async def test_symbolic_links_are_stored_as_links_and_never_followed(clone: Path, tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.mkdir()
    (secret / "key").write_text("top secret\n")
    (clone / "link").symlink_to(secret / "key")
    (clone / "folder").mkdir()
    (clone / "folder" / "key").write_text("mine\n")
    await commit_all(clone, "Change", AUTHOR)
    (clone / "folder" / "key").unlink()
    (clone / "folder").rmdir()
    (clone / "folder").symlink_to(secret)
    commit = await commit_all(clone, "Swap", AUTHOR)
    assert commit
    assert "top secret" not in run("log", "-p", cwd=clone)
    assert run("ls-tree", "--name-only", "-r", commit, cwd=clone).split() == [
        ".gitignore",
        "app.py",
        "folder",
        "link",
    ]


async def test_the_clone_stands_alone_on_its_task_branch(clone: Path, repo: Repository) -> None:
    assert run("branch", "--show-current", cwd=clone) == "task/t1\n"
    assert run("remote", cwd=clone) == ""
    assert run("status", "--porcelain", cwd=clone) == ""
    assert await base_commit(clone) == repo.head
    assert await origin_of(clone) == repo.path
    assert not (clone / ".git" / "hooks").exists()


async def test_cloning_again_after_a_crash_finds_or_finishes_the_clone(repo: Repository, tmp_path: Path) -> None:
    half_done = tmp_path / ".t2.partial"
    half_done.mkdir()
    (half_done / "left-over").touch()
    assert await clone_for_task(repo, tmp_path / "t2") == "task/t2"
    (tmp_path / "t2" / "work").touch()
    assert await clone_for_task(repo, tmp_path / "t2") == "task/t2"
    assert (tmp_path / "t2" / "work").exists()
    assert not half_done.exists()


async def test_the_clone_starts_from_the_commit_not_from_uncommitted_work(project: Path, tmp_path: Path) -> None:
    (project / "app.py").write_text("unfinished\n")
    await clone_for_task(await resolve_repository(project), tmp_path / "t3")
    assert (tmp_path / "t3" / "app.py").read_text() == "one\ntwo\nthree\n"


async def test_everything_but_ignored_files_is_committed(clone: Path) -> None:
    (clone / "app.py").unlink()
    (clone / "app.py").mkdir()
    (clone / "app.py" / "ä ö\n.txt").write_text("x\n")
    (clone / "debug.log").touch()
    (clone / "tool.sh").write_text("#!/bin/sh\n")
    (clone / "tool.sh").chmod(0o755)
    os.mkfifo(clone / "pipe")
    commit = await commit_all(clone, "Rework\n\n# a heading stays", AUTHOR)
    assert commit == run("rev-parse", "task/t1", cwd=clone).strip()
    tree = run("ls-tree", "-r", "-z", "HEAD", cwd=clone).split("\0")
    assert [re.sub(" .*\t", " ", entry) for entry in tree] == [
        "100644 .gitignore",
        "100644 app.py/ä ö\n.txt",
        "100755 tool.sh",
        "",
    ]
    assert run("log", "-1", "--format=%an %ae %cn|%B", cwd=clone).startswith(
        "Feature Dev feature-dev@dev-tools.invalid Feature Dev|Rework\n\n# a heading stays"
    )
    assert run("status", "--porcelain", cwd=clone) == ""


async def test_without_a_change_there_is_no_commit(clone: Path) -> None:
    (clone / "app.py").touch()
    assert await commit_all(clone, "Nothing", AUTHOR) is None


async def test_an_author_that_is_none_is_refused(clone: Path) -> None:
    (clone / "x").touch()
    with pytest.raises(BadInput, match="does not read"):
        await commit_all(clone, "x", "nobody")


async def test_the_difference_counts_untracked_and_binary_files_and_leaves_no_trace(clone: Path) -> None:
    (clone / "app.py").write_text("one\n2\nthree\nfour\n")
    (clone / "new.txt").write_text("a\nb\n")
    (clone / "pic.bin").write_bytes(b"\0\1\2")
    base = await base_commit(clone)
    before = (clone / ".git" / "index").read_bytes()
    assert (await difference(clone, base, 10_000))[0] == DiffStat(files=3, insertions=4, deletions=1)
    text = (await difference(clone, base, 10_000))[1]
    assert "+++ b/new.txt" in text
    assert "Binary files /dev/null and b/pic.bin differ" in text
    assert (await difference(clone, base, 50))[1].endswith("[... diff cut after 50 characters ...]\n")
    assert (clone / ".git" / "index").read_bytes() == before


async def test_a_task_cannot_hide_text_from_the_diff_by_calling_it_binary(clone: Path) -> None:
    (clone / ".gitattributes").write_text("*.py -diff\n* binary\n")
    (clone / "app.py").write_text("changed\n")
    assert "+changed" in (await difference(clone, await base_commit(clone), 10_000))[1]


async def test_a_change_in_the_second_of_the_checkout_is_seen(clone: Path) -> None:
    """Git goes by whole seconds: what changed at the same length within one has the time of the index."""
    second = 0
    while second != int((clone / "app.py").stat().st_ctime):  # until all three fall into one second
        run("rm", "-q", "-f", "app.py", cwd=clone)
        run("checkout", "-q", "HEAD", "--", "app.py", cwd=clone)
        second = int((clone / ".git" / "index").stat().st_mtime)
        (clone / "app.py").write_text("ONE\ntwo\nthree\n")
    await asyncio.sleep(max(0.0, second + 1 - time.time()))
    assert await added_lines(clone, "HEAD", 100_000) == {"app.py": {1: "ONE"}}


async def test_added_lines_carry_their_numbers_whatever_the_file_is_called(clone: Path) -> None:
    (clone / "app.py").write_text("zero\none\ntwo\nnew\nthree\n")
    (clone / 'odd "name"\t.txt').write_text("++ plus\n@@ -1 +9 @@\ndiff --git a/x b/x\n")
    (clone / "pic.bin").write_bytes(b"\0+\n+")
    base = await base_commit(clone)
    assert await added_lines(clone, base, 100_000) == {
        "app.py": {1: "zero", 4: "new"},
        'odd "name"\t.txt': {1: "++ plus", 2: "@@ -1 +9 @@", 3: "diff --git a/x b/x"},
        "pic.bin": {},
    }
    assert await added_lines(clone, base, 50) is None


async def test_listing_shows_what_exists_and_is_not_ignored(clone: Path) -> None:
    (clone / "src" / "deep").mkdir(parents=True)
    (clone / "src" / "deep" / "a.py").touch()
    (clone / "x.log").touch()
    (clone / "app.py").unlink()
    assert await list_files(clone) == (".gitignore", "src/deep/a.py")
    assert await list_files(clone, "src/**/*.py") == ("src/deep/a.py",)


async def test_settings_are_those_of_the_repositorys_own_commit_whatever_the_task_does(
    project: Path, tmp_path: Path
) -> None:
    run("checkout", "-q", "-b", "pull", cwd=project)
    (project / "app.py").write_text("of a stranger\n")
    (project / "theirs.toml").write_text("x\n")
    run("add", "-A", cwd=project)
    run("commit", "-q", "-m", "Pull", cwd=project)
    run("checkout", "-q", "main", cwd=project)
    repo, pulled, own = await resolve_repository(project), tmp_path / "w" / "t1", tmp_path / "w" / "t2"
    await clone_for_task(await at_commit(repo, "pull"), pulled)
    await clone_for_task(repo, own)
    for clone in (pulled, own):
        (clone / "app.py").write_text("edited\n")
        await commit_all(clone, "Edit", AUTHOR)
        assert await settings_at(clone, "app.py") == "one\ntwo\nthree\n"
        assert await settings_at(clone, "theirs.toml") is None
    run("update-ref", "-d", "refs/dev-tools/base", cwd=own)
    with pytest.raises(ProgramFailed):
        await settings_at(own, "app.py")


async def test_publishing_makes_one_branch_and_touches_nothing_else(clone: Path, repo: Repository) -> None:
    (repo.path / "app.py").write_text("unfinished\n")
    (repo.path / "notes.txt").write_text("untracked\n")
    index = (repo.path / ".git" / "index").read_bytes()
    assert await branch_commit(repo, "task/t1") is None
    (clone / "app.py").write_text("done\n")
    commit = await commit_all(clone, "Do it", AUTHOR)
    assert await publish_branch(clone, repo, "task/t1") == commit
    assert await publish_branch(clone, repo, "task/t1") == commit
    assert await branch_commit(repo, "task/t1") == commit
    assert run("branch", "--show-current", cwd=repo.path) == "main\n"
    assert run("status", "--porcelain", cwd=repo.path) == " M app.py\n?? notes.txt\n"
    assert (repo.path / "app.py").read_text() == "unfinished\n"
    assert not (repo.path / ".git" / "FETCH_HEAD").exists()
    assert index == (repo.path / ".git" / "index").read_bytes() or run("diff", "--cached", cwd=repo.path) == ""


async def test_publishing_over_another_commit_is_a_conflict(clone: Path, repo: Repository) -> None:
    run("branch", "task/t1", "main", cwd=repo.path)
    (clone / "app.py").write_text("done\n")
    await commit_all(clone, "Do it", AUTHOR)
    with pytest.raises(Conflict, match=f"it is at {repo.head[:12]} already"):
        await publish_branch(clone, repo, "task/t1")
    assert await branch_commit(repo, "task/t1") == repo.head


async def test_a_branch_in_the_way_of_the_name_is_a_conflict(clone: Path, repo: Repository) -> None:
    run("branch", "task", "main", cwd=repo.path)
    with pytest.raises(Conflict, match="'refs/heads/task' exists"):
        await publish_branch(clone, repo, "task/t1")
    with pytest.raises(BadInput, match="is not a branch name"):
        await publish_branch(clone, repo, "a..b")


async def test_a_head_that_is_fetched_can_be_cloned_and_nothing_else_of_the_repository_changes(
    project: Path, repo: Repository, tmp_path: Path
) -> None:
    remote, other = tmp_path / "remote.git", tmp_path / "other"
    run("clone", "-q", "--bare", str(project), str(remote), cwd=tmp_path)
    run("clone", "-q", str(remote), str(other), cwd=tmp_path)
    (other / "new.py").write_text("1\n")
    run("add", "-A", cwd=other)
    run("commit", "-q", "-m", "Pull", cwd=other)
    run("push", "-q", "origin", "HEAD:refs/pull/31/head", cwd=other)
    head = run("rev-parse", "HEAD", cwd=other).strip()
    with pytest.raises(NotFound, match="has no commit"):
        await at_commit(repo, head)
    before = run("status", "--porcelain", cwd=project), run("rev-parse", "HEAD", cwd=project)

    kept_as = "refs/dev-tools/pulls/31"
    assert await fetch_ref(project, f"file://{remote}", "refs/pull/31/head", kept_as, "token") == head

    assert (run("status", "--porcelain", cwd=project), run("rev-parse", "HEAD", cwd=project)) == before
    assert not (project / ".git" / "FETCH_HEAD").exists()
    clone = tmp_path / "workspaces" / "t31"
    await clone_for_task(await at_commit(repo, head), clone)
    assert (await base_commit(clone), (clone / "new.py").exists()) == (head, True)
    with pytest.raises(ProgramFailed, match="couldn't find remote ref"):
        await fetch_ref(project, f"file://{remote}", "refs/pull/99/head", "refs/dev-tools/pulls/99", "token")


async def test_a_failing_git_is_reported_in_its_own_words(project: Path) -> None:
    with pytest.raises(ProgramFailed, match=r"`git show` failed .* exit code 128: .*no-such"):
        await git("show", "no-such-commit", cwd=project)
    assert await git("show", "no-such-commit", cwd=project, check=False) == ""


async def test_a_git_that_hangs_is_ended(project: Path) -> None:
    os.mkfifo(project / "pipe")
    with pytest.raises(ProgramFailed, match=r"`git hash-object` did not end within 0\.2 s"):
        await git("hash-object", "--", "pipe", cwd=project, timeout_s=0.2)


async def test_a_lock_a_killed_git_left_is_removed(clone: Path) -> None:
    lock = clone / ".git" / "index.lock"
    lock.touch()
    (clone / "new.txt").write_text("new\n")
    assert await commit_all(clone, "New", AUTHOR)
    assert not lock.exists()


async def test_a_lock_that_is_held_is_waited_for_and_never_taken(clone: Path) -> None:
    lock = clone / ".git" / "index.lock"
    (clone / "new.txt").write_text("new\n")
    with lock.open("w"):
        os.utime(lock, (0, 0))  # old, and yet held
        commit = asyncio.create_task(commit_all(clone, "New", AUTHOR))
        done, _ = await asyncio.wait([commit], timeout=2)
        assert not done
        assert lock.exists()
        lock.rename(lock.with_name("kept"))
    assert await commit
