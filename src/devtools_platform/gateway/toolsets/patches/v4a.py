"""The form OpenAI's models are trained on: files by name, hunks by their lines and, if need be, a line above them."""

from collections.abc import Sequence

from devtools_platform.core.errors import ToolFailed
from devtools_platform.gateway.toolsets.patches.types import FileChange, Hunk

BEGIN, END = "*** Begin Patch", "*** End Patch"
END_OF_FILE = "*** End of File"
_ADD, _DELETE, _UPDATE, _MOVE = "*** Add File: ", "*** Delete File: ", "*** Update File: ", "*** Move to: "
_HEADERS = (_ADD, _DELETE, _UPDATE)


def parse(lines: Sequence[str]) -> tuple[FileChange, ...]:
    if lines[-1].strip() != END:
        raise ToolFailed(f"The patch does not end with {END!r}: it may have been cut off.")
    changes: list[FileChange] = []
    at = 1
    while at < len(lines) - 1:
        end = at + 1
        while end < len(lines) - 1 and not lines[end].startswith(_HEADERS):
            end += 1
        if lines[at].strip():
            changes.append(_file(lines[at], lines[at + 1 : end], at + 1))
        at = end
    return tuple(changes)


def _file(header: str, body: Sequence[str], number: int) -> FileChange:
    """`number` is the header's line in the patch, counted from 1."""
    kind = next((kind for kind in _HEADERS if header.startswith(kind)), None)
    if kind is None:
        raise ToolFailed(f"Line {number} of the patch is {header!r}; expected `{_UPDATE}PATH`, `{_ADD}PATH` or so.")
    path = header.removeprefix(kind).strip()
    if kind == _DELETE:
        if any(line.strip() for line in body):
            raise ToolFailed(f"Line {number + 1} of the patch: nothing may follow `{_DELETE}PATH`.")
        return FileChange(path, "delete")
    if kind == _ADD:
        wrong = next((at for at, line in enumerate(body) if not line.startswith("+")), None)
        if wrong is not None and any(line.strip() for line in body[wrong:]):
            raise ToolFailed(f"Line {number + 1 + wrong} of the patch: each line of a new file begins with `+`.")
        added = tuple(f"{line[1:]}\n" for line in body[:wrong])
        return FileChange(path, "add", (Hunk((), added),))
    move_to = body[0].removeprefix(_MOVE).strip() if body and body[0].startswith(_MOVE) else None
    skipped = 0 if move_to is None else 1
    hunks = _hunks(body[skipped:], number + 1 + skipped)
    if not hunks and move_to is None:
        raise ToolFailed(f"{path!r} is updated by no hunk; begin one with `@@`.")
    return FileChange(path, "update", hunks, move_to)


def _hunks(body: Sequence[str], number: int) -> tuple[Hunk, ...]:
    hunks: list[Hunk] = []
    anchors: list[str] = []
    old: list[str] = []
    new: list[str] = []

    def close(*, is_at_end: bool = False) -> None:
        if old or new:
            hunks.append(Hunk(tuple(old), tuple(new), tuple(anchors), is_at_end=is_at_end))
            anchors.clear()
            old.clear()
            new.clear()

    for at, line in enumerate(body):
        sign, text = line[:1], f"{line[1:]}\n"
        if line.startswith("@@"):
            close()
            anchors += [line[2:].strip()] if line[2:].strip() else []
        elif line.strip() == END_OF_FILE:
            close(is_at_end=True)
        elif sign in (" ", "-", "+", ""):
            old += [text] if sign != "+" else []
            new += [text] if sign != "-" else []
        else:
            raise ToolFailed(
                f"Line {number + at} of the patch is {line!r}; in a hunk each line begins with a space, `-` or `+`."
            )
    close()
    return tuple(hunks)
