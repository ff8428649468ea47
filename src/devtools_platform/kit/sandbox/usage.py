"""How much a process and all its descendants use, read from /proc.

The kernel's own limits bound one process at a time, and its process limit does not bind root: a program that
forks needs someone who adds up.
"""

from collections import defaultdict
from dataclasses import dataclass
from os import sysconf
from pathlib import Path

_PROC = Path("/proc")
_PAGE = sysconf("SC_PAGE_SIZE")


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
