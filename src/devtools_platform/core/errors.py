"""One base error for everything a person can meet.

Each subclass says what happened and carries a stable `code`, an HTTP `status`, a process `exit_code` and a
`hint`: the next command to run. Expected outcomes are classes here; a bug stays a crash.
"""

from collections.abc import Mapping
from typing import Any, ClassVar


class DevToolsError(Exception):
    """Something a person can act on. `str(error)` says what was wrong and what was expected."""

    code: ClassVar[str] = "error"
    status: ClassVar[int] = 500
    exit_code: ClassVar[int] = 1

    def __init__(self, message: str, *, hint: str = "") -> None:
        super().__init__(message)
        self.hint = hint or "Run `dev-tools doctor` to see what is missing and how to mend it."

    def to_dict(self) -> dict[str, str]:
        """The error as every HTTP response and `--json` output shows it."""
        return {"code": self.code, "message": str(self), "hint": self.hint}


class BadInput(DevToolsError):
    """The request cannot be carried out as it was made."""

    code = "bad_input"
    status = 422
    exit_code = 2


class TooLarge(DevToolsError):
    """More was sent than is taken."""

    code = "too_large"
    status = 413
    exit_code = 2


class NotARepository(BadInput):
    """The given folder is not a git repository with at least one commit."""

    code = "not_a_repository"


class UnknownAgent(BadInput):
    """No agent has that name."""

    code = "unknown_agent"


class NotFound(DevToolsError):
    """Nothing is stored under that id."""

    code = "not_found"
    status = 404
    exit_code = 3


class Conflict(DevToolsError):
    """The thing exists, but not in a state that allows this."""

    code = "conflict"
    status = 409
    exit_code = 4


class Unauthorized(DevToolsError):
    """No token, or one that does not verify."""

    code = "unauthorized"
    status = 401
    exit_code = 5


class Forbidden(DevToolsError):
    """The caller is known and may not do this; the message names the missing permission."""

    code = "forbidden"
    status = 403
    exit_code = 5


class NoModel(DevToolsError):
    """No model is configured, cached or running."""

    code = "no_model"
    status = 503
    exit_code = 6


class ModelRefused(DevToolsError):
    """The model endpoint refused the call for good: wrong key, unknown model, exhausted quota."""

    code = "model_refused"
    status = 502
    exit_code = 6


class NoSandbox(DevToolsError):
    """Commands of a repository would have to run without isolation."""

    code = "no_sandbox"
    status = 503
    exit_code = 7


class PortInUse(DevToolsError):
    """A service cannot listen where it was told to."""

    code = "port_in_use"
    status = 503
    exit_code = 8


class AlreadyRunning(DevToolsError):
    """Another stack owns this data directory."""

    code = "already_running"
    status = 409
    exit_code = 8


class NotRunning(DevToolsError):
    """No stack answers for this data directory."""

    code = "not_running"
    status = 503
    exit_code = 8


class DiskFull(DevToolsError):
    """Too little room is left to work safely."""

    code = "disk_full"
    status = 507
    exit_code = 9


class Unavailable(DevToolsError):
    """A part this call depends on does not answer; trying again later can help."""

    code = "unavailable"
    status = 503
    exit_code = 10


class Away(Unavailable):
    """A part of our own stack does not answer. It is expected back: workflows wait for it, requests say 503."""


class ToolFailed(DevToolsError):
    """A tool ran and could not do what was asked; the message is meant for the agent that called it."""

    code = "tool_failed"
    status = 422


class ProgramFailed(DevToolsError):
    """A program we started ended badly; the message carries its last words."""

    code = "program_failed"


class TooLate(Conflict):
    """Somebody else was faster, or the thing has changed since it was read."""

    code = "too_late"


class KeyReused(Conflict):
    """An idempotency key that already stands for another request."""

    code = "key_reused"


class OverBudget(DevToolsError):
    """A model call was not made, because its cost could pass a budget or is not known.

    `facts` are those of the budget: `key`, `scope`, `limit_usd`, `spent_usd`, `held_usd`, `needed_usd`; empty
    where no budget was full but no price is known.
    """

    code = "over_budget"
    status = 402
    exit_code = 11

    def __init__(self, message: str, *, hint: str = "", facts: Mapping[str, Any] | None = None) -> None:
        super().__init__(message, hint=hint)
        self.facts = dict(facts or {})
