"""Docker's engine as the sandbox needs it: found and tried, containers made, and removed whoever dies.

`container` decides what is shown to a command; this module talks to the engine, through its own client. A container
is removed by a process that outlives ours: when we are killed its input ends, and it removes what we left. Should it
die with us, the next search for the engine does.
"""

import asyncio
import json
import os
import re
import secrets
import shutil
import subprocess
import sys
import tempfile
from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any

from devtools_platform.core.errors import NoSandbox
from devtools_platform.core.redact import redact_text
from devtools_platform.kit.children import PIPE, Child, start_child
from devtools_platform.kit.sandbox.argv import HOME, environment, needed_paths
from devtools_platform.kit.sandbox.container import OWNER_LABEL, ROOT_IMAGE, Container, create_arguments, write_notes
from devtools_platform.kit.sandbox.landlock_exec import landlock_abi
from devtools_platform.kit.sandbox.types import Docker, Limits, SandboxInfo

ENGINE_TIMEOUT_S = 30.0
_IMAGE = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:/@-]{0,254}")
_NEVER = "0001-01-01"
_REMOVE = 'read -r _; "$0" rm -f -v "$1" || { sleep 2; "$0" rm -f -v "$1"; }'
_HINT = "Start Docker, or set DEV_TOOLS_SANDBOX=bubblewrap. A task can waive isolation with `--without-sandbox`."
_SHARED = (
    "The engine must see this machine's files and run commands as this user: a local one, without `userns-remap`. "
    "An image must hold `sh`."
)


@dataclass(frozen=True)
class Ended:
    """How a container ended. `exit_code` counts only if it was started."""

    is_started: bool
    exit_code: int
    is_out_of_memory: bool
    why: str


def find_engine(sandbox: Docker) -> SandboxInfo:
    """The engine that isolates here, tried by running a command in it. Raises `NoSandbox` with what it said."""
    if sandbox.image is not None and not _IMAGE.fullmatch(sandbox.image):
        raise NoSandbox(f"{sandbox.image!r} is not the name of an image.", hint="Such as `python:3.12-slim`.")
    program = shutil.which("docker", path=dict(sandbox.environment).get("PATH"))
    if program is None:
        raise NoSandbox("Docker's client (`docker`) is not installed, so commands cannot be isolated.", hint=_HINT)
    asked = ask(Path(program), sandbox, "info", "--format", "{{json .SecurityOptions}}")
    if asked.returncode != 0:
        raise NoSandbox(f"Docker's engine does not answer: {_said(asked)}", hint=_HINT)
    # In a rootless engine the container's root is whoever runs the engine; any other user could not write our files.
    is_rootless = any("rootless" in option for option in json.loads(asked.stdout) or ())
    user = "0:0" if is_rootless else f"{os.getuid()}:{os.getgid()}"
    _remove_left_over(Path(program), sandbox)
    volumes = _prepare_image(Path(program), sandbox)
    landlocks = [None] if sandbox.image else dict.fromkeys((landlock_abi(), None))
    infos = [SandboxInfo(Path(program), landlock, "docker", user, volumes) for landlock in landlocks]
    refusals = [refusal for info in infos if (refusal := _try(sandbox, info))]
    if len(refusals) == len(infos):
        raise NoSandbox(f"A container cannot run commands here: {refusals[0]}", hint=_SHARED)
    return infos[len(refusals)]  # the first that was not refused: without the second layer where it is forbidden


