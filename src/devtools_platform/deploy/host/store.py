"""What a droplet remembers: its configuration, the recorded release, the rollout in progress, the audit chain.

Every write is a rename of a finished, synced file: after a power cut there is the old content or the new one.
"""

import fcntl
import hashlib
import json
import os
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

COLOURS = ("blue", "green")
FIRST_HASH = "0" * 64


class Refused(Exception):
    """An expected outcome: `code` for programs, the text for people, the hint for what to do."""

    def __init__(self, code: str, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.code = code
        self.hint = hint


@dataclass(frozen=True)
class HostConfig:
    """`/etc/dev-tools/host.json`, written by the bootstrap script. Only root changes it."""

    application: str
    state_dir: Path
    keys_dir: Path
    repositories: tuple[str, ...]
    """Prefixes of the repositories images may come from: `registry.example.org/team/`."""
    caddy_admin: str = "http://127.0.0.1:2019"
    caddy_check: str | None = "http://127.0.0.1:2020/"
    """Where Caddy answers with the content of `check` in the state directory: proof that it reads files."""
    watch_urls: tuple[str, ...] = ()
    """What must answer 200 through Caddy after a flip."""
    env_file: Path | None = None
    ports: int = 21000
    """Blue listens from here on, green 100 higher."""
    min_free_mb: int = 2048
    max_clock_skew_s: float = 30
    plain_registries: tuple[str, ...] = ()
    """Registries without TLS: only for one that is reached through the SSH connection."""
    prometheus: str | None = None
    backup: tuple[str, ...] = ()
    """Program that saves the database before a release that migrates it."""
    environment: Mapping[str, str] = field(default_factory=dict[str, str])


_PATHS = ("state_dir", "keys_dir", "env_file")


def load_config(file: Path) -> HostConfig:
    """Raises `Refused` for a file that is missing, broken, or has unknown names."""
    try:
        raw: dict[str, Any] = json.loads(file.read_text())
        values = {key: _freeze(value) for key, value in raw.items()}
        values |= {key: Path(values[key]) for key in _PATHS if values.get(key)}
        return HostConfig(**values)
    except (OSError, ValueError, TypeError, AttributeError) as error:
        raise Refused("bad_host_config", f"{file}: {error}.", "Run `dev-tools host bootstrap`.") from None


def _freeze(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value  # pyright: ignore[reportUnknownArgumentType,reportUnknownVariableType]


@dataclass(frozen=True)
class Store:
    """The state directory."""

    config: HostConfig

    @property
    def path(self) -> Path:
        return self.config.state_dir

    def current(self) -> dict[str, Any] | None:
        """The recorded release: what this host returns to whatever happens. None before the first."""
        return read_json(self.path / "current.json")

    def journal(self) -> dict[str, Any] | None:
        """The rollout that has begun and not ended. None when there is none."""
        return read_json(self.path / "rollout.json")

    def write_current(self, value: Mapping[str, Any]) -> None:
        write_json(self.path / "current.json", value)

    def write_journal(self, value: Mapping[str, Any]) -> None:
        write_json(self.path / "rollout.json", value)

    def end_journal(self) -> None:
        (self.path / "rollout.json").unlink(missing_ok=True)

    def release_folder(self, seq: int) -> Path:
        return self.path / "releases" / str(seq)

    def recorded(self) -> list[dict[str, Any]]:
        """Releases that were committed here, oldest first, with the digest of what was signed."""
        return [entry["data"] for entry in self.audit() if entry["action"] == "commit"]

    def live(self) -> str | None:
        """The colour that Caddy sends requests to."""
        link = self.path / "live"
        return link.readlink().name if link.is_symlink() else None

    def point_live_at(self, colour: str | None) -> None:
        """Flip. One rename: every request sees the old colour or the new one, for all endpoints at once."""
        link = self.path / "live"
        if colour is None:
            link.unlink(missing_ok=True)
            return
        fresh = self.path / ".live.next"
        fresh.unlink(missing_ok=True)
        fresh.symlink_to(Path("colours") / colour)
        fresh.rename(link)
        _sync(self.path)

    def lock(self, holder: str) -> IO[str]:
        """Hold the host until the returned file is closed, or this process ends, however it ends.

        Raises `Refused` (`locked`) with who holds it.
        """
        self.path.mkdir(parents=True, exist_ok=True)
        file = (self.path / "lock").open("a+")
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            file.seek(0)
            by = file.read().strip() or "somebody"
            file.close()
            hint = "Wait, or look with `dev-tools rollout status`. A lock is free 5 s after its holder is gone."
            raise Refused("locked", f"A rollout is in progress, by {by}.", hint) from None
        file.truncate(0)
        file.write(holder)
        file.flush()
        return file

    def audit(self) -> list[dict[str, Any]]:
        file = self.path / "audit.jsonl"
        if not file.exists():
            return []
        return [json.loads(line) for line in file.read_text().splitlines() if line.endswith("}")]

    def record(self, actor: str, action: str, data: Mapping[str, Any]) -> None:
        """Add to the audit. The caller holds the lock."""
        entries = self.audit()
        last = entries[-1]["hash"] if entries else FIRST_HASH
        body = {"seq": len(entries) + 1, "at": time.time(), "actor": actor, "action": action, "data": dict(data)}
        line = json.dumps({**body, "previous": last, "hash": seal(last, body)}, sort_keys=True)
        file = self.path / "audit.jsonl"
        torn = file.exists() and not file.read_bytes().endswith(b"\n") and file.stat().st_size > 0
        with file.open("a") as out:
            out.write(f"\n{line}\n" if torn else f"{line}\n")
            out.flush()
            os.fsync(out.fileno())


def check_chain(entries: list[dict[str, Any]]) -> int | None:
    """The first entry that does not follow from the one before; None for a whole chain."""
    last = FIRST_HASH
    for place, entry in enumerate(entries, 1):
        body = {key: value for key, value in entry.items() if key not in {"hash", "previous"}}
        if entry.get("seq") != place or entry.get("previous") != last or entry.get("hash") != seal(last, body):
            return place
        last = entry["hash"]
    return None


def seal(last: str, body: Mapping[str, Any]) -> str:
    return hashlib.sha256(f"{last}\n{json.dumps(body, sort_keys=True)}".encode()).hexdigest()


def read_json(file: Path) -> dict[str, Any] | None:
    return json.loads(file.read_text()) if file.exists() else None


def write_json(file: Path, value: Mapping[str, Any]) -> None:
    write_text(file, json.dumps(value, indent=1, sort_keys=True))


def write_text(file: Path, text: str) -> None:
    """Replace `file` in one step; what is there after a crash is whole."""
    file.parent.mkdir(parents=True, exist_ok=True)
    fresh = file.with_name(f".{file.name}.next")
    with fresh.open("w") as out:
        out.write(text)
        out.flush()
        os.fsync(out.fileno())
    fresh.rename(file)
    _sync(file.parent)


def other(colour: str | None) -> str:
    """The colour that does not serve."""
    return COLOURS[1] if colour == COLOURS[0] else COLOURS[0]


def _sync(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
