"""The names of collections: made from what they hold, so that everybody finds the same one without asking."""

import hashlib
import re
from pathlib import Path

MEMORY = ".memory"
"""Ends the name of what the team knows of a repository; begins as the repository's own collection is called."""


def name_collection(repo: Path) -> str:
    """The stable name of a repository's collection: readable, and one per resolved path."""
    path = repo.resolve()
    readable = re.sub(r"[^a-z0-9]+", "-", path.name.lower()).strip("-")[:40] or "repo"
    return f"{readable}-{hashlib.sha256(str(path).encode()).hexdigest()[:10]}"


def name_memory(collection: str) -> str:
    """Where the outcomes, decisions and findings of the tasks in a repository are."""
    return collection + MEMORY
