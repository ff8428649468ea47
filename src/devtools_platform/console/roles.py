"""Which role somebody has who was sent by an identity provider: a file of the team's says it, nobody else. Pure.

    admin: ["group:platform"]
    operator: ["group:developers", "email:ann@example.org"]
    viewer: ["email:*@example.org"]

Who is on no line does not come in. Names people choose themselves are never matched: only groups of the provider,
e-mail addresses that it has verified, and its subjects.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any, cast

import yaml

from devtools_platform.console.access import MAX_NAME, ROLES, Person, Role
from devtools_platform.core.errors import BadInput, Forbidden

KINDS = ("group", "email", "subject")
MAX_BYTES = 200_000
HINT = 'For example `operator: ["group:developers", "email:ann@example.org"]`; see docs/how-to/console.md.'


@dataclass(frozen=True)
class Identified:
    """Somebody an identity provider vouches for."""

    subject: str
    """The provider's own name for them, which they cannot choose."""
    email: str | None = None
    """Only where the provider has verified it."""
    groups: tuple[str, ...] = ()
    label: str | None = None
    """A name that is theirs alone at this provider, such as GitHub's login; None where it has none."""

    @property
    def name(self) -> str:
        """For the audit."""
        text = self.email or self.label or self.subject
        return "".join(c for c in text if c.isprintable())[:MAX_NAME]

    def marks(self) -> Sequence[str]:
        """What lines of the file are matched with."""
        email = [f"email:{self.email.lower()}"] if self.email else []
        return [f"subject:{self.subject}", *email, *(f"group:{group}" for group in self.groups)]


@dataclass(frozen=True)
class Roles:
    lines: Mapping[Role, tuple[str, ...]] = field(default_factory=dict[Role, tuple[str, ...]])

    def admit(self, who: Identified) -> Person:
        """The highest role one of their marks has. Raises `Forbidden` for somebody without any."""
        marks = who.marks()
        for role in reversed(ROLES):
            if any(fnmatchcase(mark, line) for line in self.lines.get(role, ()) for mark in marks):
                return Person(who.name, role)
        raise Forbidden(
            f"{who.name} is signed in at the provider, and has no role here.",
            hint="An admin adds a line to the file of DEV_TOOLS_CONSOLE_ROLES, and starts the console again.",
        )


def load_roles(path: Path) -> Roles:
    """Raises `BadInput` naming the line that is wrong."""
    try:
        text = path.read_text()
        raw: Any = yaml.safe_load(text) if len(text) <= MAX_BYTES else None
    except (OSError, yaml.YAMLError) as error:
        raise BadInput(f"The roles in {str(path)!r} cannot be read: {error}.", hint=HINT) from None
    if not isinstance(raw, dict):
        raise BadInput(f"{str(path)!r} names no roles.", hint=HINT)
    given = cast("dict[Any, Any]", raw)
    if unknown := set(given) - set(ROLES):
        raise BadInput(f"{str(path)!r}: there is no role {min(map(str, unknown))!r}.", hint=HINT)
    return Roles({role: _read_lines(path, role, given.get(role) or []) for role in ROLES})


def _read_lines(path: Path, role: Role, lines: Any) -> tuple[str, ...]:
    if not isinstance(lines, list):
        raise BadInput(f"{str(path)!r}: {role} is no list.", hint=HINT)
    for line in cast("list[Any]", lines):
        kind, _, value = line.partition(":") if isinstance(line, str) else ("", "", "")
        if kind not in KINDS or not value:
            raise BadInput(f"{str(path)!r}: {role} has {line!r}, expected one of {', '.join(KINDS)}.", hint=HINT)
    found = cast("list[str]", lines)
    return tuple(line.lower() if line.startswith("email:") else line for line in found)