def ask(
    program: Path, sandbox: Docker, *arguments: str, given: bytes | None = None
) -> subprocess.CompletedProcess[str]:
    """One command of Docker's client, to its end."""
    try:
        done = subprocess.run(
            [program, *arguments],
            env=dict(sandbox.environment),
            input=given if given is not None else b"",
            capture_output=True,
            timeout=ENGINE_TIMEOUT_S,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise NoSandbox(f"`docker {arguments[0]}` did not work: {error}", hint=_HINT) from None
    out, err = (part.decode(errors="replace") for part in (done.stdout, done.stderr))
    return subprocess.CompletedProcess(done.args, done.returncode, out, err)


@asynccontextmanager
async def open_container(sandbox: Docker, info: SandboxInfo, *command: str, **view: Any) -> AsyncGenerator[Container]:
    """A container of `command` that is made and not started; gone afterwards, and also when this process dies.

    `view` is what `create_arguments` takes. Raises `NoSandbox` when the engine refuses it.
    """
    with tempfile.TemporaryDirectory(prefix="dev-tools-container-") as notes:
        container = Container(f"dev-tools-{secrets.token_hex(8)}", owner(), Path(notes))
        write_notes(container, info)
        remover = await start_child(
            *("/bin/sh", "-c", _REMOVE, str(info.program), container.name),
            stdin=PIPE,
            env=dict(sandbox.environment),
            start_new_session=True,
        )
        making = asyncio.create_task(asyncio.to_thread(_make, container, sandbox, info, command, view))
        try:
            await asyncio.shield(making)
            yield container
        finally:
            await asyncio.shield(asyncio.create_task(_remove(making, remover)))


async def look_at(container: Container, sandbox: Docker, info: SandboxInfo) -> Ended:
    """How it ended, by the engine's own record. Raises `NoSandbox` when the engine cannot say."""
    arguments = ("inspect", "--format", "{{json .State}}", container.name)
    asked = await asyncio.to_thread(ask, info.program, sandbox, *arguments)
    if asked.returncode != 0:
        raise NoSandbox(f"The container was lost: {_said(asked)}", hint=_HINT)
    return _ended(json.loads(asked.stdout))


def owner() -> str:
    """This process, so that another can tell whether it still lives: machine, process space, number, start."""
    boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    return f"{boot}/{Path('/proc/self/ns/pid').readlink()}/{os.getpid()}/{_start_of(os.getpid())}"


def _make(
    container: Container, sandbox: Docker, info: SandboxInfo, command: Sequence[str], view: dict[str, Any]
) -> None:
    arguments = create_arguments(container, sandbox, info, command, **view)
    made = ask(info.program, sandbox, *arguments)
    if made.returncode != 0:
        raise NoSandbox(f"The engine refused the container for {command[0]!r}: {_said(made)}", hint=_SHARED)


async def _remove(making: "asyncio.Task[None]", remover: Child) -> None:
    await asyncio.wait([making])  # a container that is made after its removal would stay
    if remover.stdin is not None:
        remover.stdin.close()
    await remover.wait()


def _remove_left_over(program: Path, sandbox: Docker) -> None:
    """Containers of processes of this machine that are no more."""
    space = owner().rsplit("/", 2)[0]
    template = f'{{{{.ID}}}} {{{{.Label "{OWNER_LABEL}"}}}}'
    listed = ask(program, sandbox, "ps", "--all", "--filter", f"label={OWNER_LABEL}", "--format", template)
    for line in listed.stdout.splitlines():
        number, _, whose = line.partition(" ")
        parts = whose.rsplit("/", 2)
        if parts[0] == space and parts[1].isdigit() and _start_of(int(parts[1])) != parts[2]:
            ask(program, sandbox, "rm", "-f", "-v", number)


def _start_of(pid: int) -> str:
    """When the process started, in the kernel's ticks; nothing when there is none."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19]
    except OSError:
        return ""


def _prepare_image(program: Path, sandbox: Docker) -> tuple[str, ...]:
    """Make our own image if that is the one; the volumes of a chosen one. Nothing is ever pulled."""
    name = sandbox.image or ROOT_IMAGE
    asked = ask(program, sandbox, "image", "inspect", "--format", "{{json .Config.Volumes}}", "--", name)
    if asked.returncode == 0:
        return tuple(json.loads(asked.stdout) or ())
    if sandbox.image is not None:
        raise NoSandbox(f"The engine has no image {name!r}: {_said(asked)}", hint=f"Run `docker pull {name}`.")
    import tarfile  # nearly always the image is there

    packed = BytesIO()
    with tarfile.open(fileobj=packed, mode="w") as archive:
        for folder in ("workspace", "tmp", "home", "root", "var", "run"):
            entry = tarfile.TarInfo(folder)
            entry.type, entry.mode = tarfile.DIRTYPE, 0o755
            archive.addfile(entry)
    made = ask(program, sandbox, "import", "-", name, given=packed.getvalue())
    if made.returncode != 0:
        raise NoSandbox(f"The engine does not take an image: {_said(made)}", hint=_HINT)
    return ()


def _try(sandbox: Docker, info: SandboxInfo) -> str | None:
    """What went wrong when a command read and wrote a workspace; None when nothing did."""
    word, python = secrets.token_hex(8), Path(sys.executable)
    with (
        tempfile.TemporaryDirectory(prefix="dev-tools-probe-") as workspace,
        tempfile.TemporaryDirectory(prefix="dev-tools-container-") as notes,
    ):
        container = Container(f"dev-tools-{secrets.token_hex(8)}", owner(), Path(notes))
        write_notes(container, info)
        Path(workspace, "given").write_text(word)
        try:
            _make(
                container,
                sandbox,
                info,
                ("sh", "-c", "cat given > taken"),
                {
                    "workspace": Path(workspace),
                    "limits": Limits(timeout_s=ENGINE_TIMEOUT_S, memory_mb=256),
                    "read_only_paths": needed_paths(python),
                    "env": environment(None if sandbox.image else python, home=HOME, extra={}),
                },
            )
            done = ask(info.program, sandbox, "start", "--attach", container.name)
            taken = Path(workspace, "taken")
            if done.returncode == 0 and taken.is_file() and taken.read_text() == word:
                return None
            return _said(done) or "it sees another file system than this process."
        except NoSandbox as error:
            return str(error)
        finally:
            ask(info.program, sandbox, "rm", "-f", "-v", container.name)


def _ended(state: dict[str, Any]) -> Ended:
    is_started = not str(state["StartedAt"]).startswith(_NEVER) and not state["Error"]
    return Ended(is_started, state["ExitCode"], state["OOMKilled"], redact_text(state["Error"]))


def _said(done: subprocess.CompletedProcess[str]) -> str:
    return redact_text((done.stderr.strip() or done.stdout.strip())[-500:])
