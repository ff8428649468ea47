"""Memory the C library keeps for itself after it was freed, given back to the system."""

import ctypes
from typing import Any

_trim: Any = getattr(ctypes.CDLL(None), "malloc_trim", None)
"""glibc's; other C libraries have none, and there nothing is done."""


def give_back_memory() -> None:
    """After work that took much memory for a moment. Takes milliseconds."""
    if _trim is not None:
        _trim(0)
