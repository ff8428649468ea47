"""What a sandboxed command may use, and what came of it."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

EndedBy = Literal["timeout", "output"]


@dataclass(frozen=True)
class Limits:
    """Bounds of one command. Memory counts per process: the data it can write to."""

    timeout_s: float = 300.0
    memory_mb: int = 4096
    output_bytes: int = 200_000
    """How much of the output is kept: head and tail. A hundred times as much ends the command."""
    processes: int = 512
    file_mb: int = 1024


@dataclass(frozen=True)
class CommandResult:
    """`exit_code` is None if and only if `ended_by` says which limit ended the command."""

    command: tuple[str, ...]
    exit_code: int | None
    duration_s: float
    output: str
    """Standard output and error in the order they came, secrets masked."""
    ended_by: EndedBy | None = None


@dataclass(frozen=True)
class SandboxInfo:
    """The sandbox of this machine. `landlock` is its ABI version, None where the kernel has none."""

    bwrap: Path
    landlock: int | None
