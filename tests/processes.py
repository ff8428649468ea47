"""Looking at processes and ending them while they come and go: the one that just ended is no error."""

from collections.abc import Iterable
from contextlib import suppress

import psutil


def kill_now(processes: Iterable[psutil.Process]) -> None:
    for process in processes:
        with suppress(psutil.NoSuchProcess):
            process.kill()


def names_of(processes: Iterable[psutil.Process]) -> list[str]:
    names: list[str] = []
    for process in processes:
        with suppress(psutil.NoSuchProcess):
            names.append(process.name())
    return sorted(names)


def is_alive(pid: int) -> bool:
    """Whether it runs; one that ended and whose parent has not asked yet does not."""
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def is_of(process: psutil.Process, words: str) -> bool:
    """Whether its command line has these words."""
    try:
        return any(words in word for word in process.cmdline())
    except psutil.Error:
        return False
