"""A patch and a workspace: what every file becomes is found first, then written, all of it or nothing."""

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path

from devtools_platform.core.errors import ToolFailed
from devtools_platform.gateway.toolsets import files
from devtools_platform.gateway.toolsets.patches.find import Lines, find_hunk
from devtools_platform.gateway.toolsets.patches.types import FileChange, Hunk

MAX_ERRORS = 5


@dataclass(frozen=True)
class Applied:
    """The paths a patch touched, by what became of them. Those that were as it wants them are not among them."""

    added: tuple[str, ...]
    updated: tuple[str, ...]
    deleted: tuple[str, ...]


@dataclass(frozen=True)
class _Write:
    """What one file becomes; `text` None: nothing. `before` None: it was not there."""

    path: str
    before: str | None
    text: str | None
    moved_from: str | None = None


def apply_patch(workspace: Path, changes: Sequence[FileChange]) -> Applied:
    """Change the workspace. Raises `ToolFailed` that names every file that does not fit; then nothing is changed."""
    _check_paths(changes)
    writes: list[_Write] = []
    errors: list[str] = []
    for change in changes:
        try:
            found = _plan(workspace, change)
        except ToolFailed as error:
            errors.append(f"{change.path}: {error}")
        else:
            writes += [found] if found is not None else []
    if errors:
        more = f"\n[... {len(errors) - MAX_ERRORS} more files ...]" if len(errors) > MAX_ERRORS else ""
        raise ToolFailed("Nothing was changed. The patch does not fit:\n" + "\n".join(errors[:MAX_ERRORS]) + more)
    _carry_out(workspace, writes)
    return Applied(
        tuple(write.path for write in writes if write.before is None and write.moved_from is None),
        tuple(write.path for write in writes if write.text is not None and _was_there(write)),
        tuple(write.path for write in writes if write.text is None),
    )


def change_text(text: str, change: FileChange) -> str:
    """`text` with the hunks of `change`, in their order. Raises `ToolFailed` for the first that does not fit."""
    try:
        return _with_hunks(text, change.hunks, "" if change.has_line_ends else "\n")
    except ToolFailed:
        if "\r\n" not in text:
            raise
    # The file has Windows line ends, which models do not see.
    hunks = tuple(replace(hunk, old=_windows(hunk.old), new=_windows(hunk.new)) for hunk in change.hunks)
    return _with_hunks(text, hunks, "" if change.has_line_ends else "\r\n")


def _with_hunks(text: str, hunks: Sequence[Hunk], last_end: str) -> str:
    """`last_end` is put to a last line that has no end, while hunks that cannot tell are applied."""
    padding = last_end if text and not text.endswith("\n") else ""
    file = Lines(text + padding)
    done: list[str] = []
    at = 0
    for number, hunk in enumerate(hunks, 1):
        start = find_hunk(file, hunk, at, f"hunk {number}" if len(hunks) > 1 else "the hunk")
        done += [*file.lines[at:start], *hunk.new]
        at = start + len(hunk.old)
    changed = "".join((*done, *file.lines[at:]))
    return changed.removesuffix(padding)


def _plan(workspace: Path, change: FileChange) -> _Write | None:
    """None when the file is already as the patch wants it: a call is sent again after an interruption."""
    if change.action == "add":
        return _plan_new(workspace, change)
    before = _read(workspace, change.path)
    if before is None:
        target = _read(workspace, change.move_to) if change.move_to else None
        if change.action == "delete" or (target is not None and _is_done(target, change)):
            return None
        raise ToolFailed("it does not exist; list_files shows what does.")
    if change.action == "delete":
        if change.hunks and change_text(before, change):
            raise ToolFailed("the patch deletes the file, but not all of its lines.")
        return _Write(change.path, before, None)
    if change.move_to is not None and _read(workspace, change.move_to) is not None:
        raise ToolFailed(f"it cannot be moved: {change.move_to!r} exists.")
    try:
        text = change_text(before, change)
    except ToolFailed:
        if change.move_to is None and _is_done(before, change):
            return None
        raise
    if change.move_to is not None:
        return _Write(change.move_to, before, text, moved_from=change.path)
    return _Write(change.path, before, text)


def _plan_new(workspace: Path, change: FileChange) -> _Write | None:
    text = "".join(line for hunk in change.hunks for line in hunk.new)
    if any(hunk.old for hunk in change.hunks):
        raise ToolFailed("a file that is added has no lines to keep or to remove.")
    there = _read(workspace, change.path)
    if there is not None and there != text:
        raise ToolFailed("it exists; update it, or delete it first in a patch of its own.")
    return None if there is not None else _Write(change.path, None, text)


def _is_done(text: str, change: FileChange) -> bool:
    """Whether the patch, turned round, fits: then it was applied before."""
    if not all(hunk.old and hunk.new for hunk in change.hunks):
        return False  # what only adds or only removes, with no line around it, is found in any file
    turned = tuple(replace(hunk, old=hunk.new, new=hunk.old, at=None) for hunk in change.hunks)
    try:
        change_text(text, replace(change, hunks=turned))
    except ToolFailed:
        return False
    return True


def _carry_out(workspace: Path, writes: Sequence[_Write]) -> None:
    """Write all of it; what was written is taken back when something goes wrong half-way."""
    done: list[_Write] = []
    try:
        for write in writes:
            done.append(write)
            if write.moved_from is not None:
                files.move(workspace, write.moved_from, write.path)
            if write.text is None:
                files.delete(workspace, write.path)
            else:
                files.write_text(workspace, write.path, write.text)
    except BaseException:
        for write in reversed(done):
            with suppress(ToolFailed, OSError):
                _take_back(workspace, write)
        raise


def _take_back(workspace: Path, write: _Write) -> None:
    if write.before is None:
        files.delete(workspace, write.path)
        return
    if write.moved_from is not None:
        with suppress(ToolFailed):
            files.move(workspace, write.path, write.moved_from)
    files.write_text(workspace, write.moved_from or write.path, write.before)


def _read(workspace: Path, path: str) -> str | None:
    """The text; None when there is no such file. Anything else in its place is refused."""
    return files.read_text(workspace, path) if files.exists(workspace, path) else None


def _check_paths(changes: Sequence[FileChange]) -> None:
    """Each file once: two changes of one file would each be looked at without the other."""
    named = [path for change in changes for path in (change.path, change.move_to) if path is not None]
    seen: set[str] = set()
    for path in named:
        plain = "/".join(files.split_path(path))
        if plain in seen:
            raise ToolFailed(f"Nothing was changed. The patch names {plain!r} twice: put all hunks under one header.")
        seen.add(plain)


def _was_there(write: _Write) -> bool:
    return write.before is not None or write.moved_from is not None


def _windows(lines: tuple[str, ...]) -> tuple[str, ...]:
    return tuple(f"{line[:-1]}\r\n" if line.endswith("\n") and not line.endswith("\r\n") else line for line in lines)
