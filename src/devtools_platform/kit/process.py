"""Our own child processes: started apart, watched, and stopped whole, so that none outlives the stack.

For programs that serve for as long as we do (PostgreSQL, the vector engine, the model server). Commands of a
repository are not for here: they belong in the sandbox. Above it, each adapter decides what its program is
told; below it there is only the operating system.
"""

import contextlib
import ctypes
import os
import pwd
import shutil
import signal
import socket
import subprocess
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import anyio

from devtools_platform.core.errors import ProgramFailed, Unavailable
from devtools_platform.core.redact import redact_text

POLL_S = 0.03
MAX_LOG_BYTES = 10_000_000
TAIL_BYTES = 64_000

_PR_SET_PDEATHSIG = 1
# Looked up once, here: after a fork no library may be loaded, another thread could hold the loader's lock.
_prctl = ctypes.CDLL(None, use_errno=True).prctl


@dataclass(frozen=True)
class ServiceUser:
    """An account of the system that programs are run as."""

    name: str
    uid: int
    gid: int


def service_user() -> ServiceUser | None:
    """Whom to run a program as that must not be root: `nobody`; None when we are not root ourselves."""
    if os.geteuid() != 0:
        return None
    entry = pwd.getpwnam("nobody")
    return ServiceUser(entry.pw_name, entry.pw_uid, entry.pw_gid)


def die_with_parent(with_signal: signal.Signals = signal.SIGTERM) -> Callable[[], None]:
    """A `preexec_fn`: the kernel sends the child `with_signal` when the thread that started it ends; SIGINT is heard.

    Linux forgets the wish when the user id changes, so drop privileges with `Popen(user=...)`, which happens
    before; a `setpriv` in front of the program would undo it.
    """
    parent = os.getpid()
    number = int(with_signal)

    def ask() -> None:
        signal.signal(signal.SIGINT, signal.SIG_DFL)  # a shell starts what it puts in the background deaf to it
        _prctl(_PR_SET_PDEATHSIG, number, 0, 0, 0)
        if os.getppid() != parent:  # it died between the fork and the request
            os._exit(1)

    return ask


@dataclass(frozen=True)
class Child:
    """A program we started. Call `stop` in every case: it is also what reaps it."""

    process: subprocess.Popen[bytes]
    log_file: Path
    log_start: int
    """Where in the log this run begins; before it are the words of earlier ones."""

    @property
    def pid(self) -> int:
        return self.process.pid

    @property
    def is_alive(self) -> bool:
        return self.exit_code is None

    @property
    def exit_code(self) -> int | None:
        """None while it runs; minus the signal's number when a signal ended it.

        Looks without reaping: as long as the zombie holds the number, it cannot be given to somebody else,
        and a signal to its group hits our own.
        """
        if self.process.returncode is not None:
            return self.process.returncode
        ended = os.waitid(os.P_PID, self.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT)
        if ended is None:
            return None
        return ended.si_status if ended.si_code == os.CLD_EXITED else -ended.si_status

    async def wait(self, timeout_s: float) -> int | None:
        """The exit code, or None when it still runs after `timeout_s`."""
        with anyio.move_on_after(timeout_s):
            while self.is_alive:  # noqa: ASYNC110 - the kernel sets no anyio event
                await anyio.sleep(POLL_S)
        return self.exit_code

    async def stop(self, timeout_s: float = 10, *, with_signal: signal.Signals = signal.SIGTERM) -> None:
        """Ask it to end, wait, then kill what is left of its group. Safe to call twice."""
        if self.process.returncode is not None:
            return
        if self.is_alive:
            self.process.send_signal(with_signal)
        with anyio.CancelScope(shield=True):  # a cancelled stop would leave the program behind
            await self.wait(timeout_s)
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self.pid, signal.SIGKILL)
            await self.wait(timeout_s)
        self.process.wait()

    def last_words(self, lines: int = 20) -> str:
        """The end of what it printed, secrets redacted."""
        try:
            with self.log_file.open("rb") as file:
                size = file.seek(0, os.SEEK_END)
                start = self.log_start if self.log_start <= size else 0  # the log was cut since
                file.seek(max(start, size - TAIL_BYTES))
                text = file.read().decode("utf-8", "replace")
        except FileNotFoundError:
            return ""
        return redact_text("\n".join(text.splitlines()[-lines:]))


async def start_child(
    argv: Sequence[str],
    *,
    env: Mapping[str, str],
    log_file: Path,
    cwd: Path | None = None,
    user: ServiceUser | None = None,
    death_signal: signal.Signals = signal.SIGTERM,
) -> Child:
    """Start a program in a process group of its own; what it prints is appended to `log_file`.

    `env` is all it sees of our environment. It gets `death_signal` when we die, however we die. Call from a
    thread that lives as long as the program should: that is what the kernel watches.
    Raises `ProgramFailed` when it cannot be started at all.
    """
    bound_log(log_file)
    log_fd = os.open(log_file, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
    log_start = os.fstat(log_fd).st_size
    try:
        process = subprocess.Popen(  # noqa: ASYNC220 - a worker thread would take the child with it, see above
            list(argv),
            env=dict(env),
            cwd=cwd,
            stdin=subprocess.DEVNULL,
            stdout=log_fd,
            stderr=log_fd,
            start_new_session=True,
            preexec_fn=die_with_parent(death_signal),  # noqa: PLW1509 - one system call, bound beforehand
            user=user.uid if user else None,
            group=user.gid if user else None,
            extra_groups=[] if user else None,
        )
    except (OSError, subprocess.SubprocessError) as error:
        raise ProgramFailed(f"{argv[0]!r} cannot be started: {error}.") from error
    finally:
        os.close(log_fd)
    return Child(process, log_file, log_start)


def bound_log(log_file: Path, max_bytes: int = MAX_LOG_BYTES) -> None:
    """Move what a long log holds to `NAME.1`, over the one before. Who supervises calls it now and then."""
    # Copied and cut, not renamed: the program keeps its descriptor, and appends wherever the end now is.
    if log_file.exists() and log_file.stat().st_size > max_bytes:
        shutil.copyfile(log_file, log_file.with_name(log_file.name + ".1"))
        os.truncate(log_file, 0)


def free_port(host: str) -> int:
    """A TCP port of `host` that is free at this moment, and may be taken before you use it."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        probe.bind((host, 0))
        return probe.getsockname()[1]


async def wait_until(
    check: Callable[[], Awaitable[bool]], *, child: Child | None = None, timeout_s: float, what: str
) -> None:
    """Return once `check` says so. `what` names it for people: "PostgreSQL".

    Raises `ProgramFailed` when `child` dies first and `Unavailable` when time is up, with its last words.
    """
    with anyio.move_on_after(timeout_s):
        while not await check():
            if child and not child.is_alive:
                raise ProgramFailed(f"{what} ended with code {child.exit_code}.{_quote(child)}")
            await anyio.sleep(POLL_S)
        return
    raise Unavailable(f"{what} did not answer within {timeout_s:g} s.{_quote(child)}")


def _quote(child: Child | None) -> str:
    words = child.last_words() if child else ""
    return f" Its last words:\n{words}" if words else ""
