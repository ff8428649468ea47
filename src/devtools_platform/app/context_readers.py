"""Whose tokens open the context service beside the stack's own: the gateway's, by their scopes `context:PATTERN`."""

from devtools_platform.context.access import Readers
from devtools_platform.core.errors import Unauthorized, Unavailable
from devtools_platform.gateway.identity import Identity


def readers_of(identity: Identity) -> Readers:
    """A token without such a scope is let in and sees nothing; one that is not valid is not let in."""

    def find(header: str) -> tuple[str, ...] | None:
        try:
            return identity.verify(header.encode("latin-1", "replace")).caller.collections
        except (Unauthorized, Unavailable):
            return None

    return find
