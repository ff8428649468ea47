"""The files of a working tree as they are on disk now: what git would not ignore, by content id.

Reads `.gitignore` at every level, `.git/info/exclude` and `.devtoolsignore`; follows no link, opens nothing
but regular files, and runs no git. A content's id is the one git would give it, so a file that was indexed
from a commit is known already.
"""

import asyncio
import hashlib
import os
import stat
from collections import OrderedDict
from collections.abc import AsyncGenerator, Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

from pathspec import GitIgnoreSpec

from devtools_platform.context.chunking import find_skipped_path
from devtools_platform.context.git import TreeEntry
from devtools_platform.context.manifest import Manifest
from devtools_platform.core.errors import NotARepository, TooLarge

IGNORE_FILES = (".gitignore", ".devtoolsignore")
MAX_IGNORE_BYTES = 100_000
MAX_FILES = 1_000_000
MAX_SEEN = 20_000
"""Files whose content ids are kept in memory."""
_ALWAYS_IGNORED = frozenset({".git", ".hg", ".svn", ".jj"})

Stamp = tuple[int, int]
"""Size and time of change in nanoseconds: what tells without reading that a file is the same."""


@dataclass
class IgnoreRules:
    """The ignore files of one tree, read when first needed. Make a new one when an ignore file changed."""

    root: Path
    _specs: dict[str, GitIgnoreSpec | None] = field(default_factory=dict[str, GitIgnoreSpec | None])

    def ignores(self, path: str, *, is_folder: bool = False) -> bool:
        """Whether git, or our own ignore file, leaves `path` out; also because of a folder around it."""
        parts = PurePosixPath(path).parts
        if not _ALWAYS_IGNORED.isdisjoint(parts):
            return True
        return any(self._ignores_alone(parts[:end], is_folder=True) for end in range(1, len(parts))) or (
            self._ignores_alone(parts, is_folder=is_folder)
        )

    def ignores_entry(self, path: str, *, is_folder: bool) -> bool:
        """The same for an entry of a folder that is not ignored itself."""
        parts = PurePosixPath(path).parts
        return parts[-1] in _ALWAYS_IGNORED or self._ignores_alone(parts, is_folder=is_folder)

    def _ignores_alone(self, parts: tuple[str, ...], *, is_folder: bool) -> bool:
        """The rules nearest to the file decide; within one file the last that fits."""
        for depth in range(len(parts) - 1, -1, -1):
            spec = self._get_spec("/".join(parts[:depth]))
            if spec is not None:
                verdict = spec.check_file("/".join(parts[depth:]) + ("/" if is_folder else "")).include
                if verdict is not None:
                    return verdict
        return False

    def _get_spec(self, folder: str) -> GitIgnoreSpec | None:
        if folder not in self._specs:
            names = [*IGNORE_FILES, *((".git/info/exclude",) if not folder else ())]
            lines = [line for name in names for line in _read_lines(self.root / folder / name)]
            self._specs[folder] = GitIgnoreSpec.from_lines(lines) if lines else None
        return self._specs[folder]


def _read_lines(file: Path) -> list[str]:
    try:
        if not stat.S_ISREG(file.lstat().st_mode) or file.stat().st_size > MAX_IGNORE_BYTES:
            return []
        return file.read_text(errors="replace").splitlines()
    except OSError:
        return []


def list_files(
    root: Path, known: Mapping[str, tuple[str, Stamp]], rules: IgnoreRules
) -> tuple[list[TreeEntry], dict[str, Stamp]]:
    """Every file that is not ignored. Only files whose stamp differs from the `known` one are read.

    Raises `NotARepository`, and `TooLarge` for a million files.
    """
    if not root.is_dir():
        raise NotARepository(f"{str(root)!r} is not a folder.", hint="Give the top folder of a working tree.")
    entries: list[TreeEntry] = []
    stamps: dict[str, Stamp] = {}
    for path, stamp in _walk(root, rules):
        if len(entries) == MAX_FILES:
            raise TooLarge(f"{str(root)!r} holds more than {MAX_FILES} files.", hint="Ignore what is not code.")
        blob, before = known.get(path, ("", (0, 0)))
        if before != stamp:
            content = None if find_skipped_path(path, stamp[0]) else read_file(root, path)
            blob = make_blob_id(content) if content is not None else ""
        entries.append(TreeEntry(path, blob, stamp[0]))
        stamps[path] = stamp
    return entries, stamps


