"""One life of a process, as others find it in the database: whether it can still be running, seen from here.

A heartbeat is the other half: it tells of processes on other hosts, and this of those on our own, at once.
"""

import os
import socket
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

HEARTBEAT_S = 1.0
DEAD_AFTER_S = 10.0
"""Ten missed heartbeats: a stopped virtual machine or a long database fail-over, and not a busy moment."""

_START_TICKS = 19
"""Of the fields of /proc/PID/stat behind the program's name, which may hold anything."""


@dataclass(frozen=True)
class Life:
    process_space: str
    """Names the boot and the process namespace in which `pid` means something."""
    pid: int
    process_started_at: float

    @classmethod
    def own(cls) -> "Life":
        return cls(process_space(), os.getpid(), started_at(os.getpid()))

    def facts(self) -> dict[str, Any]:
        """As columns of a table, the host's name with them."""
        return {"host": socket.gethostname(), **vars(self)}

    def may_run(self) -> bool:
        """False only for a process of this very host and boot that is gone."""
        if self.process_space != process_space():
            return True
        try:
            # The same number can be another process by now. A zombie has ended and waits to be collected.
            is_same = started_at(self.pid) == self.process_started_at
            return is_same and psutil.Process(self.pid).status() != psutil.STATUS_ZOMBIE
        except (FileNotFoundError, ProcessLookupError, psutil.NoSuchProcess):
            return False


def process_space() -> str:
    """Names the boot and the process namespace of this host: only within one does a process id mean anything."""
    boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    return f"{boot} {Path('/proc/self/ns/pid').readlink()}"


def started_at(pid: int) -> float:
    """Seconds from this boot to the start of a process. The time of day would change with every step of the clock."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return int(fields[_START_TICKS]) / os.sysconf("SC_CLK_TCK")
