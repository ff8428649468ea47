"""The container as a value: which of Docker's options show which part of the machine to a command.

The counterpart of `argv` for Docker, with the same view: the workspace, a system that is read-only, and nothing else.
That system is this machine's, under the same second layer as in bubblewrap, or an image's. Decides; runs nothing.
"""

import csv
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from devtools_platform.kit.sandbox import argv
from devtools_platform.kit.sandbox.types import Docker, Limits, SandboxInfo

ROOT_IMAGE = "dev-tools-sandbox:1"
"""An image of empty folders, made on the engine without any registry; this machine's system is mounted over it."""

OWNER_LABEL = "dev-tools.sandbox-of"
READY_FD = 9
_NOTES = "/run/dev-tools"
_WHEN_READY = f'exec {READY_FD}>{_NOTES}/ready; exec "$@"'


@dataclass(frozen=True)
class Container:
    """One command's container. `notes` is a folder of ours for this run; `owner` says whose it is."""

    name: str
    owner: str
    notes: Path


def create_arguments(
    container: Container,
    sandbox: Docker,
    info: SandboxInfo,
    command: Sequence[str],
    *,
    workspace: Path,
    limits: Limits,
    writable: bool = True,
    read_only_paths: Sequence[Path] = (),
    env: Mapping[str, str] | None = None,
    loopback: bool = False,
) -> tuple[str, ...]:
    """What follows `docker` to make, not yet to start, the container of `command`."""
    options = [
        *("create", "--name", container.name, "--label", f"{OWNER_LABEL}={container.owner}"),
        *("--pull", "never", "--log-driver", "none", "--no-healthcheck"),
        *_isolation(info, limits, sandbox.cpus),
        *_mount(workspace, argv.WORKSPACE, writable=writable),
        # Never writable: our own git reads its configuration outside the sandbox.
        *(_mount(workspace / ".git", f"{argv.WORKSPACE}/.git") if (workspace / ".git").exists() else ()),
        *_mount(container.notes / "resolv.conf", "/etc/resolv.conf"),
        *(part for name, value in (env or {}).items() for part in ("--env", f"{name}={value}")),
    ]
    if sandbox.image is not None:
        room = f"rw,nosuid,nodev,size={limits.file_mb}m"
        covered = [part for place in info.volumes for part in ("--tmpfs", f"{place}:{room}")]
        return (*options, "--init", *covered, "--entrypoint", command[0], "--", sandbox.image, *command[1:])
    guarded = argv.guarded(
        info.landlock, command, limits=limits, ready_fd=READY_FD, writable=writable, loopback=loopback, is_first=True
    )
    system = _system(container.notes, read_only_paths)
    return (*options, *system, "--", ROOT_IMAGE, "/bin/sh", "-c", _WHEN_READY, "sh", *guarded)


def write_notes(container: Container, info: SandboxInfo) -> None:
    """What the container reads of us: its own accounts, no name server; and where it says that it is set up."""
    uid, gid = info.user.split(":")
    for name in ("passwd", "group"):
        told = (argv.OWN_ETC_FOLDER / name).read_text().replace(f":{argv.UID}:", f":{uid}:")
        (container.notes / name).write_text(told.replace(f":{argv.UID}:", f":{gid}:"))
    for name in ("resolv.conf", "ready"):
        (container.notes / name).touch()


def _isolation(info: SandboxInfo, limits: Limits, cpus: float | None) -> tuple[str, ...]:
    room = f"rw,exec,nosuid,nodev,mode=1777,size={limits.file_mb}m"
    memory, file_bytes = f"{limits.memory_mb}m", str(limits.file_mb << 20)
    return (
        *("--network", "none", "--hostname", "sandbox", "--ipc", "private", "--user", info.user),
        *("--read-only", "--cap-drop", "ALL", "--security-opt", "no-new-privileges"),
        *("--memory", memory, "--memory-swap", memory, "--pids-limit", str(limits.processes)),
        *(("--cpus", f"{cpus:g}") if cpus else ()),
        *("--ulimit", f"fsize={file_bytes}", "--ulimit", "core=0", "--shm-size", f"{limits.file_mb}m"),
        *("--tmpfs", f"/tmp:{room}", "--tmpfs", f"{argv.HOME}:{room}", "--workdir", argv.WORKSPACE),  # noqa: S108
    )


def _system(notes: Path, read_only_paths: Sequence[Path]) -> tuple[str, ...]:
    """This machine's system and interpreters, read-only, with accounts and host names that are ours."""
    places = [Path(path) for path in (*argv.SYSTEM, *argv.HOST_ETC)]
    places += [path for path in dict.fromkeys(read_only_paths) if not path.is_relative_to("/usr")]
    args = [part for path in places if path.exists() for part in _mount(path, str(path))]
    for name in argv.OWN_ETC:
        own = notes / name
        args += _mount(own if own.exists() else argv.OWN_ETC_FOLDER / name, f"/etc/{name}")
    args += _mount(argv.GUARD, argv.SCRIPT)
    return (*args, *_mount(notes / "ready", f"{_NOTES}/ready", writable=True))


def _mount(source: Path, target: str, *, writable: bool = False) -> tuple[str, str]:
    """The option is a line of CSV: a path may hold a comma."""
    line = io.StringIO()
    fields = ["type=bind", f"source={source}", f"target={target}", *(() if writable else ("readonly",))]
    csv.writer(line, lineterminator="").writerow(fields)
    return ("--mount", line.getvalue())
