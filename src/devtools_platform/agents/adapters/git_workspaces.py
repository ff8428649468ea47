"""Private clones on this machine's disk: `git clone --local`, a branch of its own, published by a fetch."""

import asyncio
import shutil
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path

from devtools_platform.agents.types import Diff, Merge, Workspace
from devtools_platform.core.errors import DiskFull
from devtools_platform.kit import git

AUTHOR = "Dev-Tools <dev-tools@localhost>"
MAX_DIFF_CHARS = 400_000
BASE = "base"
"""The snapshot that every clone has: the commit it was made from."""


@dataclass(frozen=True)
class GitWorkspaces:
    root: Path
    min_free_mb: int

    async def create(self, task_id: str, repo: str, start_at: str | None = None) -> Workspace:
        """A clone; one that a crash left complete is found again. Raises `DiskFull`, `NotARepository`, `NotFound`."""
        self._check_room()
        repository = await git.resolve_repository(Path(repo))
        if start_at is not None:
            # What is not committed is a change to HEAD, and says nothing about another commit.
            repository = replace(await git.at_commit(repository, start_at), is_dirty=False)
        path = self.root / task_id
        branch = await git.clone_for_task(repository, path)
        return Workspace(
            task_id=task_id,
            repo=str(repository.path),
            base_commit=await git.base_commit(path),
            branch=branch,
            was_dirty=repository.is_dirty,
        )

    async def commit(self, workspace: Workspace, message: str) -> str | None:
        path = self.root / workspace.task_id
        made = await git.commit_all(path, message, AUTHOR)
        if made is not None:
            return made
        # A crash after the commit and before its step was stored: the commit is there already.
        head = await git.head_of(path)
        return None if head == workspace.base_commit else head

    async def publish(self, workspace: Workspace) -> None:
        repository = await git.resolve_repository(Path(workspace.repo))
        await git.publish_branch(self.root / workspace.task_id, repository, workspace.branch)

    async def diff(self, workspace: Workspace) -> Diff:
        path = self.root / workspace.task_id
        stat, text = await git.difference(path, workspace.base_commit, MAX_DIFF_CHARS)
        return Diff(stat=stat, text=text)

    async def exists(self, task_id: str) -> bool:
        return (self.root / task_id / ".git").is_dir()

    async def snapshot(self, workspace: Workspace, name: str) -> None:
        await git.take_snapshot(self.root / workspace.task_id, name, AUTHOR)

    async def restore(self, task_id: str, snapshot: str, branch: str) -> bool:
        """See `state.interfaces.WorkspaceKeeper`."""
        if not await self.exists(task_id):
            return False
        await git.restore_snapshot(self.root / task_id, None if snapshot == BASE else snapshot, branch)
        return True

    async def fork(self, source: str, target: str, snapshot: str, branch: str) -> bool:
        """See `state.interfaces.WorkspaceKeeper`."""
        if not await self.exists(source):
            return False
        self._check_room()
        await git.copy_workspace(self.root / source, self.root / target)
        return await self.restore(target, snapshot, branch)

    async def remove(self, task_id: str) -> None:
        for path in (self.root / task_id, *self.root.glob(f"{task_id}--*")):
            await asyncio.to_thread(_discard, path)
        for path in self.root.glob(f".{task_id}*"):  # what a kill left of one
            await asyncio.to_thread(shutil.rmtree, path, ignore_errors=True)

    async def split(self, workspace: Workspace, name: str) -> str:
        self._check_room()
        source = self.root / workspace.task_id
        folder = f"{workspace.task_id}--{name}"
        if not (self.root / folder).exists():
            await git.take_snapshot(source, f"split-{name}", AUTHOR)
            await git.copy_workspace(source, self.root / folder)
        return folder

    async def merge(self, workspace: Workspace, folder: str) -> Merge:
        other = self.root / folder
        if not other.exists():  # a crash after the merge and before its step was stored
            return Merge()
        name = folder.removeprefix(f"{workspace.task_id}--")
        conflicts = await git.merge_clone(self.root / workspace.task_id, other, f"split-{name}", AUTHOR)
        if not conflicts:
            await asyncio.to_thread(_discard, other)
        return Merge(conflicts=list(conflicts))

    def _check_room(self) -> None:
        free_mb = shutil.disk_usage(self.root).free // 2**20
        if free_mb < self.min_free_mb:
            raise DiskFull(
                f"{free_mb} MB are free where workspaces are kept; at least {self.min_free_mb} MB are needed.",
                hint=f"Free some room in {self.root}, or set DEV_TOOLS_MIN_FREE_DISK_MB.",
            )


def _discard(folder: Path) -> None:
    """Remove a clone. It is gone in one step: half a clone, left by a kill, would be taken for a whole one."""
    gone = folder.with_name(f".{folder.name}.discarded")
    shutil.rmtree(gone, ignore_errors=True)
    with suppress(FileNotFoundError):
        folder.rename(gone)
    shutil.rmtree(gone, ignore_errors=True)
