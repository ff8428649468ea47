"""A whole stack as a person starts it: `dev-tools up` in a process of its own, killable like one."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx2
import psutil

from devtools_platform.app.home import Home
from devtools_platform.state.adapters.embedded_postgres.home import SERVICE_ROOT, find_home
from processes import kill_now

SETTINGS = ("DEV_TOOLS_", "GRADIENT_", "DATABASE_URL", "LANGFUSE_", "OTEL_")
SOURCE = Path(__file__).parents[1] / "src"
START_S = 60
PATIENCE_S = 90
FINAL = {"completed", "failed", "cancelled"}


def clean_env(**more: str) -> dict[str, str]:
    """The environment of this process without any setting of ours, and with nothing but what is given.

    Search goes by words unless a test wants more: a model loaded in each of a hundred stacks takes minutes.
    """
    kept = {k: v for k, v in os.environ.items() if not k.startswith(SETTINGS)}
    ours = {"PYTHONPATH": str(SOURCE), "DEV_TOOLS_USE_OLLAMA": "false", "DEV_TOOLS_EMBEDDINGS": "none"}
    return {**kept, **ours, **more}


def wait_until(holds: Callable[[], bool], what: str) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while not holds():
        assert time.monotonic() < deadline, f"never: {what}"
        time.sleep(0.05)


@dataclass
class StackProcess:
    """A running `dev-tools up`."""

    data_dir: Path
    env: Mapping[str, str]
    process: subprocess.Popen[str] | None = None
    facts: dict[str, Any] | None = None
    has_own_ports: bool = False
    """Whether the environment names its ports; else it takes any free ones at each start."""
    only: str | None = None
    """The services it consists of, as `--only` takes them; by default all."""

    def start(self) -> None:
        ports = [] if self.has_own_ports else ["--free-ports"]
        services = ["--only", self.only] if self.only else []
        command = [sys.executable, "-m", "devtools_platform", "up", "--json", *ports, *services]
        log = (self.data_dir.parent / f"{self.data_dir.name}.stderr").open("a")
        self.process = subprocess.Popen(
            [*command, "--data-dir", str(self.data_dir)],
            stdout=subprocess.PIPE,
            stderr=log,
            text=True,
            env=dict(self.env),
            start_new_session=True,
        )
        log.close()
        assert self.process.stdout is not None
        text = ""
        while not text.endswith("}\n") or text.count("{") != text.count("}"):
            line = self.process.stdout.readline()
            assert line, f"the stack did not start:\n{self.errors()}"
            text += line
        self.facts = json.loads(text)

    @property
    def is_running(self) -> bool:
        return self.process is not None and self.process.poll() is None

    def errors(self) -> str:
        return (self.data_dir.parent / f"{self.data_dir.name}.stderr").read_text()[-4000:]

    def kill_everything(self) -> None:
        """`kill -9` of the stack and all it started, at once."""
        assert self.process is not None
        family = psutil.Process(self.process.pid).children(recursive=True)
        kill_now([psutil.Process(self.process.pid), *family])
        self._reap()

    def stop(self) -> int:
        """Ctrl-C; returns the exit code."""
        assert self.process is not None
        self.process.send_signal(signal.SIGINT)
        return self._reap()

    def _reap(self) -> int:
        assert self.process is not None
        assert self.process.stdout is not None
        code = self.process.wait(timeout=30)
        self.process.stdout.close()
        return code

    @property
    def http(self) -> httpx2.Client:
        assert self.facts is not None
        token = Path(self.env.get("DEV_TOOLS_STACK_TOKEN_FILE", self.data_dir / "token")).read_text()
        return httpx2.Client(
            base_url=self.facts["urls"]["state"],
            headers={"Authorization": f"Bearer {token}"},
            timeout=30,
            trust_env=False,
        )

    def create_task(self, text: str, repo: Path, **more: Any) -> dict[str, Any]:
        with self.http as http:
            response = http.post("/tasks", json={"text": text, "repo": str(repo), **more})
        assert response.status_code == 201, response.text
        return response.json()

    def get(self, path: str) -> Any:
        with self.http as http:
            response = http.get(path)
        assert response.status_code == 200, response.text
        return response.json()

    def post(self, path: str, body: Any = None, **headers: str) -> httpx2.Response:
        with self.http as http:
            return http.post(path, json=body, headers=headers)

    def wait_for_event(self, task_id: str, kind: str, after: int = 0) -> dict[str, Any]:
        for event in self.follow(task_id, after=after):
            if event["kind"] == kind:
                return event
        raise AssertionError(f"the task ended without an event {kind!r}: {self.get(f'/tasks/{task_id}')}")

    def wait_for_end(self, task_id: str, timeout_s: float = 90, after: int = 0) -> dict[str, Any]:
        for event in self.follow(task_id, timeout_s, after):
            if event["kind"] in {"finished", "failed", "cancelled"}:
                break
        deadline = time.monotonic() + timeout_s
        while (task := self.get(f"/tasks/{task_id}"))["status"] not in FINAL:
            assert time.monotonic() < deadline, task
        return task

    def follow(self, task_id: str, timeout_s: float = 90, after: int = 0) -> Iterator[dict[str, Any]]:
        headers = {"Accept": "text/event-stream", "Last-Event-ID": str(after)}
        with self.http as http, http.stream("GET", f"/tasks/{task_id}/events", headers=headers, timeout=timeout_s) as r:
            for line in r.iter_lines():
                if line.startswith("data:"):
                    yield json.loads(line.removeprefix("data:"))

    def run_task(self, text: str, repo: Path, **more: Any) -> dict[str, Any]:
        return self.wait_for_end(self.create_task(text, repo, **more)["id"])


@contextmanager
def running_stack(data_dir: Path, env: Mapping[str, str]) -> Iterator[StackProcess]:
    stack = StackProcess(data_dir, env)
    stack.start()
    try:
        yield stack
    finally:
        if stack.is_running:
            stack.stop()
        remove_cluster(data_dir)


def run_cli(*arguments: str, env: Mapping[str, str], timeout_s: float = 120) -> subprocess.CompletedProcess[str]:
    """One `dev-tools` command, as typed."""
    done = subprocess.run(
        [sys.executable, "-m", "devtools_platform", *arguments],
        capture_output=True,
        text=True,
        env=dict(env),
        timeout=timeout_s,
        check=False,
    )
    if "--data-dir" in arguments:
        data_dir = Path(arguments[arguments.index("--data-dir") + 1])
        if not Home(data_dir).is_locked():  # its stack, if it had one, has ended
            remove_cluster(data_dir)
    return done


def remove_cluster(data_dir: Path) -> None:
    """As root, a stack under pytest's closed folders keeps its database in /var/lib: take it away again."""
    home = find_home(data_dir, SERVICE_ROOT)
    if home.is_outside_data_dir:
        shutil.rmtree(home.folder, ignore_errors=True)


def git(repo: Path, *arguments: str) -> str:
    done = subprocess.run(["git", *arguments], cwd=repo, capture_output=True, text=True, check=True)
    return done.stdout.strip()


def make_repo(folder: Path, files: Mapping[str, str]) -> Path:
    """A git repository with one commit of `files`."""
    for name, text in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    git(folder, "init", "-q", "-b", "main")
    git(folder, "add", "-A")
    git(folder, "-c", "user.name=T", "-c", "user.email=t@example.com", "commit", "-q", "-m", "start")
    return folder
