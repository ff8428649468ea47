"""Children are seen, heard and ended, whatever they do. Real processes."""

import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from devtools_platform.core.errors import ProgramFailed, Unavailable
from devtools_platform.kit.process import bound_log, free_port, service_user, start_child, wait_until

ENV = {"PATH": "/usr/bin:/bin"}


async def _sh(script: str, log: Path, **more):
    return await start_child(["sh", "-c", script], env=ENV, log_file=log, **more)


async def _until(check, what: str) -> None:
    async def is_so() -> bool:
        return check()

    await wait_until(is_so, timeout_s=5, what=what)


@pytest.fixture
def log(tmp_path: Path) -> Path:
    return tmp_path / "child.log"


async def test_a_child_sees_only_the_environment_it_is_given(log: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("SOME_TOKEN", "not yours")
    child = await start_child(["env"], env={"PATH": "/usr/bin:/bin", "A": "1"}, log_file=log)
    assert await child.wait(5) == 0
    await child.stop()
    assert set(child.last_words().splitlines()) == {"PATH=/usr/bin:/bin", "A=1"}


async def test_stop_ends_a_child_that_ignores_it_and_what_the_child_started(log: Path):
    child = await _sh("trap '' TERM; sleep 1000 & echo $!; sleep 1000", log)
    await _until(lambda: bool(child.last_words()), "the child's first line")
    grandchild = psutil.Process(int(child.last_words()))
    await child.stop(timeout_s=0.1)
    assert child.exit_code == -signal.SIGKILL
    await _until(
        lambda: not grandchild.is_running() or grandchild.status() == psutil.STATUS_ZOMBIE,
        "the grandchild's end",
    )


async def test_stop_lets_a_child_end_in_its_own_way_and_can_be_repeated(log: Path):
    child = await _sh("trap 'echo bye; exit 3' INT; echo ready; while :; do sleep 0.05; done", log)
    await _until(lambda: bool(child.last_words()), "the child's first line")
    await child.stop(60, with_signal=signal.SIGINT)
    await child.stop()
    assert (child.exit_code, child.last_words()) == (3, "ready\nbye")
    assert not psutil.pid_exists(child.pid)


async def test_a_child_ends_when_its_parent_is_killed(log: Path):
    script = f"""
import asyncio, os, signal
from pathlib import Path
from devtools_platform.kit.process import start_child
child = asyncio.run(start_child(["sleep", "1000"], env={ENV!r}, log_file=Path({str(log)!r})))
print(child.pid, flush=True)
os.kill(os.getpid(), signal.SIGKILL)
"""
    pid = _run_to_its_death(script)
    await _until(
        lambda: not psutil.pid_exists(pid) or psutil.Process(pid).status() == psutil.STATUS_ZOMBIE,
        "the child's end",
    )


def _run_to_its_death(script: str) -> int:
    """The number a Python script printed before it killed itself."""
    env = {"PYTHONPATH": os.pathsep.join(sys.path)}
    ended = subprocess.run([sys.executable, "-c", script], env=env, capture_output=True, check=False)
    assert ended.returncode == -signal.SIGKILL, ended.stderr.decode()
    return int(ended.stdout)


async def test_last_words_are_of_this_run_and_without_secrets(log: Path):
    for word in ("first", "postgresql://me:hunter2@host/db"):
        child = await _sh(f"echo {word}", log)
        await child.wait(5)
        await child.stop()
    assert log.read_bytes().startswith(b"first\n")  # noqa: ASYNC240 - a test has its loop to itself
    assert child.last_words() == "postgresql://me:***@host/db"


async def test_waiting_for_a_child_that_dies_tells_its_last_words(log: Path):
    child = await _sh("echo no such model; exit 7", log)

    async def never() -> bool:
        return False

    with pytest.raises(ProgramFailed, match=r"The model server ended with code 7.*\nno such model"):
        await wait_until(never, child=child, timeout_s=5, what="The model server")
    await child.stop()


async def test_waiting_ends_when_time_is_up(log: Path):
    child = await _sh("echo still loading; sleep 1000", log)

    async def heard() -> bool:
        return False

    await _until(lambda: bool(child.last_words()), "the child's first line")
    with pytest.raises(Unavailable, match=r"did not answer within 0.1 s(?s:.*)still loading"):
        await wait_until(heard, child=child, timeout_s=0.1, what="The engine")
    await child.stop()


async def test_a_program_that_cannot_be_started_is_named(log: Path):
    with pytest.raises(ProgramFailed, match="no-such-program"):
        await start_child(["no-such-program"], env=ENV, log_file=log)


async def test_a_log_is_cut_under_a_program_that_goes_on_writing(log: Path):
    child = await _sh("yes long line | head -c 20000; read x <fifo; echo after", log, cwd=_with_fifo(log.parent))
    await _until(lambda: log.stat().st_size == 20000, "the long output")
    bound_log(log, max_bytes=10_000)
    (log.parent / "fifo").write_text("go\n")
    await child.wait(5)
    await child.stop()
    assert (child.last_words(), child.log_file.stat().st_size) == ("after", len("after\n"))
    assert log.with_name("child.log.1").stat().st_size == 20000


def _with_fifo(folder: Path) -> Path:
    os.mkfifo(folder / "fifo")
    return folder


@pytest.mark.skipif(os.geteuid() != 0, reason="only root has somebody else to be")
async def test_a_service_users_child_keeps_nothing_of_root_and_still_dies_with_us(log: Path):
    user, ours = service_user(), os.getgroups()
    script = "import ctypes, os; n = ctypes.c_int(); ctypes.CDLL(None).prctl(2, ctypes.byref(n)); "
    script += "print(os.getuid(), os.geteuid(), os.getgid(), os.getgroups(), n.value)"
    argv = ["/usr/bin/python3", "-c", script]  # ours may be in a closed home
    os.setgroups([4242])
    child = await start_child(argv, env=ENV, log_file=log, user=user, death_signal=signal.SIGINT)
    os.setgroups(ours)
    await child.wait(5)
    await child.stop()
    assert user
    assert child.last_words() == f"{user.uid} {user.uid} {user.gid} [] {int(signal.SIGINT)}"


def test_a_free_port_can_be_listened_on():
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", free_port("127.0.0.1")))
