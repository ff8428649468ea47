"""Locks git leaves in a clone when it is killed: every later command would fail on them."""

import os
import re
import time
from pathlib import Path

import psutil

_HELD = re.compile(r"Unable to create '(.+\.lock)': File exists")
_MIN_AGE_S = 1.0
"""Git may have closed a lock it is about to rename; no more than an instant lies between the two."""


def lock_in_the_way(stderr: str, git_dir: Path) -> Path | None:
    """The lock file a command of git failed on; None when it failed for another reason, or outside `git_dir`."""
    found = _HELD.search(stderr)
    if found is None:
        return None
    lock = Path(found[1])
    return lock if lock.is_relative_to(git_dir) and not lock.is_symlink() else None


def remove_if_abandoned(lock: Path) -> bool:
    """Remove a lock no living process holds open; whether the way is free now. It may take 100 ms."""
    try:
        before = lock.stat()
    except FileNotFoundError:
        return True
    if time.time() - before.st_mtime < _MIN_AGE_S or _is_open(before):
        return False
    lock.unlink(missing_ok=True)
    return True


def _is_open(file: os.stat_result) -> bool:
    for process in psutil.process_iter():
        try:
            paths = [opened.path for opened in process.open_files()]
        except psutil.Error:
            continue  # it has ended, or is another user's
        for path in paths:
            try:
                if os.path.samestat(Path(path).stat(), file):
                    return True
            except OSError:
                continue
    return False