def _walk(root: Path, rules: IgnoreRules) -> Iterator[tuple[str, Stamp]]:
    folders = [""]
    while folders:
        folder = folders.pop()
        try:
            found = sorted(os.scandir(root / folder), key=lambda entry: entry.name)
        except OSError:  # gone or closed to us meanwhile
            continue
        for entry in found:
            path = f"{folder}/{entry.name}" if folder else entry.name
            is_folder = entry.is_dir(follow_symlinks=False)
            if not entry.name.isprintable():  # no UTF-8, or control characters: no name to answer with
                continue
            if not (is_folder or entry.is_file(follow_symlinks=False)) or rules.ignores_entry(
                path, is_folder=is_folder
            ):
                continue
            if is_folder:
                if not find_skipped_path(f"{path}/x", 0):
                    folders.append(path)
            elif stamp := get_stamp(root, path):
                yield path, stamp


def get_stamp(root: Path, path: str) -> Stamp | None:
    """None for what is no regular file."""
    try:
        found = (root / path).lstat()
    except (OSError, ValueError):
        return None
    return (found.st_size, found.st_mtime_ns) if stat.S_ISREG(found.st_mode) else None


def read_file(root: Path, path: str) -> bytes | None:
    """The content, or None for what is gone, a link, or reached through one."""
    try:
        if Path(os.path.realpath(root / path)) != Path(os.path.realpath(root)) / path:
            return None
        descriptor = os.open(root / path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    except (OSError, ValueError):
        return None
    with os.fdopen(descriptor, "rb") as file:
        return file.read() if stat.S_ISREG(os.fstat(descriptor).st_mode) else None


def make_blob_id(content: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(content) + content, usedforsecurity=False).hexdigest()


class Staleness:
    """Whether files on disk differ from what was indexed. A file is read again only when its stamp has changed."""

    def __init__(self) -> None:
        self._seen: OrderedDict[tuple[Path, str], tuple[Stamp, str]] = OrderedDict()

    async def look(self, manifest: Manifest, paths: Collection[str]) -> dict[str, bool | None]:
        """For each path; None where nothing is on disk to compare with."""
        root = manifest.repo
        stamps = {path: get_stamp(root, path) for path in paths}
        unread = [
            path for path, stamp in stamps.items() if stamp and self._seen.get((root, path), ((), ""))[0] != stamp
        ]
        contents = await asyncio.to_thread(lambda: {path: read_file(root, path) for path in unread}) if unread else {}
        blobs = {path: "" if content is None else make_blob_id(content) for path, content in contents.items()}
        for path, stamp in stamps.items():
            if path in blobs and stamp:
                self._seen[root, path] = stamp, blobs[path]
            elif stamp:
                blobs[path] = self._seen[root, path][1]
        while len(self._seen) > MAX_SEEN:
            self._seen.popitem(last=False)
        return {path: blobs[path] != manifest.files.get(path) if blobs.get(path) else None for path in paths}


async def read_contents(
    root: Path, homes: Mapping[str, str], blobs: Iterable[str]
) -> AsyncGenerator[tuple[str, bytes]]:
    """(id, content) of each blob, found at its path. One that changed meanwhile is left to the next look."""
    for blob in blobs:
        content = await asyncio.to_thread(read_file, root, homes[blob])
        if content is not None and make_blob_id(content) == blob:
            yield blob, content
