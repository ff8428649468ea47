"""Several hosts, one PostgreSQL: how many tasks a day the stack carries, and what a task costs where.

Hosts are network namespaces on a bridge, so it needs root: one with PostgreSQL, one with the state and context
services, and N with a gateway and a worker each; a worker calls the gateway of the next host. All share one folder of
workspaces, as hosts would by a network file system, and the cores of this machine. The model answers at once from a
script: what is measured is everything else. First tasks come at the rate of `--per-day`, then `--at-once` of them.

    python bench/scale.py [--hosts 2] [--per-day 10000] [--paced-s 40] [--at-once 8] [--full-s 40] [--json FILE]
"""

import argparse
import asyncio
import ctypes
import json
import os
import secrets
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median, quantiles
from typing import Any

import psutil

ROOT = Path(__file__).parents[1]
sys.path[:0] = [str(ROOT / "src"), str(ROOT / "tests")]

from devtools_platform.app.client import StackClient  # noqa: E402 - needs the path above
from devtools_platform.app.demo import FILES, TASK  # noqa: E402
from devtools_platform.core.tasks import TaskRequest, TaskResult  # noqa: E402
from devtools_platform.state.adapters.embedded_postgres import find_programs  # noqa: E402
from e2e import scenarios  # noqa: E402
from stacks import clean_env, make_repo  # noqa: E402

DAY_S = 86_400
NOBODY = 65534
NETWORK = "10.97.0"
REPOSITORIES = 6
CLONE_NEWNET = 0x40000000


@dataclass
class Host:
    """A network namespace with an address of its own."""

    label: str
    name: str
    address: str
    processes: dict[str, psutil.Process] = field(default_factory=dict[str, psutil.Process])

    def start(self, label: str, argv: list[str], log: Path, **more: Any) -> psutil.Popen:
        with log.open("ab") as out:
            process = psutil.Popen(
                ["nsenter", f"--net=/run/netns/{self.name}", *argv],
                stdin=subprocess.DEVNULL, stdout=out, stderr=out, start_new_session=True, **more,
            )  # fmt: skip
        self.processes[label] = process
        return process


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--hosts", type=int, default=2)
    parser.add_argument("--per-day", type=int, default=10_000)
    parser.add_argument("--paced-s", type=float, default=40)
    parser.add_argument("--at-once", type=int, default=8)
    parser.add_argument("--full-s", type=float, default=40)
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    with ExitStack() as cleanup:
        folder = Path(tempfile.mkdtemp(prefix="dt-scale-"))
        cleanup.callback(shutil.rmtree, folder, ignore_errors=True)
        folder.chmod(0o755)
        hosts = connect(["data", "state", *(f"web-{n + 1}" for n in range(given.hosts))], cleanup)
        enter(hosts["state"])
        stack = Stack(folder, hosts)
        began = time.perf_counter()
        stack.start(cleanup)
        found: dict[str, Any] = {"hosts": given.hosts, "started_in_s": round(time.perf_counter() - began, 1)}
        load = Load(stack, [make_repo(folder / f"repositories/shop-{n}", FILES) for n in range(REPOSITORIES)])
        asyncio.run(load.one())  # the first task indexes, and meets everything for the first time
        found["paced"] = measure(stack, load, lambda: load.paced(given.per_day, given.paced_s))
        found["full"] = measure(stack, load, lambda: load.full(given.at_once, given.full_s))
    report(found, given.per_day)
    if given.json:
        given.json.write_text(json.dumps(found, indent=2))


def connect(labels: list[str], cleanup: ExitStack) -> dict[str, Host]:
    """Namespaces on one bridge, which lives in the first of them. Nothing of this machine is changed."""
    hosts = {label: Host(label, f"dts{os.getpid()}-{label}", f"{NETWORK}.{n + 1}") for n, label in enumerate(labels)}
    first = hosts[labels[0]].name
    for number, host in enumerate(hosts.values()):
        ip("netns", "add", host.name)
        cleanup.callback(ip, "netns", "del", host.name)
        ip("-n", host.name, "link", "set", "lo", "up")
        if number == 0:
            ip("-n", first, "link", "add", "eth0", "type", "bridge")
        else:
            ip("link", "add", f"v{number}", "netns", first, "type", "veth", "peer", "eth0", "netns", host.name)
            ip("-n", first, "link", "set", f"v{number}", "master", "eth0", "up")
        ip("-n", host.name, "addr", "add", f"{host.address}/24", "dev", "eth0")
        ip("-n", host.name, "link", "set", "eth0", "up")
    return hosts


