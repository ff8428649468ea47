"""Variables of the process's environment that are not ours: what programs we start need, and secrets named in files."""

import os
from collections.abc import Iterable

PROGRAMS_NEED = ("PATH", "HOME", "LANG", "LC_ALL", "TMPDIR", "TZ")


def program_environment() -> dict[str, str]:
    """All a program of somebody else gets to see of our environment, unless more is named for it."""
    return read_variables(PROGRAMS_NEED)


def read_variables(names: Iterable[str]) -> dict[str, str]:
    """The values of those that are set."""
    return {name: os.environ[name] for name in names if name in os.environ}
