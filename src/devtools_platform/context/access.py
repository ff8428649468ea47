"""Who may see which collections. The stack's token may do everything; every other caller reads what is opened to it.

Fails closed: a collection that no pattern opens is answered exactly as one that does not exist.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from fnmatch import fnmatchcase

from devtools_platform.context.names import name_memory
from devtools_platform.core.errors import NotFound
from devtools_platform.core.tools import Caller

Readers = Callable[[str], tuple[str, ...] | None]
"""The patterns of the collections that an Authorization header opens; None for a header that is nobody's."""


@dataclass(frozen=True)
class Access:
    """What a caller sees: the collections whose names match one of `patterns`."""

    patterns: tuple[str, ...] = ()
    is_operator: bool = False
    """May also change what is there."""

    def sees(self, collection: str) -> bool:
        return self.is_operator or any(fnmatchcase(collection, pattern) for pattern in self.patterns)

    def check(self, collection: str) -> None:
        """Raises `NotFound`."""
        if not self.sees(collection):
            raise make_not_found(collection)


OPERATOR = Access(is_operator=True)


def access_of(caller: Caller, own: str | None) -> Access:
    """A tool caller's: the collections of its task's repository `own`, and what its token opens."""
    return Access((*_exactly([own, name_memory(own)] if own else []), *caller.collections))


def _exactly(names: Iterable[str]) -> Iterable[str]:
    return (name.replace("[", "[[]") for name in names)  # a collection's name has no other special character


def make_not_found(collection: str) -> NotFound:
    return NotFound(
        f"Collection {collection!r} is not indexed.",
        hint="`dev-tools context status` lists what is; `dev-tools context index REPO` indexes a repository.",
    )
