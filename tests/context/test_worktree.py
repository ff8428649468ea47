"""Files on disk: what is ignored, what is read, and that a saved file is found at once."""

import asyncio
import os
import subprocess
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path

import pytest

from devtools_platform.context.manifest import Manifest, carry_paths, get_paths
from devtools_platform.context.service import ContextService
from devtools_platform.context.worktree import IgnoreRules, list_files, make_blob_id, read_file

Commit = Callable[[Path, Mapping[str, str | bytes | None]], str]

MODULE = "def {name}(value):\n    return value\n"


def git(repo: Path, *arguments: str) -> str:
    environment = {"PATH": os.defpath, "GIT_CONFIG_NOSYSTEM": "1", "GIT_CONFIG_GLOBAL": os.devnull}
    command = ["git", *arguments]
    return subprocess.run(command, cwd=repo, env=environment, check=True, capture_output=True, text=True).stdout.strip()


def write(root: Path, files: Mapping[str, str | bytes]) -> None:
    for name, content in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(content if isinstance(content, bytes) else content.encode())


@pytest.fixture
def root(tmp_path: Path) -> Path:
    root = tmp_path / "tree"
    root.mkdir()
    return root


async def find(service: ContextService, query: str) -> list[str]:
    return [hit.name for hit in await service.search("shop", query)]


async def wait_until_found(service: ContextService, name: str) -> float:
    """Seconds until a search finds the function."""
    started = time.perf_counter()
    async with asyncio.timeout(5):
        while name not in await find(service, name):  # noqa: ASYNC110 - what is measured is a search
            await asyncio.sleep(0)
    return time.perf_counter() - started


def test_ignore_files_at_every_level_decide_as_git_does(root: Path):
    write(
        root,
        {
            ".gitignore": "*.log\n/build/\n!kept.log\n",
            "app/.gitignore": "local_*\n!other.log\n",
            "app/deep/.devtoolsignore": "private.py\n",
            **dict.fromkeys(
                ["a.py", "a.log", "kept.log", "build/x.py", "app/build/x.py", "app/local_x.py", "app/other.log"], ""
            ),
            **dict.fromkeys(["app/deep/private.py", "app/deep/local_y.py", "app/deep/fine.py"], ""),
        },
    )
    git(root, "init", "-q")
    write(root, {".git/info/exclude": "a.py\n"})
    found = {entry.path for entry in list_files(root, {}, IgnoreRules(root))[0]}
    (root / "app/deep/private.py").unlink()  # git does not know our own ignore file
    listed = git(root, "ls-files", "--others", "--exclude-standard").split("\n")
    assert found == set(listed)
    rules = IgnoreRules(root)
    assert all(rules.ignores(path) for path in ("build/x.py", "a.log", ".git/config", "app/deep/private.py"))
    assert not any(rules.ignores(path) for path in found)


def test_the_id_of_a_content_is_gits(root: Path):
    write(root, {"a.py": "print(1)\n"})
    git(root, "init", "-q")
    assert make_blob_id(b"print(1)\n") == git(root, "hash-object", "a.py")


def test_links_pipes_and_loops_are_not_read(root: Path, tmp_path: Path):
    write(root, {"a.py": "x = 1\n", "d/b.py": "y = 2\n"})
    write(tmp_path, {"outside/secret.py": "password\n"})
    (root / "loop").symlink_to(root)
    (root / "file.py").symlink_to(tmp_path / "outside/secret.py")
    (root / "folder").symlink_to(tmp_path / "outside")
    os.mkfifo(root / "pipe.py")
    assert [entry.path for entry in list_files(root, {}, IgnoreRules(root))[0]] == ["a.py", "d/b.py"]
    for path in ("file.py", "folder/secret.py", "../outside/secret.py", "pipe.py", "none.py", "bad\0name"):
        assert read_file(root, path) is None
    assert read_file(root, "d/b.py") == b"y = 2\n"


def test_only_changed_files_are_read_again(root: Path):
    write(root, {"a.py": "x = 1\n", "b.py": "y = 1\n"})
    entries, stamps = list_files(root, {}, IgnoreRules(root))
    known = {entry.path: (f"known {entry.path}", stamps[entry.path]) for entry in entries}
    write(root, {"b.py": "y = 22\n"})
    again, _ = list_files(root, known, IgnoreRules(root))
    assert [entry.blob for entry in again] == ["known a.py", make_blob_id(b"y = 22\n")]


