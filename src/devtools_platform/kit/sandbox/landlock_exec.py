"""Runs inside the sandbox, just before the command: resource limits, no new privileges, Landlock, then exec.

A stand-alone script of the standard library only, because it is started as `python -I -S` in a place where
this package does not exist: `landlock_exec.py '{"memory_mb": 512, ...}' COMMAND...`. It writes `ready` to
`ready_fd` when every layer is in place, so that its caller can tell a broken sandbox from a failing command.
"""

import ctypes
import json
import os
import resource
import sys
from collections.abc import Sequence
from typing import TypedDict

# The numbers are the same on every architecture Linux runs Python on.
_CREATE_RULESET, _ADD_RULE, _RESTRICT_SELF = 444, 445, 446
_ASK_VERSION = 1
_PATH_BENEATH = 1
_SET_NO_NEW_PRIVS = 38

_EXECUTE, _WRITE_FILE, _READ_FILE, _READ_DIR = 1 << 0, 1 << 1, 1 << 2, 1 << 3
_TRUNCATE, _IOCTL_DEV = 1 << 14, 1 << 15
_READ = _EXECUTE | _READ_FILE | _READ_DIR
_TCP_BIND_AND_CONNECT = 0b11
_SCOPE_SOCKETS_AND_SIGNALS = 0b11

_ABI_NETWORK, _ABI_SCOPE = 4, 6
_BITS_BY_ABI = {1: 13, 2: 14, 3: 15, 4: 15, 5: 16}
"""How many file access rights each ABI knows; later ones know as many as 5."""

CANNOT_RUN = 126
NOT_FOUND = 127


class Plan(TypedDict):
    """What to apply. `landlock` is the ABI to use or None, `processes` None leaves that limit as it is. `is_first`:
    this is a container's first process, which stays to reap what the command leaves behind."""

    memory_mb: int
    file_mb: int
    processes: int | None
    landlock: int | None
    write: list[str]
    tcp: bool
    ready_fd: int
    is_first: bool


class _Ruleset(ctypes.Structure):
    _fields_ = [("fs", ctypes.c_uint64), ("net", ctypes.c_uint64), ("scoped", ctypes.c_uint64)]


class _Beneath(ctypes.Structure):
    _pack_ = 1
    _fields_ = [("allowed", ctypes.c_uint64), ("parent_fd", ctypes.c_int32)]


def landlock_abi() -> int | None:
    """The kernel's Landlock ABI, or None when it has no Landlock or it is switched off."""
    version = _libc().syscall(_CREATE_RULESET, None, ctypes.c_size_t(0), ctypes.c_uint32(_ASK_VERSION))
    return version if version > 0 else None


def restrict(abi: int, write: Sequence[str], *, tcp: bool) -> None:
    """From here on: read and execute anywhere, write beneath `write` and to devices, TCP only if `tcp`."""
    all_rights = (1 << _BITS_BY_ABI.get(abi, 16)) - 1
    ruleset = _Ruleset(all_rights, 0 if tcp else _TCP_BIND_AND_CONNECT, _SCOPE_SOCKETS_AND_SIGNALS)
    size = 8 if abi < _ABI_NETWORK else 16 if abi < _ABI_SCOPE else 24
    fd = _checked(_libc().syscall(_CREATE_RULESET, ctypes.byref(ruleset), ctypes.c_size_t(size), ctypes.c_uint32(0)))
    _allow(fd, "/", _READ)
    _allow(fd, "/dev", (_READ | _WRITE_FILE | _TRUNCATE | _IOCTL_DEV) & all_rights)
    for path in write:
        _allow(fd, path, all_rights)
    _checked(_libc().syscall(_RESTRICT_SELF, fd, ctypes.c_uint32(0)))
    os.close(fd)


def set_limits(plan: Plan) -> None:
    """Bound memory, file size and processes. Memory is writable memory: address space alone costs nothing,
    and runtimes such as Node reserve tens of gigabytes of it."""
    _lower(resource.RLIMIT_DATA, plan["memory_mb"] << 20)
    _lower(resource.RLIMIT_FSIZE, plan["file_mb"] << 20)
    _lower(resource.RLIMIT_CORE, 0)
    if plan["processes"] is not None:
        _lower(resource.RLIMIT_NPROC, plan["processes"])


def main(arguments: Sequence[str]) -> int:
    """Apply the plan and become the command; returns only when that failed."""
    plan: Plan = json.loads(arguments[0])
    command = list(arguments[1:])
    _checked(_libc().prctl(_SET_NO_NEW_PRIVS, 1, 0, 0, 0))
    if plan["landlock"] is not None:
        restrict(plan["landlock"], plan["write"], tcp=plan["tcp"])
    set_limits(plan)
    os.write(plan["ready_fd"], b"ready")
    os.close(plan["ready_fd"])
    if plan["is_first"] and (child := os.fork()):
        return _reap_until(child)
    try:
        os.execvp(command[0], command)  # noqa: S606 - becoming the command is the point
    except OSError as error:
        print(f"dev-tools: cannot run {command[0]!r} in the sandbox: {error.strerror}", file=sys.stderr)  # noqa: T201 - its only voice
        return NOT_FOUND if isinstance(error, FileNotFoundError) else CANNOT_RUN


def _reap_until(child: int) -> int:
    """Wait for `child` as the first process must: for all that end before it too. Its exit code, as a shell says it."""
    ended, status = os.wait()
    while ended != child:
        ended, status = os.wait()
    code = os.waitstatus_to_exitcode(status)
    return code if code >= 0 else 128 - code


def _lower(kind: int, value: int) -> None:
    hard = resource.getrlimit(kind)[1]
    value = value if hard == resource.RLIM_INFINITY else min(value, hard)
    resource.setrlimit(kind, (value, value))


def _allow(ruleset: int, path: str, rights: int) -> None:
    parent = os.open(path, os.O_PATH | os.O_CLOEXEC)
    beneath = _Beneath(rights, parent)
    _checked(_libc().syscall(_ADD_RULE, ruleset, _PATH_BENEATH, ctypes.byref(beneath), ctypes.c_uint32(0)))
    os.close(parent)


def _checked(result: int) -> int:
    if result < 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))
    return result


def _libc() -> ctypes.CDLL:
    return ctypes.CDLL(None, use_errno=True)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
