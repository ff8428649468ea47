"""The sandbox as a value: which bubblewrap arguments show which part of the machine to a command.

Everything here decides and nothing runs; `run` starts what this returns. What is not named below does not
exist for the command: no network, no home, no other task, no host process, no environment.
"""

import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from devtools_platform.kit.sandbox.landlock_exec import Plan
from devtools_platform.kit.sandbox.types import Limits, SandboxInfo

WORKSPACE = "/workspace"
"""Where the command finds its workspace, and its working directory."""

HOME = "/tmp/home"  # noqa: S108 - a path inside the sandbox's own /tmp
SCRIPT = "/run/dev-tools/landlock_exec.py"
UID = "1000"

_HERE = Path(__file__).parent
GUARD = _HERE / "landlock_exec.py"
OWN_ETC_FOLDER = _HERE / "etc"
OWN_ETC = ("passwd", "group", "hosts", "nsswitch.conf")
HOST_ETC = (
    "/etc/ld.so.cache",
    "/etc/alternatives",
    "/etc/localtime",
    "/etc/ssl/certs",
    "/etc/ssl/openssl.cnf",
    "/etc/pki/tls/certs",
    "/etc/pki/ca-trust/extracted",
    "/etc/mime.types",
    "/etc/protocols",
    "/etc/services",
)
SYSTEM = ("/usr", "/bin", "/sbin", "/lib", "/lib32", "/lib64", "/libx32")
_EMPTY = ("/home", "/root", "/run", "/var")
_SYSTEM_PATH = "/usr/local/go/bin:/usr/local/bin:/usr/bin:/bin"
_EMPTY_SIZE = str(1 << 20)


def sandbox_argv(
    info: SandboxInfo,
    command: Sequence[str],
    *,
    workspace: Path,
    limits: Limits,
    ready_fd: int,
    writable: bool = True,
    read_only_paths: Sequence[Path] = (),
    env: Mapping[str, str] | None = None,
    loopback: bool = False,
) -> tuple[str, ...]:
    """The whole command line that runs `command` isolated. `env` is all the environment it will have."""
    return (
        str(info.program),
        *_namespaces(),
        *_system(limits),
        *_read_only(read_only_paths),
        *_workspace(workspace, writable=writable),
        *_closing(env or {}),
        "--",
        *guarded(info.landlock, command, limits=limits, ready_fd=ready_fd, writable=writable, loopback=loopback),
    )


def guarded(
    landlock: int | None,
    command: Sequence[str],
    *,
    limits: Limits,
    ready_fd: int,
    writable: bool,
    loopback: bool,
    is_first: bool = False,
) -> tuple[str, ...]:
    """`command` behind the script that applies Landlock and resource limits inside the sandbox. `is_first`: it is a
    container's first process, where an engine counts the processes; the kernel would count all that this user runs."""
    plan: Plan = {
        "memory_mb": limits.memory_mb,
        "file_mb": limits.file_mb,
        "processes": None if is_first else limits.processes,
        "landlock": landlock,
        "write": [WORKSPACE, "/tmp", "/dev/shm"] if writable else ["/tmp", "/dev/shm"],  # noqa: S108 - the sandbox's own
        "tcp": loopback,
        "ready_fd": ready_fd,
        "is_first": is_first,
    }
    return (sys.executable, "-I", "-S", "-B", SCRIPT, json.dumps(plan), *command)


def unguarded(command: Sequence[str], *, limits: Limits, ready_fd: int) -> tuple[str, ...]:
    """`command` without isolation, for tasks that waive it: only resource limits. The process limit is left
    out because outside a user namespace it counts everything this user runs."""
    plan: Plan = {
        "memory_mb": limits.memory_mb,
        "file_mb": limits.file_mb,
        "processes": None,
        "landlock": None,
        "write": [],
        "tcp": True,
        "ready_fd": ready_fd,
        "is_first": False,
    }
    return (sys.executable, "-I", "-S", "-B", str(GUARD), json.dumps(plan), *command)


