"""Git, run so that no repository can make it run anything else.

Two kinds of repository meet here: the person's own, which is read and never changed but for one new branch,
and the clone a task works in, whose files were written by models and by programs models wrote. Neither gets
its hooks, filters, file monitors, external diffs or submodules executed. Files are staged by path with
plumbing commands: `git add` and `git status` start a second git in any submodule, under the configuration
that lies there.
"""

from devtools_platform.kit.git.changes import (
    added_lines,
    changed_paths,
    difference,
)
from devtools_platform.kit.git.clone import (
    BASE_REF,
    RULES_REF,
    SNAPSHOT_REFS,
    base_commit,
    clone_for_task,
    commit_all,
    copy_workspace,
    head_of,
    list_files,
    merge_clone,
    origin_of,
    restore_snapshot,
    settings_at,
    take_snapshot,
)
from devtools_platform.kit.git.program import (
    git,
)
from devtools_platform.kit.git.repository import (
    Repository,
    at_commit,
    branch_commit,
    fetch_ref,
    publish_branch,
    push_branch,
    resolve_repository,
)

__all__ = [
    "BASE_REF",
    "RULES_REF",
    "SNAPSHOT_REFS",
    "Repository",
    "added_lines",
    "at_commit",
    "base_commit",
    "branch_commit",
    "changed_paths",
    "clone_for_task",
    "commit_all",
    "copy_workspace",
    "difference",
    "fetch_ref",
    "git",
    "head_of",
    "list_files",
    "merge_clone",
    "origin_of",
    "publish_branch",
    "push_branch",
    "resolve_repository",
    "restore_snapshot",
    "settings_at",
    "take_snapshot",
]
