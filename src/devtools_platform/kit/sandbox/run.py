"""Runs one command to its end, whatever it does: starts it, watches its limits, ends its whole tree.

`argv` decides what the command can see; this module knows only processes, pipes and clocks.
"""

import asyncio
import os
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Coroutine, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from devtools_platform.core.errors import NoSandbox
from devtools_platform.core.redact import redact_text
from devtools_platform.kit.children import Child, start_child
from devtools_platform.kit.sandbox import argv as command_line
from devtools_platform.kit.sandbox.engine import look_at, open_container
from devtools_platform.kit.sandbox.output import Output
from devtools_platform.kit.sandbox.probe import find_sandbox
from devtools_platform.kit.sandbox.types import (
    CommandResult,
    Docker,
    EndedBy,
    Limits,
    Sandbox,
    SandboxInfo,
    has_own_system,
)
from devtools_platform.kit.sandbox.usage import Growth, measure_tree

FLOOD_FACTOR = 50
WATCH_EVERY_S = 0.25
PIPE_GRACE_S = 1.0
"""How long to wait for the last output after the end: a process that left its group may hold the pipe."""


@dataclass(frozen=True)
class _Ending:
    exit_code: int | None
    ended_by: EndedBy | None
    output: str
    is_ready: bool
    """Whether every layer was in place and the command itself was started."""


async def run_sandboxed(
    command: Sequence[str],
    *,
    workspace: Path,
    limits: Limits,
    writable: bool = True,
    read_only_paths: Sequence[Path] = (),
    env: Mapping[str, str] | None = None,
    isolate: bool = True,
    python: Path | None = None,
    loopback: bool = False,
    is_redacted: bool = True,
    sandbox: Sandbox | None = None,
) -> CommandResult:
    """Run `command` with `workspace` as its working directory and nothing else of the machine in reach.

    `python` comes first on the command's path (ours by default; an image has its own). `loopback` lets it use TCP
    inside its own empty network, as tests that start a server do. `isolate=False` is the task's waiver: the same
    limits, no isolation. `sandbox` is what isolates, bubblewrap by default. `is_redacted=False` is for output a
    program reads and nobody keeps.

    Raises `NoSandbox` when isolation is asked for and cannot be had.
    """
    python = python or Path(sys.executable)
    started = time.monotonic()
    if not isolate:
        ending = await _run_unisolated(command, workspace=workspace, limits=limits, python=python, env=env or {})
    else:
        info = await asyncio.to_thread(find_sandbox, sandbox)
        shown = None if has_own_system(sandbox) else python
        view: dict[str, Any] = {
            "workspace": workspace,
            "limits": limits,
            "writable": writable,
            "read_only_paths": (*command_line.needed_paths(shown), *read_only_paths) if shown else (),
            "env": command_line.environment(shown, home=command_line.HOME, extra=env or {}),
            "loopback": loopback,
        }
        if isinstance(sandbox, Docker):
            ending = await _run_in_container(sandbox, info, command, view)
        else:
            ending = await _run(
                lambda ready_fd: command_line.sandbox_argv(info, command, ready_fd=ready_fd, **view),
                env={},
                cwd=None,
                limits=limits,
                workspace=workspace,
            )
    if not ending.is_ready and ending.ended_by is None:
        raise NoSandbox(
            f"The sandbox could not be set up for {command[0]!r}: {redact_text(ending.output.strip())}",
            hint="Run `dev-tools doctor`; a task can waive isolation with `--without-sandbox`.",
        )
    output = redact_text(ending.output) if is_redacted else ending.output
    duration = round(time.monotonic() - started, 3)
    return CommandResult(tuple(command), ending.exit_code, duration, output, ending.ended_by)


async def _run_unisolated(
    command: Sequence[str], *, workspace: Path, limits: Limits, python: Path, env: Mapping[str, str]
) -> _Ending:
    with tempfile.TemporaryDirectory(prefix="dev-tools-home-", ignore_cleanup_errors=True) as home:
        return await _run(
            lambda ready_fd: command_line.unguarded(command, limits=limits, ready_fd=ready_fd),
            env=command_line.environment(python, home=home, extra=env),
            cwd=workspace,
            limits=limits,
            workspace=workspace,
        )


async def _run_in_container(
    sandbox: Docker, info: SandboxInfo, command: Sequence[str], view: dict[str, Any]
) -> _Ending:
    """Our child is Docker's client, attached; whatever ends it, the container is removed with all that it runs."""
    limits: Limits = view["limits"]
    async with open_container(sandbox, info, *command, **view) as container:
        ending = await _run(
            lambda _: (str(info.program), "start", "--attach", container.name),
            env=dict(sandbox.environment),
            cwd=None,
            limits=limits,
            workspace=view["workspace"],
            is_tree_ours=False,
        )
        if ending.ended_by is not None:
            return ending
        state = await look_at(container, sandbox, info)
        is_ready = state.is_started and (has_own_system(sandbox) or (container.notes / "ready").stat().st_size > 0)
        if state.is_out_of_memory:
            remark = f"\n[ended: {_too_much_memory(limits)}]\n"
            return _Ending(None, "memory", ending.output + remark, is_ready)
        return _Ending(state.exit_code, None, ending.output + state.why, is_ready)


