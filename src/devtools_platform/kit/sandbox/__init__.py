"""A place to run commands nobody has read: bubblewrap around, Landlock and limits inside (docs/decisions/0005)."""

from devtools_platform.kit.sandbox.argv import sandbox_argv
from devtools_platform.kit.sandbox.run import find_sandbox, run_sandboxed
from devtools_platform.kit.sandbox.types import CommandResult, Limits, SandboxInfo

__all__ = ["CommandResult", "Limits", "SandboxInfo", "find_sandbox", "run_sandboxed", "sandbox_argv"]
