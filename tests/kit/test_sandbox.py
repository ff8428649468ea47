"""What a command can do in the sandbox, and above all what it cannot."""

import asyncio
import os
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from devtools_platform.core.errors import NoSandbox
from devtools_platform.kit.sandbox import CommandResult, Limits, find_sandbox, run_sandboxed

LIMITS = Limits(timeout_s=20, output_bytes=10_000)


async def sh(script: str, workspace: Path, limits: Limits = LIMITS, **more: bool) -> CommandResult:
    return await run_sandboxed(["sh", "-c", script], workspace=workspace, limits=limits, **more)


async def py(code: str, workspace: Path, limits: Limits = LIMITS) -> CommandResult:
    return await run_sandboxed([sys.executable, "-c", code], workspace=workspace, limits=limits)


async def test_a_command_works_in_its_workspace_and_its_exit_code_is_kept(tmp_path: Path) -> None:
    result = await sh("pwd; echo text > made; exit 3", tmp_path)

    assert (result.exit_code, result.ended_by, result.output) == (3, None, "/workspace\n")
    assert (tmp_path / "made").read_text() == "text\n"


async def test_nothing_of_the_host_is_there(tmp_path: Path) -> None:
    workspace, other = tmp_path / "mine", tmp_path / "other"
    workspace.mkdir()
    other.mkdir()
    (other / "file").write_text("of another task")
    (workspace / "link").symlink_to(other / "file")
    secret = Path.home() / ".dev-tools-test-secret"
    secret.write_text("of the host")
    try:
        result = await sh(f"cat {secret} {other}/file link /etc/shadow; ls -A ~ /home /var /run; env", workspace)
    finally:
        secret.unlink()

    assert "of the host" not in result.output
    assert "of another task" not in result.output
    assert "root:" not in result.output
    assert "PYTEST" not in result.output


async def test_nothing_outside_the_workspace_can_be_written(tmp_path: Path) -> None:
    git_dir = tmp_path / ".git"
    git_dir.mkdir()
    result = await sh("for f in /usr/x /x /etc/x .git/config; do touch $f && echo WROTE $f; done", tmp_path)

    assert "WROTE" not in result.output
    assert list(git_dir.iterdir()) == []


async def test_a_read_only_workspace_stays_as_it_is(tmp_path: Path) -> None:
    result = await sh("touch x && echo WROTE; touch /tmp/x && echo scratch", tmp_path, is_writable=False)

    assert result.output.splitlines()[-1] == "scratch"
    assert "WROTE" not in result.output


async def test_there_is_no_network_not_even_to_this_machine(tmp_path: Path) -> None:
    code = (
        "import socket\n"
        "for kind in (socket.SOCK_STREAM, socket.SOCK_DGRAM):\n"
        "    s = socket.socket(socket.AF_INET, kind)\n"
        "    try:\n        s.connect(('10.0.0.1', 53)); s.send(b'x'); print('SENT')\n"
        "    except OSError as e:\n        print(type(e).__name__)\n"
        "s = socket.socket()\n"
        "try:\n    s.bind(('127.0.0.1', 8080)); print('BOUND')\n"
        "except OSError as e:\n    print(type(e).__name__)\n"
    )
    result = await py(code, tmp_path)

    assert "SENT" not in result.output
    assert result.exit_code == 0, result.output
    if (await find_sandbox()).landlock:
        assert "BOUND" not in result.output


async def test_processes_of_the_host_can_be_neither_seen_nor_killed(tmp_path: Path) -> None:
    victim = subprocess.Popen(["sleep", "60"])  # noqa: ASYNC220 - it is only watched
    try:
        result = await sh(f"kill -9 {victim.pid}; ls /proc | grep -c '^[0-9]'", tmp_path)
        assert victim.poll() is None
        assert int(result.output.split()[-1]) < 10
    finally:
        victim.kill()
        victim.wait()


async def test_a_hang_ends_at_its_limit_with_everything_it_started(tmp_path: Path) -> None:
    started = time.monotonic()
    marker = f"71{os.getpid()}"
    result = await sh(f"sleep {marker} & setsid sleep {marker} & sleep {marker}", tmp_path, Limits(timeout_s=1))

    assert (result.exit_code, result.ended_by) == (None, "timeout")
    assert time.monotonic() - started < 6
    left = [p for p in psutil.process_iter(["cmdline"]) if marker in (p.info["cmdline"] or [])]
    assert left == []


async def test_a_flood_is_cut_and_ended(tmp_path: Path) -> None:
    result = await sh("yes", tmp_path)

    assert (result.exit_code, result.ended_by) == (None, "output")
    assert len(result.output) < 11_000
    assert "bytes left out" in result.output


async def test_head_and_tail_of_a_long_output_are_kept(tmp_path: Path) -> None:
    result = await sh("echo first; seq 1 20000; echo last", tmp_path)

    assert result.output.startswith("first\n")
    assert result.output.endswith("last\n")
    assert len(result.output) < 11_000


async def test_memory_is_bounded(tmp_path: Path) -> None:
    result = await py("x = bytearray(900 * 2**20)", tmp_path, Limits(timeout_s=20, memory_mb=300))

    assert result.exit_code == 1
    assert "MemoryError" in result.output


async def test_secrets_in_the_output_are_masked(tmp_path: Path) -> None:
    result = await sh("echo ghp_" + "a1B2" * 9, tmp_path)

    assert result.output == "***\n"


async def test_a_cancelled_caller_leaves_nothing_behind(tmp_path: Path) -> None:
    marker = f"72{os.getpid()}"
    work = asyncio.create_task(sh(f"touch started; sleep {marker}", tmp_path))
    async with asyncio.timeout(10):
        while not (tmp_path / "started").exists():  # noqa: ASYNC110 - another process makes it
            await asyncio.sleep(0.01)
    work.cancel()
    with pytest.raises(asyncio.CancelledError):
        await work

    assert [p for p in psutil.process_iter(["cmdline"]) if marker in (p.info["cmdline"] or [])] == []


async def test_a_missing_bubblewrap_is_a_refusal_and_the_waiver_still_has_limits(tmp_path: Path) -> None:
    missing = tmp_path / "bwrap"
    with pytest.raises(NoSandbox, match="no bubblewrap"):
        await run_sandboxed(["true"], workspace=tmp_path, limits=LIMITS, program=missing)

    result = await sh("pwd; echo $HOME; sleep 9", tmp_path, Limits(timeout_s=1), is_isolated=False)
    assert result.ended_by == "timeout"
    assert result.output.splitlines()[0] == str(tmp_path)
    assert str(Path.home()) not in result.output


async def test_an_unknown_program_is_said_so(tmp_path: Path) -> None:
    result = await run_sandboxed(["no-such-program"], workspace=tmp_path, limits=LIMITS)

    assert result.exit_code == 127
    assert "no-such-program" in result.output
