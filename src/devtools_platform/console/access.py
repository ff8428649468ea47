"""Who a person is to the console and what they may do: a name for the audit, a role for the doors.

A viewer looks. An operator also acts on tasks, approvals and tools. An admin also changes what others may do:
which tools are trusted, who may come in.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, get_args

from devtools_platform.core.errors import BadInput

Role = Literal["viewer", "operator", "admin"]
ROLES: Sequence[Role] = get_args(Role)
"""Each may do what the ones before it may."""

MAX_NAME = 100


@dataclass(frozen=True)
class Person:
    """Somebody who has signed in."""

    name: str
    role: Role
    token_id: str | None = None
    """The personal token they came in with; None for a login link."""

    def may(self, role: Role) -> bool:
        return ROLES.index(self.role) >= ROLES.index(role)


def read_person(name: object, role: object) -> Person:
    """A person as named from outside. Raises `BadInput`."""
    if not isinstance(name, str) or not 0 < len(name.strip()) <= MAX_NAME or not name.isprintable():
        raise BadInput(f"A name has 1 to {MAX_NAME} printable characters.", hint="For example: --name ann.")
    for known in ROLES:
        if role == known:
            return Person(name.strip(), known)
    raise BadInput(f"There is no role {role!r}.", hint=f"The roles are: {', '.join(ROLES)}.")
