"""Docker as the sandbox, on a real engine: what a command can reach in a container, and how it is ended.

The attempts of tests/kit/test_sandbox.py, with this machine's system and with an image's."""

import asyncio
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from devtools_platform.agents.adapters.scripted import Script
from devtools_platform.app.demo import FILES
from devtools_platform.core.errors import NoSandbox
from devtools_platform.core.tools import Caller, ToolResult
from devtools_platform.gateway.toolsets.workspace import WorkspaceTools
from devtools_platform.kit.sandbox import CommandResult, Docker, Limits, find_sandbox, run_sandboxed
from e2e import scenarios
from e2e_deploy.fleet import Fleet, Machine, run, wait_for
from e2e_deploy.shop import import_base
from fakes.openai_server import FakeOpenAI
from stacks import clean_env, git, make_repo, running_stack

pytestmark = pytest.mark.timeout(180)
IMAGE = "python:3.11-slim"
LIMITS = Limits(timeout_s=30, memory_mb=300)
LABEL = "label=dev-tools.sandbox-of"
SLEEPER = """
import asyncio, json, sys
from pathlib import Path
from devtools_platform.kit.sandbox import Docker, Limits, run_sandboxed
environment, workspace = json.loads(sys.argv[1]), Path(sys.argv[2])
command = ["sh", "-c", "touch started; sleep 300"]
sandbox = Docker(environment=tuple(environment.items()))
asyncio.run(run_sandboxed(command, workspace=workspace, limits=Limits(400, 300), sandbox=sandbox))
"""


@pytest.fixture(scope="module")
def engine(fleet: Fleet) -> Machine:
    if not fleet.ci.docker("images", "-q", IMAGE).strip():
        import_base(fleet)
    return fleet.ci


@pytest.fixture(params=[None, IMAGE], ids=["machine", "image"])
def sandbox(request: pytest.FixtureRequest, engine: Machine) -> Docker:
    return Docker(request.param, environment=tuple(engine.env.items()))


@pytest.fixture
def workspace(tmp_path: Path) -> Path:
    folder = tmp_path / "workspaces" / "task-1"
    (folder / ".git" / "hooks").mkdir(parents=True)
    (folder / ".git" / "config").write_text("[core]\n")
    return folder


async def run_python(
    program: str, *arguments: str, workspace: Path, sandbox: Docker, limits: Limits = LIMITS, loopback: bool = False
) -> CommandResult:
    command = ["python3" if sandbox.image else sys.executable, "-c", program, *arguments]
    return await run_sandboxed(command, workspace=workspace, sandbox=sandbox, limits=limits, loopback=loopback)


def containers(engine: Machine) -> list[str]:
    return engine.docker("ps", "-aq", "--filter", LABEL).split()


