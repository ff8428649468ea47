"""How much a process and all its descendants use, read from /proc.

The kernel's own limits bound one process at a time, and its process limit does not bind root: a program that
forks needs someone who adds up.
"""

import os
import time
from collections import defaultdict
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

_PROC = Path("/proc")
_PAGE = os.sysconf("SC_PAGE_SIZE")


@dataclass(frozen=True)
class TreeUsage:
    processes: int
    memory_bytes: int


def measure_tree(root: int, *, at_most: int) -> TreeUsage:
    """Processes below and including `root`, and their memory.

    Memory is the resident size, which counts shared pages once for each process. Only when that is over
    `at_most` is the exact, dearer figure taken.
    """
    pids = list_tree(root)
    resident = sum(_resident_bytes(pid) for pid in pids)
    memory = resident if resident <= at_most else sum(_proportional_bytes(pid) for pid in pids)
    return TreeUsage(len(pids), memory)


def list_tree(root: int) -> list[int]:
    """`root` and its descendants. Orphans inside a PID namespace stay below its first process."""
    children: defaultdict[int, list[int]] = defaultdict(list)
    for entry in _PROC.iterdir():
        if entry.name.isdigit() and (stat := _read(entry / "stat")):
            # pid (name) state ppid: the name may hold anything, even ')'
            children[int(stat.rpartition(")")[2].split()[1])].append(int(entry.name))
    tree = [root]
    for pid in tree:
        tree += children[pid]
    return tree


def _resident_bytes(pid: int) -> int:
    fields = _read(_PROC / str(pid) / "statm").split()
    return int(fields[1]) * _PAGE if fields else 0


def _proportional_bytes(pid: int) -> int:
    for line in _read(_PROC / str(pid) / "smaps_rollup").splitlines():
        if line.startswith("Pss:"):
            return int(line.split()[1]) << 10
    return _resident_bytes(pid)


def _read(path: Path) -> str:
    """The file's text, or nothing: a process may end at any moment."""
    try:
        return path.read_text(errors="replace")
    except OSError:
        return ""


class Growth:
    """How much a folder has grown since this was made.

    Asking the file system how much is free costs nothing; only when that fell by more than is allowed is the folder
    itself looked through, for others write to the same disk.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._began = time.time()
        self._free = _free_bytes(folder)

    def is_over(self, at_most: int) -> bool:
        """Whether files written since then hold more than `at_most` bytes."""
        free = _free_bytes(self._folder)
        if self._free - free <= at_most:
            return False
        written = 0
        for folder, _, names in os.walk(self._folder):
            for name in names:
                with suppress(OSError):
                    found = (Path(folder) / name).lstat()
                    written += found.st_blocks * 512 if found.st_ctime >= self._began else 0
        if written <= at_most:
            self._free = free  # it was somebody else
        return written > at_most


def _free_bytes(folder: Path) -> int:
    try:
        found = os.statvfs(folder)
    except OSError:  # it is not there: the sandbox will say so
        return 0
    return found.f_bavail * found.f_frsize
