"""What goes into a sandboxed run and what comes out of it. Data only."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

EndedBy = Literal["timeout", "output", "memory", "disk"]


@dataclass(frozen=True)
class Limits:
    """What one command may use. Memory counts the whole process tree, file size each file."""

    timeout_s: float
    memory_mb: int
    output_bytes: int = 200_000
    """How much output is kept. A command that prints 50 times as much is ended."""
    processes: int = 512
    file_mb: int = 1024
    disk_mb: int = 4096
    """How much a command may write into its workspace, over all files. Seen by sampling, so it may be passed by what
    is written in a quarter of a second."""


@dataclass(frozen=True)
class CommandResult:
    """How a command ended. `exit_code` is None exactly when a limit ended it; then `ended_by` says which."""

    command: tuple[str, ...]
    exit_code: int | None
    duration_s: float
    output: str
    """Standard output and error as they came, head and tail, secrets redacted."""
    ended_by: EndedBy | None


@dataclass(frozen=True)
class SandboxInfo:
    """What isolates commands on this machine."""

    bwrap: Path
    landlock: int | None
    """Landlock's ABI version; None when the kernel has none, which callers record as degraded."""
