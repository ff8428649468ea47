"""Patches as models write them: several files changed by one text, all of it or nothing.

Two forms are read: V4A (`*** Begin Patch`), which OpenAI trains its models on, and unified diffs. Nothing is guessed:
a hunk whose lines do not stand in the file exactly is refused with the nearest lines. Above it is the tool
`apply_patch`; files are touched through `files` alone.
"""

from devtools_platform.gateway.toolsets.patches.apply import Applied, apply_patch
from devtools_platform.gateway.toolsets.patches.read import parse_patch

__all__ = ["Applied", "apply_patch", "parse_patch"]
