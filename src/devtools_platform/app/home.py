"""A stack's data directory: who owns it, its secrets, and where its services listen."""

import fcntl
import json
import os
import secrets
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

from devtools_platform.config import Settings
from devtools_platform.core.errors import AlreadyRunning, BadInput, NotRunning

LOOK_S = 0.2
"""No look at whether a stack is running takes as long; a stack that starts lets it pass."""
LAST_BACKUP = "last-backup.json"
"""Says when the last backup was made, and where it went."""


@dataclass(frozen=True)
class Home:
    """The folder `data_dir`, which only its owner can read, and what was given in place of parts of it."""

    path: Path
    _workspaces: Path | None = None
    _given: Mapping[str, str] = field(default_factory=dict[str, str], repr=False)
    """Secrets that were not made here, by name: they win over the files."""

    @classmethod
    def of(cls, settings: Settings) -> "Home":
        given = {"token": settings.stack_token, "secret": settings.stack_secret, "database_url": settings.database_url}
        known = {name: value.get_secret_value().strip() for name, value in given.items() if value is not None}
        return cls(settings.data_dir, settings.workspaces_dir, known)

    def prepare(self) -> None:
        """Make the folder if it is missing. Raises `BadInput` where that cannot be done."""
        try:
            self.path.mkdir(parents=True, exist_ok=True, mode=0o700)
            self.logs.mkdir(exist_ok=True)
            self.workspaces.mkdir(exist_ok=True, parents=True)
        except OSError as error:
            raise BadInput(
                f"The data directory {str(self.path)!r} cannot be used: {error.strerror}.",
                hint="Set DEV_TOOLS_DATA_DIR, or pass --data-dir, to a folder you can write.",
            ) from None

    @property
    def logs(self) -> Path:
        return self.path / "logs"

    @property
    def workspaces(self) -> Path:
        return self._workspaces or self.path / "workspaces"

    @property
    def kept(self) -> Path:
        """Where secrets, sign-ins and locks lie: the folder `kept` where one is mounted, which services apart share."""
        folder = self.path / "kept"
        return folder if folder.is_dir() else self.path

    def secret(self, name: str) -> str:
        """A secret of this stack, made on first use and readable by its owner only."""
        if name in self._given:
            return self._given[name]
        file = self.kept / name
        if not file.exists():
            self.keep_secret(name, secrets.token_urlsafe(32))
        return file.read_text().strip()

    def find_secret(self, name: str) -> str | None:
        """A secret that was given, made or kept before; None when it was not."""
        if name in self._given:
            return self._given[name]
        file = self.kept / name
        return file.read_text().strip() if file.exists() else None

    def keep_secret(self, name: str, value: str) -> None:
        """Write a secret that only the owner of the folder can read."""
        partial = self.kept / f".{name}.{os.getpid()}.partial"
        descriptor = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        with os.fdopen(descriptor, "w") as out:
            out.write(value)
        partial.rename(self.kept / name)

    def lock(self) -> IO[str]:
        """Own the folder until the returned file is closed. Raises `AlreadyRunning` with what is running."""
        file = (self.path / "stack.lock").open("w")
        give_up_at = time.monotonic() + LOOK_S
        while not _flock(file, fcntl.LOCK_EX):
            if time.monotonic() > give_up_at:
                file.close()
                raise AlreadyRunning(
                    f"A stack is already running on {str(self.path)!r}: {self._describe()}.",
                    hint="Use it with `dev-tools task run`, or stop it with Ctrl-C where it runs.",
                )
            time.sleep(LOOK_S / 10)
        return file

    def is_locked(self) -> bool:
        """Whether a stack owns it. Many may look at once: they do not take each other for one."""
        file = self.path / "stack.lock"
        if not file.is_file():
            return False
        with file.open() as opened:
            return not _flock(opened, fcntl.LOCK_SH)

    def announce(self, facts: Mapping[str, Any]) -> None:
        """Write down where the services listen, for commands that look for them."""
        partial = self.path / "stack.json.partial"
        partial.write_text(json.dumps(facts, indent=2))
        partial.rename(self.path / "stack.json")

    def withdraw(self) -> None:
        (self.path / "stack.json").unlink(missing_ok=True)

    def read_announcement(self) -> dict[str, Any]:
        """Where the running stack listens. Raises `NotRunning`."""
        file = self.path / "stack.json"
        if not file.is_file() or not self.is_locked():
            raise NotRunning(f"No stack is running on {str(self.path)!r}.", hint="Start one with `dev-tools up`.")
        return json.loads(file.read_text())

    def _describe(self) -> str:
        file = self.path / "stack.json"
        if not file.is_file():
            return "it is still starting"
        facts = json.loads(file.read_text())
        urls = ", ".join(f"{name} {url}" for name, url in facts["urls"].items())
        return f"process {facts['pid']}, {urls}"


def _flock(file: IO[str], kind: int) -> bool:
    try:
        fcntl.flock(file, kind | fcntl.LOCK_NB)
    except OSError:
        return False
    return True
