"""One thing the doctor looked at. Data only."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Check:
    """`fix` says what to do and how. Where `is_ok`, it is a reminder: it works, and will not for ever."""

    name: str
    is_ok: bool
    found: str
    fix: str = ""
