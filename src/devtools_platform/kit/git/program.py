"""Running git: nothing of the environment reaches it, and nothing a repository holds makes it run something else."""

import asyncio
import errno
import os
import re
import shutil
import signal
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from devtools_platform.core.errors import DiskFull, ProgramFailed
from devtools_platform.core.redact import redact_text
from devtools_platform.kit.children import PIPE, Child, start_child
from devtools_platform.kit.git.locks import lock_in_the_way, remove_if_abandoned

MAX_STDERR_BYTES = 20_000

MAX_PLAIN_CONFIG_BYTES = 10_000

MAX_LOCK_WAIT_S = 10.0
LOCK_POLL_S = 0.2

_NOT_PLAIN = re.compile(rb"filter|include|worktreeconfig", re.IGNORECASE)

_ENV = {
    "PATH": "/usr/local/bin:/usr/bin:/bin",
    "HOME": "/nonexistent",
    "LANG": "C.UTF-8",
    "GIT_CONFIG_NOSYSTEM": "1",
    "GIT_CONFIG_GLOBAL": os.devnull,
    "GIT_ATTR_NOSYSTEM": "1",
    "GIT_TERMINAL_PROMPT": "0",
    "GIT_OPTIONAL_LOCKS": "0",
    "GIT_NO_REPLACE_OBJECTS": "1",
}

_SETTINGS = (
    "core.hooksPath=/dev/null",
    "core.fsmonitor=false",
    "core.quotePath=false",
    "protocol.ext.allow=never",
    "submodule.recurse=false",
    "diff.ignoreSubmodules=all",
    "gc.auto=0",
    "maintenance.auto=false",
    "commit.gpgSign=false",
    "advice.detachedHead=false",
)


@dataclass(frozen=True)
class Done:
    code: int
    stdout: bytes
    stderr: str


async def git(*args: str, cwd: Path, timeout_s: float = 60, check: bool = True) -> str:
    """What git printed. Raises `ProgramFailed` with git's own words when it fails and `check` is set."""
    done = await run(args, cwd=cwd, timeout_s=timeout_s, check=check)
    return done.stdout.decode("utf-8", errors="replace")


async def in_clone(
    workspace: Path,
    *args: str,
    env: Mapping[str, str] | None = None,
    stdin: bytes = b"",
    check: bool = True,
    timeout_s: float = 60,
    max_bytes: int | None = None,
) -> Done:
    """Run git in a task's clone, where anything may have been planted.

    It is told where the repository is, so that neither `core.worktree` nor a parent folder is followed.
    Filters are off for every command: even `write-tree` reads files, when their time stamps leave a doubt.
    A lock that a killed git left is removed; one that is held is waited for, for `MAX_LOCK_WAIT_S`.
    """
    git_dir = workspace / ".git"
    command = ["--git-dir", str(git_dir), "--work-tree", str(workspace), *args]
    env = {**(env or {}), **(await without_filters(workspace) if _may_name_filters(git_dir) else {})}
    give_up_at = time.monotonic() + MAX_LOCK_WAIT_S
    while True:
        done = await run(
            command, cwd=workspace, env=env, stdin=stdin, check=False, timeout_s=timeout_s, max_bytes=max_bytes
        )
        lock = None if done.code == 0 else lock_in_the_way(done.stderr, git_dir)
        if lock is None or time.monotonic() > give_up_at:
            return _checked(done, command, workspace) if check else done
        if not await asyncio.to_thread(remove_if_abandoned, lock):
            await asyncio.sleep(LOCK_POLL_S)


def _may_name_filters(git_dir: Path) -> bool:
    """Whether a clone's configuration is such that git must be asked: it names a filter, or another file of settings.

    Nearly all name neither; reading them spares every command a second process.
    """
    if os.path.lexists(git_dir / "commondir"):
        return True
    try:
        with (git_dir / "config").open("rb") as config:
            text = config.read(MAX_PLAIN_CONFIG_BYTES + 1)
    except OSError:
        return True
    return len(text) > MAX_PLAIN_CONFIG_BYTES or _NOT_PLAIN.search(text) is not None


