"""Runs inside the sandbox, as a script: sets limits, applies Landlock, becomes the command. Standard library only.

Landlock must come after bubblewrap, whose mounts it would forbid. The numbers are the kernel's
(include/uapi/linux/landlock.h, x86-64 and arm64 share them).
"""

import argparse
import ctypes
import os
import resource
import sys

CREATE_RULESET, ADD_RULE, RESTRICT_SELF = 444, 445, 446
RULE_PATH_BENEATH = 1
VERSION_FLAG = 1
PR_SET_NO_NEW_PRIVS = 38

EXECUTE, WRITE_FILE, READ_FILE, READ_DIR = 1 << 0, 1 << 1, 1 << 2, 1 << 3
READING = EXECUTE | READ_FILE | READ_DIR
ALL_BY_ABI = {1: (1 << 13) - 1, 2: (1 << 14) - 1, 3: (1 << 15) - 1, 4: (1 << 15) - 1}
ALL_FROM_5 = (1 << 16) - 1
NET_FROM_ABI, NET_ALL = 4, 3

libc = ctypes.CDLL(None, use_errno=True)


class RulesetAttr(ctypes.Structure):
    _fields_ = (("fs", ctypes.c_uint64), ("net", ctypes.c_uint64))


class PathBeneathAttr(ctypes.Structure):
    _pack_ = 1
    _fields_ = (("access", ctypes.c_uint64), ("parent", ctypes.c_int32))


def landlock_abi() -> int:
    """The kernel's Landlock version, 0 without it."""
    return max(0, int(libc.syscall(CREATE_RULESET, None, ctypes.c_size_t(0), ctypes.c_uint32(VERSION_FLAG))))


def restrict(writable: list[str]) -> None:
    """From here on: write only below `writable`, read and execute anywhere, no TCP. Raises OSError."""
    abi = landlock_abi()
    everything = ALL_BY_ABI.get(abi, ALL_FROM_5)
    attr = RulesetAttr(everything, NET_ALL if abi >= NET_FROM_ABI else 0)
    size = ctypes.sizeof(attr) if abi >= NET_FROM_ABI else 8
    ruleset = _check(libc.syscall(CREATE_RULESET, ctypes.byref(attr), ctypes.c_size_t(size), ctypes.c_uint32(0)))
    for path, access in [("/", READING), *((path, everything) for path in writable)]:
        parent = os.open(path, os.O_PATH | os.O_CLOEXEC)
        rule = PathBeneathAttr(access, parent)
        _check(libc.syscall(ADD_RULE, ruleset, RULE_PATH_BENEATH, ctypes.byref(rule), ctypes.c_uint32(0)))
        os.close(parent)
    _check(libc.prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0))
    _check(libc.syscall(RESTRICT_SELF, ruleset, ctypes.c_uint32(0)))
    os.close(ruleset)


def _check(result: int) -> int:
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
    return result


def _limit(kind: int, value: int) -> None:
    _, hard = resource.getrlimit(kind)
    bound = value if hard == resource.RLIM_INFINITY else min(value, hard)
    resource.setrlimit(kind, (bound, bound))


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--memory-mb", type=int, required=True)
    parser.add_argument("--processes", type=int, required=True)
    parser.add_argument("--file-mb", type=int, required=True)
    parser.add_argument("--write", nargs="*")
    parser.add_argument("command", nargs="+")
    options = parser.parse_args()
    if options.write is not None:
        restrict(options.write)
    # Not RLIMIT_AS: Node and Go reserve far more addresses than they ever use.
    _limit(resource.RLIMIT_DATA, options.memory_mb * 2**20)
    _limit(resource.RLIMIT_FSIZE, options.file_mb * 2**20)
    _limit(resource.RLIMIT_NPROC, options.processes)
    _limit(resource.RLIMIT_CORE, 0)
    try:
        os.execvp(options.command[0], options.command)  # noqa: S606 - becoming the command is the point
    except OSError as error:
        sys.stderr.write(f"{options.command[0]}: {error.strerror}\n")
        sys.exit(127)


if __name__ == "__main__":
    main()
