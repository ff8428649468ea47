"""Tools as every part sees them: what one is, who calls it, what it gives back."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from devtools_platform.core.agents import CallerName
from devtools_platform.core.approvals import Risk

APPROVAL_REQUIRED = "approval_required"
"""`code` in the data of a result that stands for a call that was not made: a person must be asked first.
The data then also holds `rule`, `risk` and `expires_after_s`."""


@dataclass(frozen=True)
class Tool:
    """One tool of a tool server. `input_schema` is JSON Schema (2020-12) of an object."""

    name: str
    description: str
    input_schema: Mapping[str, Any]
    is_read_only: bool
    is_repeatable: bool = False
    """After an interruption it is safe to run it once more: its effect stays in the workspace and converges."""
    risk: Risk = "low"
    """How much a wrong call can spoil: `high` for what reaches beyond the task's workspace."""
    is_for_people: bool = False
    """It works without a task, so people may call it with a token of their own."""


@dataclass(frozen=True)
class Caller:
    """Who calls a tool. Comes from the verified token, never from arguments."""

    task_id: str
    agent: CallerName
    without_sandbox: bool = False
    collections: tuple[str, ...] = field(default=(), kw_only=True)
    """Patterns of the context collections that the token opens beside those of the task's own repository."""
    workspace: str = field(default="", kw_only=True)
    """The clone it works in, where that is not the task's own: one of several steps that run at once."""

    @property
    def folder(self) -> str:
        """The name of its clone's folder."""
        return self.workspace or self.task_id

    @property
    def has_task(self) -> bool:
        """Whether a task's workspace stands behind the call. Named tokens without one say `token:ID` in its place."""
        return ":" not in self.task_id


@dataclass(frozen=True)
class ToolResult:
    """What a tool gave back: text for the model, and the same as data for programs."""

    text: str
    data: Mapping[str, Any] = field(default_factory=dict[str, Any])
    is_error: bool = False
