"""Sign-ins at servers as files in the stack's data directory, one for each server and issuer, for its owner only."""

import fcntl
import hashlib
import os
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from pydantic import ValidationError

from devtools_platform.gateway.upstreams.oauth.types import Credential


@dataclass(frozen=True)
class SignInFiles:
    """Two processes use it at once: the gateway that renews and the command that signs in or out."""

    folder: Path

    def load(self, server: str) -> Credential | None:
        return max(self._all(server), key=lambda found: found.saved_at, default=None)

    def find(self, server: str, issuer: str) -> Credential | None:
        return _read(self._file(server, issuer))

    def save(self, credential: Credential, *, instead_of: Credential | None = None) -> bool:
        file = self._file(credential.server, credential.issuer)
        with self._alone():
            stored = _read(file)
            if instead_of is not None and (stored is None or not stored.is_same(instead_of)):
                return False
            _write(file, credential.model_dump_json(exclude_none=True))
        return True

    def forget(self, server: str) -> list[Credential]:
        if not self.folder.is_dir():
            return []
        with self._alone():
            found = self._all(server)
            for file in self.folder.glob(f"{server}.*.json"):
                file.unlink()
        return found

    def version(self, server: str) -> object:
        try:
            return sorted((file.name, file.stat().st_mtime_ns, file.stat().st_ino) for file in self._files(server))
        except FileNotFoundError:  # removed just now
            return None

    def _all(self, server: str) -> list[Credential]:
        read = (_read(file) for file in self._files(server))
        return [found for found in read if found is not None and found.server == server]

    def _files(self, server: str) -> list[Path]:
        return list(self.folder.glob(f"{server}.*.json"))

    def _file(self, server: str, issuer: str) -> Path:
        return self.folder / f"{server}.{hashlib.sha256(issuer.encode()).hexdigest()[:16]}.json"

    @contextmanager
    def _alone(self) -> Generator[None]:
        self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        with (self.folder / ".lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield


def _read(file: Path) -> Credential | None:
    try:
        return Credential.model_validate_json(file.read_bytes())
    except (FileNotFoundError, ValidationError):
        return None


def _write(file: Path, text: str) -> None:
    partial = file.with_name(f".{file.name}.{os.getpid()}.partial")
    descriptor = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(descriptor, "w") as out:
        out.write(text)
        out.flush()
        os.fsync(out.fileno())  # a refresh token that was used up cannot be fetched again
    partial.rename(file)