async def _run(
    build: Callable[[int], Sequence[str]],
    *,
    env: Mapping[str, str],
    cwd: Path | None,
    limits: Limits,
    workspace: Path,
    is_tree_ours: bool = True,
) -> _Ending:
    """`is_tree_ours`: the command's processes are below ours, and are counted here, not by an engine."""
    # Our own pipes, not asyncio's: its `wait` may not return while a stray grandchild holds an end.
    with _Pipe() as out, _Pipe() as ready:
        process = await start_child(
            *build(ready.write),
            stdout=out.write,
            stderr=out.write,
            cwd=cwd,
            env=env,
            pass_fds=(ready.write,),
            start_new_session=True,
        )
        out.close_write()
        output = Output(limits.output_bytes)
        ended_by, remark = await _supervise(
            process, out.read, output, _watch(process.pid if is_tree_ours else None, limits, Growth(workspace)), limits
        )
        exit_code = process.returncode if ended_by is None else None
        return _Ending(exit_code, ended_by, output.text() + remark, ready.holds(b"ready"))


async def _supervise(
    process: Child,
    pipe: int,
    output: Output,
    watch: Coroutine[Any, Any, tuple[EndedBy, str]],
    limits: Limits,
) -> tuple[EndedBy | None, str]:
    """Wait for the end or for the first limit that is hit; then no process of the tree is left."""
    reader = _Reader(pipe, output, flood_at=limits.output_bytes * FLOOD_FACTOR)
    exited = asyncio.create_task(process.wait())
    flooded = asyncio.create_task(reader.flooded.wait())
    too_big = asyncio.create_task(watch)
    tasks = {exited, flooded, too_big}
    try:
        await asyncio.wait(tasks, timeout=limits.timeout_s, return_when=asyncio.FIRST_COMPLETED)
        if exited.done():
            return None, ""
        if flooded.done():
            return "output", f"\n[ended: printed more than {reader.flood_at} bytes]\n"
        if too_big.done():
            what, why = too_big.result()
            return what, f"\n[ended: {why}]\n"
        return "timeout", f"\n[ended: ran longer than {limits.timeout_s:g} s]\n"
    finally:
        _kill_group(process.pid)
        await exited
        with suppress(TimeoutError):
            await asyncio.wait_for(reader.closed.wait(), PIPE_GRACE_S)
        reader.stop()
        for task in tasks:
            task.cancel()


def _too_much_memory(limits: Limits) -> str:
    return f"used more than {limits.memory_mb} MB of memory"


async def _watch(pid: int | None, limits: Limits, growth: Growth) -> tuple[EndedBy, str]:
    """Returns, with the reason, once the workspace, or the process tree below `pid`, is over its limits."""
    at_most = limits.memory_mb << 20
    while True:
        await asyncio.sleep(WATCH_EVERY_S)
        if pid is not None:
            usage = await asyncio.to_thread(measure_tree, pid, at_most=at_most)
            if usage.memory_bytes > at_most:
                return "memory", _too_much_memory(limits)
            if usage.processes > limits.processes:
                return "memory", f"started more than {limits.processes} processes"
        if await asyncio.to_thread(growth.is_over, limits.disk_mb << 20):
            return "disk", f"wrote more than {limits.disk_mb} MB into its workspace"


def _kill_group(pid: int) -> None:
    """bubblewrap dies, and with it the first process of the PID namespace, and with that all the others."""
    with suppress(ProcessLookupError):
        os.killpg(pid, signal.SIGKILL)


class _Reader:
    """Moves what arrives on a pipe into an `Output`, and notices the end and a flood."""

    def __init__(self, pipe: int, output: Output, *, flood_at: int) -> None:
        self.flood_at = flood_at
        self.flooded = asyncio.Event()
        self.closed = asyncio.Event()
        self._pipe = pipe
        self._output = output
        self._loop = asyncio.get_running_loop()
        self._loop.add_reader(pipe, self._read)

    def _read(self) -> None:
        with suppress(BlockingIOError):
            if chunk := os.read(self._pipe, 1 << 16):
                self._output.add(chunk)
            else:
                self.stop()
                self.closed.set()
            if self._output.total > self.flood_at:
                self.flooded.set()

    def stop(self) -> None:
        self._loop.remove_reader(self._pipe)


class _Pipe:
    """A pipe whose ends are closed whatever happens; reading never blocks."""

    def __enter__(self) -> Self:
        self.read, self.write = os.pipe()
        os.set_blocking(self.read, False)
        self._is_writable = True
        return self

    def __exit__(self, *_: object) -> None:
        os.close(self.read)
        self.close_write()

    def close_write(self) -> None:
        if self._is_writable:
            os.close(self.write)
        self._is_writable = False

    def holds(self, word: bytes) -> bool:
        with suppress(BlockingIOError):
            return os.read(self.read, len(word)) == word
        return False
