"""A `git diff` as files, hunks and numbered lines, with the review's findings at their lines. Pure.

Inside a hunk every line starts with a space, `+`, `-` or a backslash, so a line that starts otherwise is a
header, whatever the changed files contain.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from devtools_platform.core.tasks import Finding

MAX_LINES = 4000
"""Lines of a diff one page shows. The page says how many more there are and how to see them."""

_HUNK = re.compile(r"@@ -(\d+)(?:,\d+)? \+(\d+)(?:,\d+)? @@ ?(.*)")
_ESCAPE = re.compile(rb"\\([0-7]{3}|.)")
_ESCAPES = {b"n": b"\n", b"t": b"\t", b"r": b"\r", b"a": b"\a", b"b": b"\b", b"f": b"\f", b"v": b"\v"}
_NOTES = (
    "new file",
    "deleted file",
    "old mode",
    "new mode",
    "rename ",
    "copy ",
    "similarity",
    "Binary files",
)


@dataclass(frozen=True)
class DiffLine:
    kind: Literal["add", "del", "same", "note"]
    old: int | None
    new: int | None
    text: str


@dataclass(frozen=True)
class Hunk:
    heading: str
    lines: tuple[DiffLine, ...]


@dataclass(frozen=True)
class DiffFile:
    path: str
    notes: tuple[str, ...]
    hunks: tuple[Hunk, ...]


@dataclass(frozen=True)
class Changes:
    """A task's change beside what the review said about it."""

    files: tuple[DiffFile, ...]
    at_line: Mapping[tuple[str, int], tuple[Finding, ...]]
    elsewhere: tuple[Finding, ...]
    """Findings about lines the diff does not show."""
    omitted: int
    """Lines of the diff beyond what one page shows."""


def view_changes(diff: str | None, findings: Sequence[Finding]) -> Changes:
    lines = (diff or "").removesuffix("\n").split("\n")
    files = tuple(_read_file(chunk) for chunk in _split(lines[:MAX_LINES], "diff --git ") if any(chunk))
    shown = {
        (file.path, line.new) for file in files for hunk in file.hunks for line in hunk.lines if line.new is not None
    }
    at_line: dict[tuple[str, int], tuple[Finding, ...]] = {}
    elsewhere: list[Finding] = []
    for finding in findings:
        if finding.line is not None and (finding.path, finding.line) in shown:
            key = (finding.path, finding.line)
            at_line[key] = (*at_line.get(key, ()), finding)
        else:
            elsewhere.append(finding)
    return Changes(files, at_line, tuple(elsewhere), omitted=max(0, len(lines) - MAX_LINES))


def _split(lines: Sequence[str], opening: str) -> Iterator[list[str]]:
    """Runs of lines, a new one at each line that starts with `opening`; the first may start otherwise."""
    run: list[str] = []
    for line in lines:
        if line.startswith(opening) and run:
            yield run
            run = []
        run.append(line)
    yield run


def _read_file(lines: Sequence[str]) -> DiffFile:
    header, *hunks = _split(lines, "@@ ")
    notes = tuple(line for line in header if line.startswith(_NOTES))
    return DiffFile(_path(header), notes, tuple(_read_hunk(hunk) for hunk in hunks))


def _path(header: Sequence[str]) -> str:
    """The file's path after the change; before it, for a deleted file."""
    named = {line[:4]: line[4:] for line in header if line.startswith(("+++ ", "--- "))}
    for mark in ("+++ ", "--- "):
        path = _unquote(named.get(mark, "").removesuffix("\t"))
        if path and path != "/dev/null":
            return path[2:]
    # No text changed: `diff --git a/PATH b/PATH` is all there is, with one path unless it is a rename.
    return _unquote(header[0].removeprefix("diff --git ").rpartition(" b/")[2])


def _unquote(path: str) -> str:
    """Git writes unusual paths as C strings of UTF-8 bytes."""
    if not (path.startswith('"') and path.endswith('"')):
        return path
    return _ESCAPE.sub(_unescape, path[1:-1].encode()).decode(errors="replace")


def _unescape(match: re.Match[bytes]) -> bytes:
    code = match[1]
    return bytes([int(code, 8) & 0xFF]) if len(code) > 1 else _ESCAPES.get(code, code)


def _read_hunk(lines: Sequence[str]) -> Hunk:
    match = _HUNK.match(lines[0])
    old, new = (int(match[1]), int(match[2])) if match else (1, 1)
    read: list[DiffLine] = []
    for line in lines[1:]:
        mark, text = line[:1], line[1:]
        if mark == "+":
            read.append(DiffLine("add", None, new, text))
        elif mark == "-":
            read.append(DiffLine("del", old, None, text))
        elif mark == "\\":
            read.append(DiffLine("note", None, None, text.strip()))
        else:
            read.append(DiffLine("same", old, new, text))
        old += mark not in {"+", "\\"}
        new += mark not in {"-", "\\"}
    return Hunk(match[3] if match else lines[0], tuple(read))
