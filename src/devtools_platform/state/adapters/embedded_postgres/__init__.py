"""PostgreSQL 16 without installing it: the binaries of a wheel, under our own supervision.

The wheel's launcher is not used: as root it adds a system user and opens every folder above the data to the
world, and it serves a Unix socket without a password. `programs` finds the binaries, `home` decides where the
cluster lives and whose it is, `server` starts, attaches, watches and stops.
"""

from devtools_platform.state.adapters.embedded_postgres.home import forget_cluster
from devtools_platform.state.adapters.embedded_postgres.programs import find_programs
from devtools_platform.state.adapters.embedded_postgres.server import EmbeddedPostgres

__all__ = ["EmbeddedPostgres", "find_programs", "forget_cluster"]
