"""From the text of a patch to its changes. Pure; raises `ToolFailed` in words a model can act on."""

from collections.abc import Sequence

from devtools_platform.core.errors import ToolFailed
from devtools_platform.gateway.toolsets.patches import unified, v4a
from devtools_platform.gateway.toolsets.patches.types import FileChange

MAX_FILES = 100
MAX_HUNKS = 1_000


def parse_patch(text: str) -> tuple[FileChange, ...]:
    """The changes of a V4A patch or a unified diff. Raises `ToolFailed` with the line that is wrong."""
    lines = text.strip("\r\n").split("\n")
    if lines[0].endswith("\r"):  # the patch itself has Windows line ends, not only lines of files in it
        lines = [line.removesuffix("\r") for line in lines]
    changes = v4a.parse(lines) if lines[0].strip() == v4a.BEGIN else unified.parse(lines)
    _check(changes)
    return changes


def _check(changes: Sequence[FileChange]) -> None:
    if sum(len(change.hunks) for change in changes) > MAX_HUNKS:
        raise ToolFailed(f"The patch has more than {MAX_HUNKS} hunks.")
    if not changes:
        raise ToolFailed("The patch changes no file.")
    if len(changes) > MAX_FILES:
        raise ToolFailed(f"The patch changes {len(changes)} files; at most {MAX_FILES} at once.")
