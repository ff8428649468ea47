"""Docker as the host program uses it: runs the commands of `commands`, reads states as data, never text."""

import base64
import contextlib
import json
import os
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable, Generator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from devtools_platform.deploy.host import commands
from devtools_platform.deploy.host.commands import Command, Project
from devtools_platform.deploy.host.store import Refused

POLL_S = 0.25
"""Each look starts two programs: more often, and a small droplet is busy with looking."""
PULL_S = 900
COMMAND_S = 180
LOG_LINES = 40
MAX_OUTPUT = 20_000

Say = Callable[[str], None]


@dataclass
class Engine:
    """One Docker engine. `running` are the processes to end when the deployer is gone."""

    environment: Mapping[str, str]
    running: set[int] = field(default_factory=set[int])

    def run(self, command: Command, *, timeout_s: float = COMMAND_S, extra: Mapping[str, str] | None = None) -> str:
        """What it printed. Raises `Refused` (`docker_failed`) with its last words."""
        result = self.start(command.argv, timeout_s, extra)
        if result.returncode != 0:
            words = result.stderr.strip()[-1500:] or result.stdout.strip()[-1500:]
            raise Refused("docker_failed", f"docker {' '.join(command.verb)} failed: {words}")
        return result.stdout

    def start(
        self, argv: list[str], timeout_s: float, extra: Mapping[str, str] | None = None
    ) -> "subprocess.CompletedProcess[str]":
        """Run a program in a process group of its own, so that it ends with us."""
        # Read here, not in `config`: on the droplet there is nothing of us but this program.
        env = {"PATH": os.environ.get("PATH", "/usr/bin:/bin"), "HOME": "/root", **self.environment, **(extra or {})}
        process = subprocess.Popen(
            argv,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            errors="replace",
            env=env,
            start_new_session=True,
        )
        self.running.add(process.pid)
        try:
            out, err = process.communicate(timeout=timeout_s)
        except subprocess.TimeoutExpired:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.communicate()
            raise Refused("timed_out", f"{' '.join(argv[:4])} did not end within {timeout_s:g} s.") from None
        finally:
            self.running.discard(process.pid)
        return subprocess.CompletedProcess(argv, process.returncode, out, err)

    def end_children(self) -> None:
        for pid in tuple(self.running):
            with contextlib.suppress(ProcessLookupError):
                os.killpg(pid, signal.SIGKILL)

    def containers(self, project: str) -> list[dict[str, Any]]:
        """Every container of a project, running or not, as `docker inspect` shows it."""
        ids = self.run(commands.list_containers(project)).split()
        return json.loads(self.run(commands.inspect(ids))) if ids else []

    def volumes(self) -> list[str]:
        return sorted(self.run(commands.list_volumes()).split())

    def pull(self, image: str, login: Mapping[str, tuple[str, str]]) -> None:
        with _docker_config(login) as extra:
            self.run(commands.pull(image), timeout_s=PULL_S, extra=extra)

    def await_health(self, project: str, services: set[str], timeout_s: float, say: Say) -> None:
        """Return once every service is healthy. Raises `Refused` (`unhealthy`) at the first that cannot become so."""
        deadline = time.monotonic() + timeout_s
        while True:
            states = {service_of(c): state_of(c) for c in self.containers(project)}
            bad = {name: state for name, state in states.items() if state not in {"healthy", "starting", "created"}}
            if bad:
                raise Refused("unhealthy", "; ".join(f"{name} is {state}" for name, state in sorted(bad.items())) + ".")
            if services <= states.keys() and all(state == "healthy" for state in states.values()):
                say(f"healthy: {', '.join(sorted(states))}")
                return
            if time.monotonic() > deadline:
                late = sorted(name for name in services if states.get(name) != "healthy")
                raise Refused("unhealthy", f"Not healthy within {timeout_s:g} s: {', '.join(late)}.")
            time.sleep(POLL_S)

    def last_words(self, project: str) -> dict[str, dict[str, Any]]:
        """State, health checks and last log lines of each container: what a person needs to see why it failed."""
        return {service_of(container): self.describe(container) for container in self.containers(project)}

    def describe(self, container: Mapping[str, Any], lines: int = LOG_LINES) -> dict[str, Any]:
        checked: dict[str, Any] = container["State"].get("Health") or {}
        health: list[dict[str, Any]] = checked.get("Log") or []
        shown = self.start(commands.logs(container["Id"], lines).argv, COMMAND_S)
        return {
            "state": state_of(container),
            "exit_code": container["State"].get("ExitCode"),
            "restarts": container.get("RestartCount"),
            "image": container["Config"]["Image"],
            "started_at": container["State"].get("StartedAt"),
            "health": [{"exit_code": h["ExitCode"], "output": h["Output"].strip()[-500:]} for h in health[-3:]],
            "log": (shown.stdout + shown.stderr)[-MAX_OUTPUT:],
            "ports": container["HostConfig"].get("PortBindings") or {},
        }

    def execute(self, project: Project, service: str, command: list[str], timeout_s: float) -> tuple[int, str]:
        result = self.start(project.execute(service, command).argv, timeout_s)
        return result.returncode, (result.stdout + result.stderr)[-MAX_OUTPUT:]

    def free_mb(self) -> int | None:
        """Room where images are kept; None when this program cannot see it."""
        root = json.loads(self.run(commands.info())).get("DockerRootDir")
        return shutil.disk_usage(root).free // 1_000_000 if root and Path(root).exists() else None


def service_of(container: Mapping[str, Any]) -> str:
    return container["Config"]["Labels"].get("com.docker.compose.service", container["Name"].lstrip("/"))


def agents_of(container: Mapping[str, Any]) -> list[str]:
    """The agents that run in it, as its label in the compose file says."""
    return container["Config"]["Labels"].get("dev-tools.agents", "").split()


def state_of(container: Mapping[str, Any]) -> str:
    """`healthy`, `starting`, or what is wrong with it. A container without a health check counts as unhealthy."""
    state = container["State"]
    if state["Status"] == "created":
        return "created"
    if state["Status"] != "running":
        return f"{state['Status']} (exit code {state.get('ExitCode')})"
    health: dict[str, Any] = state.get("Health") or {}
    return str(health.get("Status", "without a health check"))


@contextlib.contextmanager
def _docker_config(login: Mapping[str, tuple[str, str]]) -> Generator[dict[str, str]]:
    """Credentials for one pull, in a folder that only we can read and that is gone afterwards."""
    if not login:
        yield {}
        return
    with tempfile.TemporaryDirectory() as folder:
        auths = {host: {"auth": base64.b64encode(":".join(pair).encode()).decode()} for host, pair in login.items()}
        file = Path(folder, "config.json")
        file.touch(mode=0o600)
        file.write_text(json.dumps({"auths": auths}))
        yield {"DOCKER_CONFIG": folder}