async def test_uncommitted_files_are_found_when_the_index_follows_files(
    service: ContextService, root: Path, commit: Commit
):
    head = commit(root, {"a.py": MODULE.format(name="committed")})
    write(root, {"b.py": MODULE.format(name="uncommitted"), ".env": "UNCOMMITTED=1\n"})
    status = await service.index("shop", root, follow="files")
    assert (status.follows, status.files, status.commit) == ("files", 2, head)
    assert await find(service, "uncommitted") == ["uncommitted"]
    assert status.skipped == {".env": "its name says it holds credentials"}


async def test_a_folder_without_git_can_be_indexed(service: ContextService, root: Path):
    write(root, {"a.py": MODULE.format(name="plain")})
    status = await service.index("shop", root, follow="files")
    assert (status.files, status.commit) == (1, None)
    assert await find(service, "plain") == ["plain"]


async def test_a_change_from_commit_to_files_and_back_leaves_nothing_behind(
    service: ContextService, root: Path, commit: Commit
):
    commit(root, {"a.py": MODULE.format(name="one"), "b.py": MODULE.format(name="two")})
    before = await service.index("shop", root)
    write(root, {"b.py": MODULE.format(name="three")})
    await service.index("shop", root, follow="files")
    assert await find(service, "two three") == ["three"]
    after = await service.index("shop", root)
    assert (after.files, after.chunks, after.follows) == (before.files, before.chunks, "commit")
    assert await find(service, "two three") == ["two"]


async def test_a_watched_tree_is_followed_through_every_kind_of_change(service: ContextService, root: Path):
    write(root, {"a.py": MODULE.format(name="original"), "gone.py": MODULE.format(name="doomed")})
    status = await service.watch("shop", root)
    assert status.is_watched
    write(root, {"a.py": MODULE.format(name="edited")})
    await wait_until_found(service, "edited")
    assert "original" not in await find(service, "original")
    write(root, {"new/deep/c.py": MODULE.format(name="created")})
    await wait_until_found(service, "created")
    (root / "a.py").rename(root / "renamed.py")
    (root / "gone.py").unlink()
    write(root, {"z.py": MODULE.format(name="last")})
    await wait_until_found(service, "last")
    async with asyncio.timeout(5):
        while (await service.status("shop")).files != 3:  # noqa: ASYNC110 - over the public API
            await asyncio.sleep(0.01)
    hits = {hit.name: hit.path for hit in await service.search("shop", "value")}
    assert hits == {"edited": "renamed.py", "created": "new/deep/c.py", "last": "z.py"}
    assert (await service.status("shop")).chunks == 3
    await service.unwatch("shop")
    assert not (await service.status("shop")).is_watched


async def test_a_new_ignore_rule_takes_files_out(service: ContextService, root: Path):
    write(root, {"a.py": MODULE.format(name="public"), "b.py": MODULE.format(name="hidden")})
    await service.watch("shop", root)
    write(root, {".gitignore": "b.py\n"})
    async with asyncio.timeout(5):
        while await find(service, "hidden") == ["hidden"]:  # noqa: ASYNC110 - over the public API
            await asyncio.sleep(0.01)
    write(root, {"b.py": MODULE.format(name="hidden_again"), "c.py": MODULE.format(name="marker")})
    await wait_until_found(service, "marker")
    assert "hidden_again" not in await find(service, "hidden again")


async def test_watching_goes_on_after_a_restart(service: ContextService, root: Path):
    write(root, {"a.py": MODULE.format(name="original")})
    await service.watch("shop", root)
    await service.aclose()
    write(root, {"a.py": MODULE.format(name="edited_meanwhile")})
    again = ContextService(service.engine, service.manifests.directory)
    await again.resume_all()
    await wait_until_found(again, "edited_meanwhile")
    await again.aclose()


def test_carried_paths_are_those_that_would_be_found_anew():
    before = Manifest("c", Path(), files={"a.py": "1", "b.py": "1", "c.py": "2", "d.py": "3"})
    after = replace(before, files={"a.py": "2", "b.py": "1", "e.py": "3"})
    carry_paths(before, after, ["a.py", "c.py", "d.py", "e.py", "never.py"])
    assert after.paths == get_paths(after.files)
