"""A patch, whichever form it was written in. Data only."""

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class Hunk:
    """Lines that give way to others. Every line carries its line end, but for the last of a file that has none."""

    old: tuple[str, ...]
    new: tuple[str, ...]
    anchors: tuple[str, ...] = ()
    """V4A: lines to find first, one after the other, such as a class and its method."""
    at: int | None = None
    """Unified: the line, counted from 1, at which `old` is said to begin."""
    is_at_end: bool = False
    """V4A: `old` are the file's last lines."""


@dataclass(frozen=True)
class FileChange:
    """What a patch does to one file."""

    path: str
    action: Literal["add", "delete", "update"]
    hunks: tuple[Hunk, ...] = ()
    move_to: str | None = None
    has_line_ends: bool = False
    """Unified: whether the text says if a file's last line ends; V4A cannot say."""
