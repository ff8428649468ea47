"""Runs a repository's commands where they can harm nothing: no network, no secrets, no host, bounded in time,
memory and output.

Two layers: bubblewrap (own namespaces, an almost empty file system) or a container of Docker's, and, inside it,
Landlock. Above it are the tools that run tests and analyzers; this package knows nothing of tasks or git.
"""

from devtools_platform.kit.sandbox.argv import WORKSPACE, interpreter_paths
from devtools_platform.kit.sandbox.probe import find_sandbox
from devtools_platform.kit.sandbox.run import run_sandboxed
from devtools_platform.kit.sandbox.types import (
    Bubblewrap,
    CommandResult,
    Docker,
    Limits,
    Sandbox,
    SandboxInfo,
    has_own_system,
    with_image,
)

__all__ = [
    "WORKSPACE",
    "Bubblewrap",
    "CommandResult",
    "Docker",
    "Limits",
    "Sandbox",
    "SandboxInfo",
    "find_sandbox",
    "has_own_system",
    "interpreter_paths",
    "run_sandboxed",
    "with_image",
]
