"""What exists right now, for models that would otherwise invent it: the file names a small model may choose from."""

from collections.abc import Sequence
from contextvars import ContextVar

MAX_CHOICES = 300
"""A longer list would not fit a small model's prompt; then paths stay free text and the tools refuse wrong ones."""

known_paths: ContextVar[tuple[str, ...]] = ContextVar("devtools_known_paths", default=())

_TAKES_EXISTING_PATH = frozenset(
    {"workspace_read_file", "workspace_edit_file", "workspace_delete_file", "context_outline"}
)


def list_choices(tool: str, argument: str) -> Sequence[str] | None:
    """The values `argument` of `tool` may have in the present run; None when any string is fine."""
    paths = known_paths.get()
    if argument == "path" and tool in _TAKES_EXISTING_PATH and 0 < len(paths) <= MAX_CHOICES:
        return paths
    return None