def ip(*args: str) -> None:
    subprocess.run(["ip", *args], check=True, capture_output=True)


def enter(host: Host) -> None:
    """From here on this process and its children are on that host."""
    with Path(f"/run/netns/{host.name}").open() as file:
        if ctypes.CDLL(None, use_errno=True).setns(file.fileno(), CLONE_NEWNET) != 0:
            raise OSError(ctypes.get_errno(), "setns")


@dataclass
class Stack:
    """PostgreSQL, and the services of one stack spread over the hosts."""

    folder: Path
    hosts: Mapping[str, Host]
    token: str = field(default_factory=lambda: secrets.token_hex(16))

    @property
    def client(self) -> StackClient:
        return StackClient(f"http://{self.hosts['state'].address}:8008", self.token)

    def start(self, cleanup: ExitStack) -> None:
        self._start_postgres(cleanup)
        script = self.folder / "script.json"
        script.write_text(json.dumps(scenarios.RULES))
        state, webs = self.hosts["state"], [host for label, host in self.hosts.items() if label.startswith("web")]
        shared = clean_env(
            DATABASE_URL=f"postgresql://postgres@{self.hosts['data'].address}:5432/postgres",
            DEV_TOOLS_STACK_TOKEN=self.token,
            DEV_TOOLS_STACK_SECRET=secrets.token_hex(16),
            DEV_TOOLS_WORKSPACES_DIR=str(self.folder / "workspaces"),
            DEV_TOOLS_CONTEXT_URL=f"http://{state.address}:8007",
            DEV_TOOLS_STATE_URL=f"http://{state.address}:8008",
            DEV_TOOLS_MODEL_SCRIPT=str(script),
            DEV_TOOLS_CONCURRENT_TASKS="8",
            DEV_TOOLS_AGENT_CONCURRENCY="16",
        )
        # The state service brings the schema: the others find it there.
        self._up(state, "state,context", {**shared, "DEV_TOOLS_GATEWAY_URL": f"http://{webs[0].address}:8000"}, cleanup)
        self._wait(state)
        for number, host in enumerate(webs):
            other = webs[(number + 1) % len(webs)]
            for only in ("gateway", "worker,agents"):
                self._up(host, only, {**shared, "DEV_TOOLS_GATEWAY_URL": f"http://{other.address}:8000"}, cleanup)
        for host in webs:
            self._wait(host)

    def _start_postgres(self, cleanup: ExitStack) -> None:
        data, host, programs = self.folder / "pg", self.hosts["data"], find_programs()
        data.mkdir()
        os.chown(data, NOBODY, NOBODY)
        owned = {"user": NOBODY, "group": NOBODY, "cwd": data}
        initdb = [str(programs.initdb), "-D", str(data), "-U", "postgres", "-A", "trust", "-E", "UTF8"]
        subprocess.run(initdb, check=True, capture_output=True, **owned)  # pyright: ignore[reportCallIssue, reportArgumentType]
        with (data / "pg_hba.conf").open("a") as file:
            file.write(f"host all all {NETWORK}.0/24 trust\n")
        argv = ["setpriv", f"--reuid={NOBODY}", f"--regid={NOBODY}", "--clear-groups", str(programs.postgres)]
        argv += ["-D", str(data), "-c", f"listen_addresses={host.address}", "-c", "max_connections=200", "-k", ""]
        process = host.start("PostgreSQL", argv, self.folder / "postgres.log", cwd=data)
        cleanup.callback(end, process, signal.SIGINT)
        probe = ["nsenter", f"--net=/run/netns/{host.name}", str(programs.psql), "-h", host.address]
        probe += ["-U", "postgres", "-c", "SELECT 1"]
        wait_for(lambda: subprocess.run(probe, capture_output=True, check=False).returncode == 0, 30, "PostgreSQL")

    def _up(self, host: Host, only: str, env: dict[str, str], cleanup: ExitStack) -> None:
        name = f"{host.label} {only}"
        argv = [sys.executable, "-m", "devtools_platform", "up", "--json", "--host", host.address, "--only", only]
        argv += ["--data-dir", str(self.folder / name.replace(" ", "-"))]
        process = host.start(only, argv, self.folder / f"{name}.log", env=env)
        cleanup.callback(end, process, signal.SIGINT)

    def _wait(self, host: Host) -> None:
        for only, process in host.processes.items():
            log = self.folder / f"{host.label} {only}.log"

            def is_up(log: Path = log, process: psutil.Process = process) -> bool:
                assert process.status() != psutil.STATUS_ZOMBIE, log.read_text()[-3000:]
                return "started_in_s" in log.read_text()

            wait_for(is_up, 90, log.stem)

    def cpu_s(self) -> dict[str, float]:
        """Of each kind of process with its children, those that have ended among them."""
        spent: dict[str, float] = {}
        for host in self.hosts.values():
            for label, process in host.processes.items():
                for one in [process, *process.children(recursive=True)]:
                    times = one.cpu_times()
                    used = times.user + times.system + times.children_user + times.children_system
                    spent[label] = spent.get(label, 0) + used
        return spent


