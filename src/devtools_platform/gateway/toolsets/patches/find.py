"""Where a hunk belongs in a file: by its lines, exactly, and at one place only. Pure."""

from collections.abc import Sequence
from itertools import accumulate

from devtools_platform.core.errors import ToolFailed
from devtools_platform.gateway.toolsets.editing import nearest_lines
from devtools_platform.gateway.toolsets.patches.types import Hunk

MAX_PLACES = 10
MAX_LINES_COMPARED = 200


class Lines:
    """A file's lines with their ends: by line feeds alone, other characters that may end a line are part of one."""

    def __init__(self, text: str) -> None:
        parts = text.split("\n")
        self.lines = [f"{part}\n" for part in parts[:-1]] + ([parts[-1]] if parts[-1] else [])
        self._starts = [0, *accumulate(len(line) for line in self.lines)]
        self._text = f"\n{text}"  # so that what is found behind a line feed begins a line
        self._index = {start: number for number, start in enumerate(self._starts)}

    def has(self, wanted: Sequence[str], at: int) -> bool:
        return self.lines[at : at + len(wanted)] == [*wanted]

    def places(self, wanted: Sequence[str], start: int) -> list[int]:
        """The lines, from `start` on, at which `wanted` stands, a few more than `MAX_PLACES` at most."""
        sought = "\n" + "".join(wanted)
        is_last = not sought.endswith("\n")
        found: list[int] = []
        at = self._text.find(sought, self._starts[start])
        while at >= 0 and len(found) <= MAX_PLACES:
            if not is_last or at + len(sought) == len(self._text):
                found.append(self._index[at])
            at = self._text.find(sought, at + 1)
        return found


def find_hunk(file: Lines, hunk: Hunk, at: int, name: str) -> int:
    """The index of the line, `at` or after, at which `hunk.old` begins. Raises `ToolFailed` with the nearest lines."""
    start = at
    for anchor in hunk.anchors:
        start = _after_anchor(file, anchor, start, name)
    if hunk.is_at_end:
        last = len(file.lines) - len(hunk.old)
        if last < start or not file.has(hunk.old, last):
            raise ToolFailed(f"{name} does not stand at the end of the file.{_near(file, hunk.old)}")
        return last
    if not hunk.old:
        if hunk.anchors or not file.lines:
            return start
        raise ToolFailed(f"{name} only adds lines and does not say where: give a line around them.")
    if hunk.at is not None and hunk.at - 1 >= start and file.has(hunk.old, hunk.at - 1):
        return hunk.at - 1
    places = file.places(hunk.old, start)
    if not places:
        near = _near(file, hunk.old)
        raise ToolFailed(f"{name} does not fit: its lines do not stand there{_after(start)} exactly.{near}")
    if len(places) > 1 and not hunk.anchors:
        named = ", ".join(str(place + 1) for place in places[:MAX_PLACES])
        count = len(places) if len(places) <= MAX_PLACES else f"more than {MAX_PLACES}"
        raise ToolFailed(
            f"{name} fits at {count} places (lines {named}); give more lines around it, or an `@@` line above it."
        )
    return places[0]


def _after_anchor(file: Lines, anchor: str, start: int, name: str) -> int:
    for at in range(start, len(file.lines)):
        if file.lines[at].strip() == anchor:
            return at + 1
    raise ToolFailed(f"{name}: there is no line {anchor!r}{_after(start)}.{_near(file, [anchor])}")


def _after(start: int) -> str:
    return f" after line {start}" if start else ""


def _near(file: Lines, wanted: Sequence[str]) -> str:
    return nearest_lines("".join(file.lines), "".join(wanted[:MAX_LINES_COMPARED]))
