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


DOCKER_NEEDS = ("DOCKER_HOST", "DOCKER_CONFIG", "DOCKER_CONTEXT", "DOCKER_BUILDKIT", "SSH_AUTH_SOCK")


def docker_environment() -> dict[str, str]:
    """What `docker` and `ssh` get to see of our environment."""
    return program_environment() | read_variables(DOCKER_NEEDS)


def user_name() -> str:
    """Who runs this process, for the audit: a claim, as the droplet's own log of SSH keys is the proof."""
    found = read_variables(("USER", "LOGNAME"))
    return found.get("USER") or found.get("LOGNAME") or f"uid-{os.getuid()}"
