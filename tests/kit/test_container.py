"""Docker as the sandbox, without an engine: what it is asked for, and what is said where there is none.
With one: tests/e2e_deploy/test_8_sandbox.py."""

import json
import sys
from pathlib import Path

import pytest

from devtools_platform.core.errors import NoSandbox
from devtools_platform.kit.sandbox import Docker, Limits, SandboxInfo, find_sandbox, run_sandboxed
from devtools_platform.kit.sandbox.container import Container, create_arguments

LIMITS = Limits(timeout_s=9, memory_mb=100, file_mb=2, processes=7)


def arguments(sandbox: Docker, folder: Path, volumes: tuple[str, ...] = ()) -> list[str]:
    info = SandboxInfo(Path("/docker"), None if sandbox.image else 5, "docker", "501:20", volumes)
    workspace = folder / "task,1"
    (workspace / ".git").mkdir(parents=True)
    return list(
        create_arguments(
            Container("dev-tools-1", "me", Path("/notes")),
            sandbox,
            info,
            ["make", "test"],
            workspace=workspace,
            limits=LIMITS,
            env={"HOME": "/tmp/home"},
        )
    )


def isolated(folder: Path, *cpus: str) -> list[str]:
    room = "rw,exec,nosuid,nodev,mode=1777,size=2m"
    words = "create --name dev-tools-1 --label dev-tools.sandbox-of=me --pull never --log-driver none --no-healthcheck"
    words += " --network none --hostname sandbox --ipc private --user 501:20 --read-only --cap-drop ALL"
    words += " --security-opt no-new-privileges --memory 100m --memory-swap 100m --pids-limit 7"
    words = " ".join((words, *cpus))
    words += f" --ulimit fsize=2097152 --ulimit core=0 --shm-size 2m --tmpfs /tmp:{room} --tmpfs /tmp/home:{room}"
    words += " --workdir /workspace"
    workspace = f'type=bind,"source={folder}/task,1",target=/workspace'
    git = f'type=bind,"source={folder}/task,1/.git",target=/workspace/.git,readonly'
    mounts = [workspace, git, "type=bind,source=/notes/resolv.conf,target=/etc/resolv.conf,readonly"]
    return [*words.split(), *(part for mount in mounts for part in ("--mount", mount)), "--env", "HOME=/tmp/home"]


def test_a_container_of_an_image_shows_the_workspace_and_nothing_else_of_the_machine(tmp_path: Path) -> None:
    found = arguments(Docker("python:3.12", cpus=1.5), tmp_path, ("/var/data",))

    volume = ["--tmpfs", "/var/data:rw,nosuid,nodev,size=2m"]
    command = ["--entrypoint", "make", "--", "python:3.12", "test"]
    assert found == [*isolated(tmp_path, "--cpus", "1.5"), "--init", *volume, *command]


def test_without_an_image_the_machines_system_is_shown_read_only_behind_the_second_layer(tmp_path: Path) -> None:
    found = arguments(Docker(), tmp_path)

    common = isolated(tmp_path)
    assert found[: len(common)] == common
    mounts = [found[at + 1] for at, word in enumerate(found) if word == "--mount"][3:]
    assert "type=bind,source=/usr,target=/usr,readonly" in mounts
    assert [mount for mount in mounts if not mount.endswith(",readonly")] == [
        "type=bind,source=/notes/ready,target=/run/dev-tools/ready"
    ]
    *_, start, _sh, python, _i, _s, _b, _script, plan, make, test = found
    assert (start, python, make, test) == ('exec 9>/run/dev-tools/ready; exec "$@"', sys.executable, "make", "test")
    assert json.loads(plan) == {
        "memory_mb": 100,
        "file_mb": 2,
        "processes": None,
        "landlock": 5,
        "write": ["/workspace", "/tmp", "/dev/shm"],
        "tcp": False,
        "ready_fd": 9,
        "is_first": True,
    }


def client(folder: Path, script: str) -> tuple[tuple[str, str], ...]:
    """Where `script` stands in for Docker's client."""
    (folder / "docker").write_text(f"#!/bin/sh\n{script}\n")
    (folder / "docker").chmod(0o755)
    return (("PATH", f"{folder}:/usr/bin:/bin"),)


async def test_without_docker_a_command_is_refused(tmp_path: Path) -> None:
    sandbox = Docker(environment=(("PATH", str(tmp_path)),))
    with pytest.raises(NoSandbox, match="is not installed") as raised:
        await run_sandboxed(["touch", "x"], workspace=tmp_path, limits=LIMITS, sandbox=sandbox)
    assert "DEV_TOOLS_SANDBOX=bubblewrap" in raised.value.hint
    assert not (tmp_path / "x").exists()


def test_an_engine_that_does_not_answer_is_said_in_its_words(tmp_path: Path) -> None:
    environment = client(tmp_path, "echo 'Cannot connect to the Docker daemon' >&2; exit 1")
    with pytest.raises(NoSandbox, match="Cannot connect to the Docker daemon"):
        find_sandbox(Docker(environment=environment))


def test_an_image_that_is_not_there_is_never_pulled(tmp_path: Path) -> None:
    script = (
        'echo "$*" >>"${0%/*}/asked"; case "$1" in info) echo "[]";; image) echo "No such image" >&2; exit 1;; esac'
    )
    with pytest.raises(NoSandbox, match=r"has no image 'python:3\.12'") as raised:
        find_sandbox(Docker("python:3.12", environment=client(tmp_path, script)))
    assert raised.value.hint == "Run `docker pull python:3.12`."
    asked = (tmp_path / "asked").read_text().splitlines()
    assert [line.split()[0] for line in asked] == ["info", "ps", "image"]


@pytest.mark.parametrize("name", ["--privileged", "-v=/:/host", "a b", ""])
def test_what_is_no_name_of_an_image_never_reaches_the_engine(tmp_path: Path, name: str) -> None:
    environment = client(tmp_path, 'touch "${0%/*}/called"')
    with pytest.raises(NoSandbox, match="is not the name of an image"):
        find_sandbox(Docker(name, environment=environment))
    assert not (tmp_path / "called").exists()
