"""Unified diffs, git's or plain ones. Line numbers may be wrong, as models cannot count; lines may not."""

import re
from collections.abc import Sequence
from dataclasses import dataclass

from devtools_platform.core.errors import ToolFailed
from devtools_platform.gateway.toolsets.patches.types import FileChange, Hunk

_NOWHERE = "/dev/null"
_RANGE = re.compile(r"@@ -(\d+)(?:,(\d+))? \+\d+(?:,(\d+))? @@")
_NO_NEWLINE = "\\"
_ABOUT = ("index ", "similarity index ", "dissimilarity index ", "rename from ", "rename to ")
_MODES = ("old mode ", "new mode ", "new file mode ", "deleted file mode ")
_PLAIN_MODES = ("new file mode 100644", "deleted file mode 100")
EXPECTED = "a patch begins with `*** Begin Patch`, `diff --git a/PATH b/PATH` or `--- a/PATH` and `+++ b/PATH`"


def parse(lines: Sequence[str]) -> tuple[FileChange, ...]:
    reader = _Reader(lines)
    changes: list[FileChange] = []
    while reader.skip_blank():
        changes.append(reader.read_file())
    return tuple(changes)


@dataclass
class _Reader:
    lines: Sequence[str]
    at: int = 0

    @property
    def line(self) -> str:
        return self.lines[self.at] if self.at < len(self.lines) else ""

    def skip_blank(self) -> bool:
        """Whether anything is left."""
        while self.at < len(self.lines) and not self.line.strip():
            self.at += 1
        return self.at < len(self.lines)

    def read_file(self) -> FileChange:
        said = self._read_header()
        old, new = said.get("--- "), said.get("+++ ")
        if old is None and "rename from " in said and "rename to " in said:
            return FileChange(said["rename from "], "update", (), said["rename to "], has_line_ends=True)
        if old is None and {"new file mode ", "deleted file mode "} & set(said):
            path = said["diff"]  # an empty file, made or removed
            return FileChange(path, "add" if "new file mode " in said else "delete", has_line_ends=True)
        if old is None or new is None:
            raise ToolFailed(f"Line {self.at + 1} of the patch is {self.line!r}; {EXPECTED}.")
        hunks = self._read_hunks()
        if not hunks:
            raise ToolFailed(f"Line {self.at + 1} of the patch: a hunk `@@ -1,3 +1,4 @@` is missing.")
        if old == _NOWHERE:
            return FileChange(new, "add", hunks, has_line_ends=True)
        if new == _NOWHERE:
            return FileChange(old, "delete", hunks, has_line_ends=True)
        return FileChange(old, "update", hunks, None if old == new else new, has_line_ends=True)

    def _read_header(self) -> dict[str, str]:
        """What the lines before the first hunk say, by their first words."""
        said: dict[str, str] = {}
        if self.line.startswith("diff --git "):
            said["diff"] = _path(self.line.rpartition(" b/")[2], self.at, prefix="")
            self.at += 1
        while self.at < len(self.lines):
            line = self.line
            if mode := next((word for word in _MODES if line.startswith(word)), None):
                if not line.startswith(_PLAIN_MODES):
                    raise ToolFailed(f"Line {self.at + 1} of the patch: {line!r}; use run_command to change modes.")
                said[mode] = line
            elif about := next((word for word in _ABOUT if line.startswith(word)), None):
                said[about] = _path(line.removeprefix(about), self.at, prefix="")
            elif line.startswith("--- ") and "--- " not in said:
                said["--- "] = _path(line[4:], self.at, prefix="a/")
            elif line.startswith("+++ ") and "--- " in said and "+++ " not in said:
                said["+++ "] = _path(line[4:], self.at, prefix="b/")
            else:
                break
            self.at += 1
        return said

    def _read_hunks(self) -> tuple[Hunk, ...]:
        hunks: list[Hunk] = []
        while self.skip_blank() and self.line.startswith("@@"):
            hunks.append(self._read_hunk())
        return tuple(hunks)

    def _read_hunk(self) -> Hunk:
        stated = _RANGE.match(self.line)
        if stated is None and self.line.strip() != "@@":
            raise ToolFailed(
                f"Line {self.at + 1} of the patch is {self.line!r}; expected `@@ -LINE,COUNT +LINE,COUNT @@`."
            )
        self.at += 1
        end = self._end_by_count(stated) or self._end_by_sight()
        old: list[str] = []
        new: list[str] = []
        for at in range(self.at, end):
            sign, text = self.lines[at][:1], f"{self.lines[at][1:]}\n"
            if sign == _NO_NEWLINE:
                _cut_newline(self.lines[at - 1][:1], old, new)
                continue
            if sign not in (" ", "-", "+", ""):
                raise ToolFailed(
                    f"Line {at + 1} of the patch is {self.lines[at]!r}; "
                    "in a hunk each line begins with a space, `-` or `+`."
                )
            old += [text] if sign != "+" else []
            new += [text] if sign != "-" else []
        self.at = end
        return Hunk(tuple(old), tuple(new), at=int(stated[1]) if stated and old else None)

    def _end_by_count(self, stated: re.Match[str] | None) -> int | None:
        """Where the hunk ends if its header counts right; None if it does not. A line `--- x` may be one that goes."""
        if stated is None:
            return None
        olds, news = (int(count) if count is not None else 1 for count in (stated[2], stated[3]))
        at = self.at
        while at < len(self.lines) and (olds > 0 or news > 0 or self.lines[at].startswith(_NO_NEWLINE)):
            sign = self.lines[at][:1]
            if sign not in (" ", "-", "+", "", _NO_NEWLINE):
                return None
            olds -= sign in (" ", "-", "")
            news -= sign in (" ", "+", "")
            at += 1
        is_over = (
            at == len(self.lines) or self.lines[at].startswith(("@@", "diff --git ", "--- ")) or not self.lines[at]
        )
        return at if olds == news == 0 and is_over else None

    def _end_by_sight(self) -> int:
        """Where the next hunk or file begins, without the blank lines before it."""
        at = self.at
        while at < len(self.lines) and not self._begins_something(at):
            at += 1
        while at > self.at and not self.lines[at - 1]:
            at -= 1
        return at

    def _begins_something(self, at: int) -> bool:
        following = self.lines[at + 1] if at + 1 < len(self.lines) else ""
        is_file = self.lines[at].startswith("--- ") and following.startswith("+++ ")
        return is_file or self.lines[at].startswith(("@@", "diff --git "))


def _cut_newline(sign: str, old: list[str], new: list[str]) -> None:
    """`\\ No newline at end of file` is said of the line before it."""
    for lines, signs in ((old, " -"), (new, " +")):
        if lines and sign in signs:
            lines[-1] = lines[-1].removesuffix("\n")


def _path(word: str, at: int, *, prefix: str) -> str:
    path = word.split("\t", maxsplit=1)[0].rstrip()
    if path.startswith('"'):
        raise ToolFailed(f"Line {at + 1} of the patch: {path} is quoted; use write_file for a file of such a name.")
    return path if path == _NOWHERE else path.removeprefix(prefix)
