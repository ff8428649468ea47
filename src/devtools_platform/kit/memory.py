"""Memory the C library keeps for itself after it was freed: given back to the system, or not taken at all."""

import ctypes
from typing import Any

_libc = ctypes.CDLL(None)
_trim: Any = getattr(_libc, "malloc_trim", None)
_tune: Any = getattr(_libc, "mallopt", None)
"""glibc's; other C libraries have none, and there nothing is done."""
_ARENA_MAX = -8  # malloc.h's M_ARENA_MAX


def give_back_memory() -> None:
    """After work that took much memory for a moment. Takes milliseconds."""
    if _trim is not None:
        _trim(0)


def keep_few_arenas() -> None:
    """For a process whose threads take turns, at its start: glibc keeps a heap for each thread otherwise."""
    if _tune is not None:
        _tune(_ARENA_MAX, 2)