@dataclass
class Load:
    """Tasks for the stack, on the repositories in turn."""

    stack: Stack
    repositories: list[Path]
    results: list[TaskResult] = field(default_factory=list[TaskResult])
    _made: int = 0

    async def full(self, at_once: int, seconds: float) -> None:
        """So many at once; none is begun after the time is over."""
        end_at = time.monotonic() + seconds

        async def work() -> None:
            while time.monotonic() < end_at:
                await self.one()

        await asyncio.gather(*(work() for _ in range(at_once)))

    async def paced(self, per_day: int, seconds: float) -> None:
        """One after the other at even distances, however long each takes."""
        distance, going = DAY_S / per_day, list[asyncio.Task[None]]()
        for _ in range(max(1, round(seconds / distance))):
            going.append(asyncio.create_task(self.one()))
            await asyncio.sleep(distance)
        await asyncio.gather(*going)

    async def one(self) -> None:
        repo = self.repositories[self._made % len(self.repositories)]
        self._made += 1
        client = self.stack.client
        task = await client.create_task(TaskRequest(text=TASK, repo=str(repo)))
        async for _ in client.follow_events(task.id):
            pass
        self.results.append(await client.get_task(task.id))


def measure(stack: Stack, load: Load, work: Callable[[], Any]) -> dict[str, Any]:
    load.results.clear()
    before, began = stack.cpu_s(), time.perf_counter()
    asyncio.run(work())
    took, after, tasks = time.perf_counter() - began, stack.cpu_s(), list(load.results)
    seconds = sorted((task.ended_at - task.created_at).total_seconds() for task in tasks if task.ended_at)
    return {
        "tasks": len(tasks),
        "completed": sum(task.status == "completed" for task in tasks),
        "took_s": round(took, 1),
        "per_day": round(len(tasks) / took * DAY_S),
        "p50_s": round(median(seconds), 2),
        "p95_s": round(quantiles(seconds, n=20)[-1], 2) if len(seconds) > 1 else None,
        "cores_used": round(sum(after[name] - before[name] for name in after) / took, 2),
        "cpu_s_a_task": {name: round((after[name] - before[name]) / len(tasks), 3) for name in after},
    }


def end(process: psutil.Popen, how: signal.Signals) -> None:
    if process.poll() is None:
        process.send_signal(how)
    try:
        process.wait(20)
    except psutil.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def wait_for(check: Callable[[], bool], seconds: float, what: str) -> None:
    deadline = time.monotonic() + seconds
    while not check():
        assert time.monotonic() < deadline, f"{what} did not come within {seconds:g} s"
        time.sleep(0.1)


def report(found: Mapping[str, Any], per_day: int) -> None:
    print(f"{found['hosts']} hosts with a gateway and a worker, started in {found['started_in_s']} s")
    for name, title in (("paced", f"{per_day:,} a day"), ("full", "as many as it takes")):
        one = found[name]
        done = f"{one['completed']} of {one['tasks']} completed in {one['took_s']} s"
        print(f"{title}: {done}, {one['per_day']:,} a day")
        print(f"  p50 {one['p50_s']} s, p95 {one['p95_s']} s; {one['cores_used']} cores in use")
        total = sum(one["cpu_s_a_task"].values())
        print(f"  CPU a task {total:.2f} s: " + ", ".join(f"{k} {v}" for k, v in one["cpu_s_a_task"].items()))


if __name__ == "__main__":
    main()
