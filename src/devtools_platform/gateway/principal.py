"""Who stands behind a request, as its verified token says: an agent's run, or the holder of a named token."""

from collections.abc import Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from functools import cached_property

from devtools_platform.core.agents import AgentName
from devtools_platform.core.errors import Unauthorized
from devtools_platform.core.tools import Caller

AGENTS_SCOPE = "agents:"
"""A scope that begins so opens an agent's own endpoint (`agents:cicd`)."""
TOOLS = "tools:"
"""A scope that begins so permits calling the tools whose full names match the rest (`tools:git_*`)."""


COLLECTIONS = "context:"
"""A scope that begins so opens the context collections whose names match the rest (`context:shop-*`)."""


def collections_of(scopes: Sequence[str]) -> tuple[str, ...]:
    return tuple(scope.removeprefix(COLLECTIONS) for scope in scopes if scope.startswith(COLLECTIONS))


@dataclass(frozen=True)
class Principal:
    id: str
    """`run:TASK/AGENT` or `token:ID`; audit, sessions and rate limits go by it."""
    name: str
    caller: Caller
    agent: AgentName | None
    """Whose policy applies. None: the token's scopes alone decide."""
    scopes: tuple[str, ...] | None = None
    """None for an agent's run token: its policy is its scope."""
    per_minute: int | None = None
    expires_at: float = float("inf")
    sees_all: bool = False
    """Whether tools that work in a task are listed for somebody who has none: the operator looks at everything."""

    def permits(self, tool: str) -> bool:
        """Whether the token's scopes cover a tool."""
        return self.scopes is None or any(
            scope.startswith(TOOLS) and fnmatchcase(tool, scope.removeprefix(TOOLS)) for scope in self.scopes
        )

    @cached_property
    def policy_key(self) -> tuple[str | None, tuple[str, ...] | None, bool, bool]:
        """Callers with the same key see the same catalogue."""
        return (self.agent, self.scopes, self.sees_all, self.caller.has_task)


OPERATOR = Principal(
    "operator",
    "the operator",
    Caller("operator", "person", collections=("*",)),
    None,
    ("tools:*", "context:*"),
    sees_all=True,
)
"""Who holds the stack's own token."""


def run_principal(caller: Caller) -> Principal:
    """Raises `Unauthorized` for a run of nobody: `person` has no runs."""
    if caller.agent == "person":
        raise Unauthorized("A run token is for an agent.", hint="Make a token with `dev-tools token create NAME`.")
    return Principal(f"run:{caller.task_id}/{caller.agent}", caller.agent, caller, caller.agent)


def missing_scope(tool: str) -> str:
    return TOOLS + tool
