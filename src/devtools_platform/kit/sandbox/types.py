"""What goes into a sandboxed run and what comes out of it. Data only."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

EndedBy = Literal["timeout", "output", "memory", "disk"]


@dataclass(frozen=True)
class Bubblewrap:
    """Commands run in bubblewrap's namespaces and Landlock."""

    program: Path | None = None
    """A bubblewrap of the person's choice; ours, or the distribution's, if None."""


@dataclass(frozen=True)
class Docker:
    """Each command runs in a container of its own, on an engine that shares this machine's file system."""

    image: str | None = None
    """The system that commands see. None: this machine's own, read-only, as in bubblewrap."""
    cpus: float | None = None
    """How many processors one command may keep busy; all of them if None."""
    environment: tuple[tuple[str, str], ...] = ()
    """What Docker's client gets to see of our environment: where the engine is."""


Sandbox = Bubblewrap | Docker


def with_image(sandbox: Sandbox, image: str | None) -> Sandbox:
    """With Docker: `sandbox` with the system of `image`. bubblewrap knows no images, and stays as it is."""
    return replace(sandbox, image=image) if isinstance(sandbox, Docker) else sandbox


def has_own_system(sandbox: Sandbox | None) -> bool:
    """Whether commands see an image's system: then nothing of this machine but the workspace is there."""
    return isinstance(sandbox, Docker) and sandbox.image is not None


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

    program: Path
    """bubblewrap, or Docker's client."""
    landlock: int | None
    """Landlock's ABI version; None without it, which callers record as degraded."""
    kind: Literal["bubblewrap", "docker"] = "bubblewrap"
    user: str = ""
    """Docker: `UID:GID` that commands run as; ours, as the engine counts."""
    volumes: tuple[str, ...] = ()
    """Docker: places the image would have the engine make writable without bounds."""