async def test_a_command_has_a_clean_environment_no_capability_and_no_network(
    sandbox: Docker, workspace: Path, engine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SOME_TOKEN", "secret")
    program = """
import json, os, socket
found = {line.split(":")[0]: line.split()[1] for line in open("/proc/self/status") if line.startswith(("Cap", "NoNew"))}
def attempt(address):
    try:
        socket.create_connection(address, 2)
    except OSError as error:
        return type(error).__name__
print(json.dumps({
    "cwd": os.getcwd(), "user": os.getuid(), "env": sorted(os.environ), "home": os.environ["HOME"],
    "capabilities": {found[name] for name in found if name.startswith("Cap")} == {"0" * 16},
    "no_new": found["NoNewPrivs"],
    "interfaces": [name for _, name in socket.if_nameindex()], "first": os.getpid() != 1,
    "out": attempt(("198.51.100.7", 80)), "own": attempt(("127.0.0.1", %d)), "servers": open("/etc/resolv.conf").read(),
    "namespace": __import__("ctypes").CDLL(None).unshare(0x10000000),
}))
"""
    with socket.create_server(("127.0.0.1", 0)) as server:
        done = await run_python(program % server.getsockname()[1], workspace=workspace, sandbox=sandbox, loopback=True)
    assert done.exit_code == 0, done.output
    found = json.loads(done.output)
    assert set(found.pop("env")) <= {"HOME", "HOSTNAME", "LANG", "LC_CTYPE", "PATH", "PWD", "PYTHONDONTWRITEBYTECODE"}
    assert found == {
        "cwd": "/workspace",
        "user": os.getuid(),
        "home": "/tmp/home",
        "capabilities": True,
        "no_new": "1",
        "interfaces": ["lo"],
        "first": True,
        "out": "OSError",
        "own": "ConnectionRefusedError",
        "servers": "",
        "namespace": -1,
    }
    assert containers(engine) == []


async def test_nothing_of_the_host_can_be_read_or_written(sandbox: Docker, workspace: Path) -> None:
    other = workspace.parent / "task-2" / "notes.txt"
    other.parent.mkdir()
    other.write_text("theirs")
    secret = Path.home() / f".dev-tools-test-secret-{os.getpid()}"
    secret.write_text("mine")
    (workspace / "link").symlink_to(secret)
    program = """
import os, sys
at = sys.argv.index("--")
for path in sys.argv[1:at]:
    try:
        print("read", path, open(path).read())
    except OSError:
        pass
for path in sys.argv[at + 1:]:
    try:
        open(path, "a").close()
    except OSError:
        continue
    print("wrote", path)
try:
    os.rename("/workspace/.git", "/workspace/old")
except OSError:
    print("kept .git")
"""
    secrets = [secret, "/workspace/link", "/workspace/../task-2/notes.txt", other, "/etc/shadow"]
    first_process = Path("/proc/1", "root", "..", "etc", "shadow")
    secrets += [f"/proc/{os.getpid()}/environ", "/var/run/docker.sock", first_process, "/dev/sda"]
    places = ["/usr/x", "/etc/passwd", "/root/x", "/home/x", "/var/x", "/run/x", "/x", "/workspace/.git/config"]
    places += ["/workspace/.git/hooks/pre-commit", "/proc/sys/kernel/core_pattern", "/proc/sysrq-trigger", "/sys/x"]
    places += [f"{sys.prefix}/x", str(workspace.parent / "x"), "/workspace/../x", "/sys/fs/cgroup/cgroup.procs"]
    try:
        done = await run_python(
            program, *map(str, secrets), "--", *places, "/workspace/ok", "/tmp/ok", workspace=workspace, sandbox=sandbox
        )
    finally:
        secret.unlink()
    shadow = "read /etc/shadow" if sandbox.image else ""  # an image has its own, which holds no password
    lines = [line for line in done.output.splitlines() if not (shadow and line.startswith(shadow))]
    assert lines == ["wrote /workspace/ok", "wrote /tmp/ok", "kept .git"]
    assert (workspace / ".git" / "config").read_text() == "[core]\n"
    assert sorted(path.name for path in workspace.parent.iterdir()) == ["task-1", "task-2"]


async def test_host_processes_are_neither_seen_nor_killed(sandbox: Docker, workspace: Path) -> None:
    victim = await asyncio.create_subprocess_exec("sleep", "60")
    program = f"""
import os, signal
print(max(int(name) for name in os.listdir("/proc") if name.isdigit()) < 50)
for pid in ({victim.pid}, {os.getpid()}):
    try:
        os.kill(pid, signal.SIGKILL)
    except ProcessLookupError:
        print("none")
"""
    try:
        done = await run_python(program, workspace=workspace, sandbox=sandbox)
        assert done.output == "True\nnone\nnone\n"
        assert victim.returncode is None
    finally:
        victim.kill()
        await victim.wait()


@pytest.mark.parametrize(
    ("program", "limits", "ended_by", "said"),
    [
        ("import time; time.sleep(99)", Limits(2, 300), "timeout", "ran longer than 2 s"),
        ("while True: print('more')", Limits(20, 300, output_bytes=1000), "output", "printed more than 50000 bytes"),
        (
            "import os, time\nfor _ in range(9):\n  if os.fork() == 0: break\nx = os.urandom(50 << 20); time.sleep(20)",
            LIMITS,
            "memory",
            "used more than 300 MB",
        ),
        (
            "import os\nfor n in range(2000):\n  open(f'f{n}', 'wb').write(os.urandom(1 << 20)); os.sync()",
            Limits(60, 300, file_mb=8, disk_mb=20),
            "disk",
            "wrote more than 20 MB",
        ),
    ],
    ids=["hang", "flood", "memory", "disk"],
)
async def test_a_limit_ends_a_command_with_all_it_started(
    engine: Machine, workspace: Path, program: str, limits: Limits, ended_by: str, said: str
) -> None:
    sandbox = Docker(environment=tuple(engine.env.items()))
    done = await run_python(program, workspace=workspace, sandbox=sandbox, limits=limits)
    assert (done.exit_code, done.ended_by) == (None, ended_by)
    assert said in done.output
    assert containers(engine) == []


async def test_fork_bombs_big_files_and_a_full_tmp_are_refused_by_the_kernel(sandbox: Docker, workspace: Path) -> None:
    program = """
import os, signal, time
children = []
try:
    for _ in range(300):
        pid = os.fork()
        if pid == 0:
            time.sleep(30)
        children.append(pid)
except OSError:
    print("no more processes", len(children) < 30)
for pid in children:
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
for path in ("big", "/tmp/big"):
    try:
        with open(path, "wb") as file:
            for _ in range(9):
                file.write(bytes(1 << 20))
                file.flush()
    except OSError as error:
        print(path, error.strerror)
"""
    limits = Limits(30, 300, processes=30, file_mb=2)
    done = await run_python(program, workspace=workspace, sandbox=sandbox, limits=limits)
    assert done.output.splitlines()[:2] == ["no more processes True", "big File too large"]
    assert done.output.splitlines()[2].startswith("/tmp/big ")
    assert (workspace / "big").stat().st_size == 2 << 20


async def test_exit_codes_and_missing_programs_are_results(sandbox: Docker, workspace: Path) -> None:
    command = ["sh", "-c", f"echo one; echo two >&2; echo ghp_{'a' * 36}; exit 125"]
    done, missing = await asyncio.gather(
        run_sandboxed(command, workspace=workspace, limits=LIMITS, sandbox=sandbox, writable=False),
        run_sandboxed(["no-such-program"], workspace=workspace, limits=LIMITS, sandbox=sandbox),
    )
    assert done.exit_code == 125
    assert sorted(done.output.splitlines()) == ["***", "one", "two"]
    assert missing.exit_code == 127
    assert "no-such-program" in missing.output


async def test_a_cancelled_run_leaves_no_container(engine: Machine, workspace: Path) -> None:
    sandbox = Docker(environment=tuple(engine.env.items()))
    command = ["sh", "-c", "touch started; sleep 300"]
    running = asyncio.create_task(run_sandboxed(command, workspace=workspace, limits=LIMITS, sandbox=sandbox))
    await until((workspace / "started").exists)
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    assert containers(engine) == []


def start_sleeper(engine: Machine, workspace: Path) -> "subprocess.Popen[bytes]":
    argv = [sys.executable, "-c", SLEEPER, json.dumps(engine.env), str(workspace)]
    process = subprocess.Popen(argv)
    wait_for((workspace / "started").exists, 30, "a command in a container")
    return process


def test_a_container_does_not_outlive_the_process_that_wanted_it(engine: Machine, workspace: Path) -> None:
    process = start_sleeper(engine, workspace)
    process.kill()
    process.wait()
    wait_for(lambda: containers(engine) == [], 15, "the removal of the container")


def test_what_nobody_was_left_to_remove_the_next_process_removes(engine: Machine, workspace: Path) -> None:
    process = start_sleeper(engine, workspace)
    # A machine's service manager ends all processes of a service at once.
    children = run("ps", "-o", "pid=,args=", "--ppid", str(process.pid)).splitlines()
    remover = next(int(line.split()[0]) for line in children if "rm -f -v" in line)
    os.kill(remover, signal.SIGKILL)
    process.kill()
    process.wait()
    assert len(containers(engine)) == 1

    find_sandbox.cache_clear()
    find_sandbox(Docker(environment=tuple(engine.env.items())))

    assert containers(engine) == []


class Repository:
    """A clone as tasks have them, and its tools in containers."""

    def __init__(self, folder: Path, engine: Machine, config: str) -> None:
        clone = folder / "workspaces" / "t1"
        clone.mkdir(parents=True)
        self.clone = clone
        (clone / "dev-tools.toml").write_text(config)
        (clone / "test_it.py").write_text(
            "import os, sys, unittest\nclass T(unittest.TestCase):\n"
            "  def test_it(self): print(sys.executable, file=sys.stderr)\n"
        )
        for words in (
            ["init", "-q"],
            ["add", "."],
            ["commit", "-qm", "x"],
            ["update-ref", "refs/dev-tools/base", "HEAD"],
        ):
            run("git", "-c", "user.name=x", "-c", "user.email=x@example.org", *words, cwd=clone)
        sandbox = Docker(environment=tuple(engine.env.items()))
        self.tools = WorkspaceTools(clone.parent, limits=LIMITS, sandbox=sandbox)

    async def call(self, name: str, **arguments: object) -> ToolResult:
        return await self.tools.call(name, arguments, Caller("t1", "feature-dev"))


async def test_a_repository_names_the_image_its_commands_run_in(engine: Machine, tmp_path: Path) -> None:
    repository = Repository(tmp_path, engine, f'[sandbox]\nimage = "{IMAGE}"\n')
    tested = await repository.call("run_tests")
    assert tested.data["exit_code"] == 0, tested.text
    assert "/usr/bin/python3" in tested.text
    # Ours need no image that holds them: they see this machine's system.
    (repository.clone / "new.py").write_text("import os\n\n\ndef f():\n    return undefined_name\n")
    analyzed, found = await asyncio.gather(
        repository.call("analyze"), repository.call("search_text", pattern="undefined_n[a-z]+")
    )
    assert "ruff" in analyzed.data["ran"]
    assert any(finding["rule"] == "F821" for finding in analyzed.data["findings"])
    assert found.data["matches"] == ["new.py:5:    return undefined_name"]


async def test_an_image_that_the_engine_has_not_is_refused_with_the_way_to_get_it(
    engine: Machine, tmp_path: Path
) -> None:
    repository = Repository(tmp_path, engine, '[sandbox]\nimage = "node:22"\n')
    refused = await repository.call("run_command", command=["true"])
    assert refused.is_error
    assert "docker pull node:22" in refused.text
    assert refused.data["code"] == NoSandbox.code


async def until(check: Callable[[], bool], timeout_s: float = 20) -> None:
    stop = time.monotonic() + timeout_s
    while not check():
        assert time.monotonic() < stop
        await asyncio.sleep(0.02)


def test_a_whole_task_whose_every_command_is_a_container(engine: Machine, tmp_path: Path) -> None:
    """A test that fails, a change, the tests again, the analyzers of the review, a branch: on this machine's system."""
    repo = make_repo(tmp_path / "shop", FILES)
    began = time.time()
    with FakeOpenAI(Script.parse(scenarios.RULES)) as model:
        env = clean_env(
            DEV_TOOLS_SANDBOX="docker",
            DEV_TOOLS_MODEL_BASE_URL=model.base_url,
            DEV_TOOLS_MODEL_API_KEY=str(model.api_key),
            DEV_TOOLS_MODEL=model.models[0],
            **engine.env,
        )
        with running_stack(tmp_path / "data", env) as stack:
            task = stack.run_task("Fix the failing test: an order of exactly 100 must get the discount.", repo)

    assert task["status"] == "completed", (task["reason"], task["message"])
    assert [(tested["stage"], tested["exit_code"]) for tested in task["tests"]] == [("baseline", 1), ("final", 0)]
    assert "total >= DISCOUNT_FROM" in git(repo, "show", f"{task['branch']}:shop/prices.py")
    assert {"ruff", "bandit", "secrets", "model"} <= set(task["review"]["judged_by"])
    span = ("--since", str(began), "--until", str(time.time()))
    started = engine.docker(
        "events", *span, "--filter", "event=start", "--filter", LABEL, "--format", "{{.ID}}"
    ).split()
    assert len(started) >= 4, "two runs of the tests, and more than one analyzer"
    assert containers(engine) == []
