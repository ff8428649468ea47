"""What one indexing run has to do: the difference between a manifest and a commit's tree. Pure.

Content is the key. A blob is indexed once, under the first of its paths; copies that leave that path alone
cost nothing, and a branch switch costs only the files that differ.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from devtools_platform.context.chunking import find_skipped_path
from devtools_platform.context.git import TreeEntry
from devtools_platform.context.manifest import Manifest, get_paths


@dataclass(frozen=True)
class Plan:
    """`todo` blobs are cut and stored under `homes[blob]`; `gone` blobs are deleted afterwards."""

    files: dict[str, str]
    skipped: dict[str, str]
    homes: dict[str, str]
    todo: list[str]
    gone: list[str]

    @property
    def pending(self) -> list[str]:
        """Every blob whose stored chunks are uncertain while the plan runs."""
        return [*self.todo, *self.gone]


def make_plan(before: Manifest, entries: Sequence[TreeEntry]) -> Plan:
    files: dict[str, str] = {}
    skipped: dict[str, str] = {}
    for entry in entries:
        if reason := find_skipped_path(entry.path, entry.size):
            skipped[reason[0]] = reason[1]
        elif entry.blob:
            files[entry.path] = entry.blob
    homes = {blob: paths[0] for blob, paths in get_paths(files).items()}
    known = {blob: paths[0] for blob, paths in before.paths.items()}
    uncertain = set(before.pending)
    todo = [blob for blob, home in homes.items() if known.get(blob) != home or blob in uncertain]
    gone = sorted((known.keys() | uncertain) - homes.keys())
    still = {path for blob, path in homes.items() if known.get(blob) == path}
    skipped |= {path: reason for path, reason in before.skipped.items() if path in still}
    return Plan(files, skipped, homes, todo, gone)


def make_partial_plan(before: Manifest, changed: Sequence[TreeEntry], removed: Sequence[str]) -> Plan:
    """The same for a few files, at the cost of a few files."""
    files = {path: blob for path, blob in before.files.items() if path not in removed}
    skipped = {path: reason for path, reason in before.skipped.items() if path not in removed}
    for entry in changed:
        files.pop(entry.path, None)
        skipped.pop(entry.path, None)
        if reason := find_skipped_path(entry.path, entry.size):
            skipped[reason[0]] = reason[1]
        elif entry.blob:
            files[entry.path] = entry.blob
    uncertain = set(before.pending)
    homes = {files[entry.path]: entry.path for entry in changed if entry.path in files}
    todo = [blob for blob in homes if blob not in before.paths or blob in uncertain]
    touched = {before.files[path] for path in [*removed, *(entry.path for entry in changed)] if path in before.files}
    left = set(files.values())
    return Plan(files, skipped, homes, todo, sorted((touched | uncertain) - left))
