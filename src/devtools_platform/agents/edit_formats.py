"""How a model changes files: which of the workspace's editing tools its agents are offered, by the model's family.

What an agent may do, the gateway's policy says; this only chooses among tools that do the same. The table is data,
`edit_formats.yaml`, with where each line comes from.
"""

from collections.abc import Mapping
from fnmatch import fnmatchcase
from functools import cache
from importlib import resources

import yaml
from pydantic import BaseModel, ConfigDict

from devtools_platform.core.agents import EditFormat
from devtools_platform.core.tasks import ModelInfo

TOOLS: Mapping[EditFormat, frozenset[str]] = {
    "replace": frozenset({"workspace_edit_file", "workspace_write_file", "workspace_delete_file"}),
    "patch": frozenset({"workspace_apply_patch"}),
    "whole": frozenset({"workspace_write_file", "workspace_delete_file"}),
}
_EDITING = frozenset[str]().union(*TOOLS.values())


class _Strict(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Family(_Strict):
    """Models by patterns of their names. `source` is where one can see that the format suits them."""

    models: tuple[str, ...]
    format: EditFormat
    source: str


class Table(_Strict):
    families: tuple[Family, ...]
    small: EditFormat
    """For models of tier `small` that no family names."""
    other: EditFormat


@cache
def load_table() -> Table:
    text = resources.files("devtools_platform.agents").joinpath("edit_formats.yaml").read_text("utf-8")
    return Table.model_validate(yaml.safe_load(text))


def edit_format_of(model: ModelInfo | None) -> EditFormat:
    """What the table says of a model, by its name, then its tier."""
    table = load_table()
    if model is None:
        return table.other
    name = model.name.lower()
    for family in table.families:
        if any(fnmatchcase(name, pattern) for pattern in family.models):
            return family.format
    return table.small if model.tier == "small" else table.other


def is_offered(tool: str, edit_format: EditFormat | None) -> bool:
    """Whether an agent of this format is shown `tool`; without a format it is shown every one."""
    return edit_format is None or tool not in _EDITING or tool in TOOLS[edit_format]