def environment(python: Path | None, *, home: str, extra: Mapping[str, str]) -> dict[str, str]:
    """All the environment a command gets: `python` first on the path, a throw-away home, and `extra`. Without
    `python` the path is left to the image."""
    return {
        "HOME": home,
        "LANG": "C.UTF-8",
        **({"PATH": f"{python.parent}:{_SYSTEM_PATH}"} if python else {}),
        "PYTHONDONTWRITEBYTECODE": "1",
        **extra,
    }


def interpreter_paths(python: Path) -> tuple[Path, ...]:
    """The folders `python` needs to be readable: its virtual environment and the installation behind it.

    Follows the symbolic links one by one. A folder counts only if it is an environment or holds a standard
    library: `~/.local/bin/python3` must not show the whole of `~/.local`.
    """
    found: list[Path] = []
    hop = python.absolute()
    for _ in range(40):  # as many links as Linux itself follows
        found.append(hop.parent.parent)
        if not hop.is_symlink():
            break
        hop = hop.parent / hop.readlink()
    found.append(python.resolve().parent.parent)
    return tuple(prefix for prefix in dict.fromkeys(found) if _is_python_prefix(prefix))


def needed_paths(python: Path) -> tuple[Path, ...]:
    """What must be readable for `python` and for our own interpreter, which applies the second layer."""
    ours = (Path(sys.prefix), Path(sys.base_prefix), *interpreter_paths(Path(sys.executable)))
    return tuple(dict.fromkeys((*ours, *interpreter_paths(python))))


def _is_python_prefix(folder: Path) -> bool:
    return (folder / "pyvenv.cfg").is_file() or any(folder.glob("lib*/python3*/os.py"))


def _namespaces() -> tuple[str, ...]:
    return (
        "--unshare-all",
        "--unshare-user",
        "--disable-userns",
        "--uid",
        UID,
        "--gid",
        UID,
        "--hostname",
        "sandbox",
        "--die-with-parent",
        "--new-session",
        "--cap-drop",
        "ALL",
        "--clearenv",
    )


def _system(limits: Limits) -> tuple[str, ...]:
    """System folders read-only, everything else of the machine covered by small empty ones."""
    room = str(limits.file_mb << 20)
    args: list[str] = []
    for path in SYSTEM:
        args += ["--ro-bind-try", path, path]
    args += ["--proc", "/proc", "--dev", "/dev", "--size", room, "--tmpfs", "/dev/shm"]  # noqa: S108 - the sandbox's own
    args += ["--size", room, "--tmpfs", "/tmp", "--dir", HOME]  # noqa: S108 - the sandbox's own
    for path in _EMPTY:
        args += ["--size", _EMPTY_SIZE, "--tmpfs", path]
    for name in OWN_ETC:
        args += ["--ro-bind", str(OWN_ETC_FOLDER / name), f"/etc/{name}"]
    for path in HOST_ETC:
        args += ["--ro-bind-try", path, path]
    return (*args, "--ro-bind", str(GUARD), SCRIPT)


def _read_only(paths: Sequence[Path]) -> tuple[str, ...]:
    """After the empty folders, because an interpreter may live below one of them."""
    outside = [path for path in dict.fromkeys(paths) if not path.is_relative_to("/usr")]
    return tuple(arg for path in outside for arg in ("--ro-bind", str(path), str(path)))


def _workspace(workspace: Path, *, writable: bool) -> tuple[str, ...]:
    """`.git` is never writable: our own git reads its configuration outside the sandbox."""
    bind = ("--bind" if writable else "--ro-bind", str(workspace), WORKSPACE)
    return (*bind, "--ro-bind-try", str(workspace / ".git"), f"{WORKSPACE}/.git", "--chdir", WORKSPACE)


def _closing(env: Mapping[str, str]) -> tuple[str, ...]:
    sealed = tuple(arg for path in (*_EMPTY, "/dev", "/") for arg in ("--remount-ro", path))
    return (*sealed, *(arg for name in env for arg in ("--setenv", name, env[name])))