async def without_filters(repository: Path) -> dict[str, str]:
    """Settings, as environment, that empty every content filter the repository's configuration defines."""
    find = ["config", "-z", "--name-only", "--get-regexp", r"^filter\..*\.(clean|smudge|process|required)$"]
    names = split_paths((await run(find, cwd=repository, check=False)).stdout)
    env = {"GIT_CONFIG_COUNT": str(len(names))}
    for place, name in enumerate(names):
        env[f"GIT_CONFIG_KEY_{place}"] = name
        env[f"GIT_CONFIG_VALUE_{place}"] = "false" if name.endswith(".required") else ""
    return env


def text_of(done: Done) -> str:
    return done.stdout.decode("utf-8", errors="replace").strip()


def split_paths(listing: bytes) -> list[str]:
    return [os.fsdecode(name) for name in listing.split(b"\0") if name]


def printable(name: str) -> str:
    return os.fsencode(name).decode("utf-8", errors="replace")


async def run(
    args: Sequence[str],
    *,
    cwd: Path,
    stdin: bytes = b"",
    env: Mapping[str, str] | None = None,
    timeout_s: float = 60,
    check: bool = True,
    max_bytes: int | None = None,
) -> Done:
    program = shutil.which("git")
    if program is None:
        raise ProgramFailed("git is not installed.", hint="Install git 2.32 or later.")
    settings = (part for setting in _SETTINGS for part in ("-c", setting))
    process = await start_child(
        program,
        "--no-pager",
        *settings,
        *args,
        cwd=cwd,
        env={**_ENV, **(env or {})},
        stdin=PIPE,
        stdout=PIPE,
        stderr=PIPE,
        start_new_session=True,
    )
    try:
        async with asyncio.timeout(timeout_s):
            done = await _communicate(process, stdin, max_bytes)
    except TimeoutError:
        raise ProgramFailed(f"`git {_name(args)}` did not end within {timeout_s:g} s.") from None
    finally:
        if process.returncode is None:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            await process.wait()
        process.close()
    return _checked(done, args, cwd) if check else done


def _checked(done: Done, args: Sequence[str], cwd: Path) -> Done:
    if done.code != 0 and os.strerror(errno.ENOSPC) in done.stderr:
        raise DiskFull(f"git has no room left in {str(cwd)!r}.", hint="Free some disk space, then try again.")
    if done.code != 0:
        raise ProgramFailed(
            f"`git {_name(args)}` failed in {str(cwd)!r} with exit code {done.code}: {done.stderr}",
            hint=f"See what git says there: `git -C {cwd} status`.",
        )
    return done


async def _communicate(process: Child, stdin: bytes, max_bytes: int | None) -> Done:
    assert process.stdin and process.stdout and process.stderr  # noqa: S101, PT018 - all three are pipes
    stdout, stderr, _ = await asyncio.gather(
        _read_head(process.stdout, max_bytes),
        _read_head(process.stderr, MAX_STDERR_BYTES),
        _feed(process.stdin, stdin),
    )
    words = redact_text(stderr.decode("utf-8", errors="replace").strip())
    return Done(await process.wait(), stdout, words)


async def _read_head(stream: asyncio.StreamReader, max_bytes: int | None) -> bytes:
    """The first `max_bytes`; the rest is read too, so that the writer can end, and dropped."""
    head = bytearray()
    while chunk := await stream.read(1 << 16):
        head += chunk if max_bytes is None else chunk[: max(0, max_bytes - len(head))]
    return bytes(head)


async def _feed(stream: asyncio.StreamWriter, text: bytes) -> None:
    with suppress(BrokenPipeError, ConnectionResetError):
        if text and not stream.is_closing():  # git may have said all it had to say already
            stream.write(text)
            await stream.drain()
    stream.close()


def _name(args: Sequence[str]) -> str:
    """The subcommand: the first word that is neither an option nor an option's path."""
    return next((arg for arg in args if not arg.startswith(("-", "/"))), "")
