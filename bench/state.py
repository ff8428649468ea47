"""What durable state costs: our engine on SQLite-WAL and on embedded PostgreSQL, beside LangGraph on the same server.

The shape is a loop of steps that each return 200 bytes. Every measurement is a process of its own (DBOS is one per
process) on a database of its own; rates are medians of three rounds after one that is not counted. LangGraph is
installed by the first run into `build/bench-venv`, never into the project. The sides take turns case by case, so that
they meet the same machine. Takes three to six minutes on two cores; what has not begun by `--minutes` is left out.

    python bench/state.py [--json FILE] [--quick] [--minutes 5] [--only dbos-sqlite|dbos-postgres|langgraph|waiting]
"""

import argparse
import asyncio
import json
import os
import secrets
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Awaitable, Callable, Generator
from contextlib import contextmanager
from pathlib import Path
from statistics import median
from typing import Any

import psutil
import sqlalchemy as sa

ROOT = Path(__file__).parents[1]
sys.path[:0] = [str(ROOT / "src")]

import state_meter  # noqa: E402 - needs the path above
from devtools_platform.kit.database import connect  # noqa: E402
from devtools_platform.state.adapters.dbos.control import DbosControl  # noqa: E402
from devtools_platform.state.adapters.dbos.engine import AgentLimits, DbosEngine  # noqa: E402
from devtools_platform.state.adapters.embedded_postgres import EmbeddedPostgres  # noqa: E402

LANGGRAPH = ["langgraph>=1.2,<2", "langgraph-checkpoint-postgres>=3.2,<4", "psycopg[binary,pool]>=3.3,<4", "psutil"]
PACKAGES = ["langgraph", "langgraph-checkpoint-postgres", "dbos"]
INSTALL_S = 180
WORKER_S = 90
"""No measurement may take longer."""
WAITING = 1000
WATCHED_S = 20
DAY_S = 86_400


# -- one measurement of our engine: `--worker CASE` -----------------------------------------------------------------


class Arrivals:
    """Counts workflows of this process that have come to a place; another thread waits for all of them."""

    def __init__(self, expected: int) -> None:
        self.expected = expected
        self.count = 0
        self._all = threading.Event()

    def arrive(self) -> None:
        """On the loop of the workflows only."""
        self.count += 1
        if self.count == self.expected:
            self._all.set()

    async def all(self) -> None:
        if not await asyncio.to_thread(self._all.wait, WORKER_S):
            raise TimeoutError(f"{self.count} of {self.expected} arrived")


class Bench:
    def __init__(self, options: argparse.Namespace) -> None:
        self.options = options
        self.store = connect(options.url)
        self.control = DbosControl(self.store)
        limits = AgentLimits(concurrency=4)
        self.engine = DbosEngine(options.url, self.control, worker_id=f"bench-{os.getpid()}", limits=limits)
        self.meter = state_meter.Meter(options.postmaster)

    async def run(self) -> dict[str, Any]:
        result = await getattr(self, self.options.worker)()
        if self.options.worker == "waiting":
            state_meter.emit(result)
            os._exit(0)  # as if killed: it closes nothing, so its tasks are a dead worker's
        await self.engine.close()
        return result

    def start(self, workflow: str, id_: str, argument: dict[str, Any] | None = None) -> None:
        with self.store.begin() as connection:
            self.control.start(connection, workflow, id_, argument or {}, priority=1)

    async def ended(self, ids: list[str]) -> None:
        """Until the results of `ids` are in the database."""

        async def all_ended() -> bool:
            return len(await self.control.find_ended(ids)) == len(ids)

        await until(all_ended)

    async def waits_for_message(self, id_: str) -> None:
        """Until `id_` really waits: that step is written just before."""

        async def is_waiting() -> bool:
            return any(step.name == "DBOS.sleep" for step in await self.control.list_steps(id_))

        await until(is_waiting)

    async def steps(self) -> dict[str, Any]:
        """From the moment all workflows are under way to the end of the last step."""
        gates: list[asyncio.Event] = []
        loop: list[asyncio.AbstractEventLoop] = []
        here, done = [Arrivals(self.options.workflows) for _ in range(2)]

        async def loops(_id: str, argument: dict[str, Any]) -> dict[str, Any]:
            if not gates:
                loop.append(asyncio.get_running_loop())
                gates.append(asyncio.Event())
            gate = gates[0]
            here.arrive()
            await gate.wait()
            for _ in range(argument["steps"]):
                await self.engine.step("step", plain, str)
            done.arrive()
            return {}

        self.engine.register("loops", loops)
        await self.engine.launch()
        for number in range(state_meter.ROUNDS + 1):
            gates.clear()
            here, done = [Arrivals(self.options.workflows) for _ in range(2)]
            ids = [f"{number}-{index}" for index in range(self.options.workflows)]
            for id_ in ids:
                self.start("loops", id_, {"steps": self.options.steps})
            await here.all()
            self.meter.start()
            loop[0].call_soon_threadsafe(gates[0].set)
            await done.all()
            self.meter.stop(self.options.steps * self.options.workflows)
            await self.ended(ids)
        return self.meter.result()

    async def workflows(self) -> dict[str, Any]:
        """One step each, from the first one's request to the last one's stored result, through the queue."""
        done = Arrivals(self.options.workflows)

        async def one(_id: str, _argument: dict[str, Any]) -> dict[str, Any]:
            await self.engine.step("step", plain, str)
            done.arrive()
            return {}

        self.engine.register("one", one)
        await self.engine.launch()
        for number in range(state_meter.ROUNDS + 1):
            done = Arrivals(self.options.workflows)
            ids = [f"{number}-{index}" for index in range(self.options.workflows)]
            self.meter.start()
            await asyncio.to_thread(lambda ids=ids: [self.start("one", id_) for id_ in ids])
            await done.all()
            await self.ended(ids)
            self.meter.stop(self.options.workflows)
        return self.meter.result()

    async def approval(self) -> dict[str, Any]:
        """From just before the decision's commit, so with it, to the beginning of the workflow's next step."""
        began: dict[str, float] = {}
        arrived: dict[str, Arrivals] = {}
        here = Arrivals(self.options.workflows)

        async def waits(id_: str, _argument: dict[str, Any]) -> dict[str, Any]:
            async def after() -> str:
                began[id_] = time.perf_counter()
                return state_meter.RESULT

            here.arrive()
            await self.engine.receive("approval", DAY_S)
            await self.engine.step("after", after, str)
            arrived[id_].arrive()
            return {}

        self.engine.register("waits", waits)
        await self.engine.launch()
        ids = [str(index) for index in range(self.options.workflows)]
        for id_ in ids:
            arrived[id_] = Arrivals(1)
            self.start("waits", id_)
        await here.all()
        latencies: list[float] = []
        for id_ in ids:
            await self.waits_for_message(id_)
            with self.store.connect() as connection:
                self.control.send(connection, id_, "approval", f"key-{id_}")
                decided = time.perf_counter()
                connection.commit()
            await arrived[id_].all()
            latencies.append(1000 * (began[id_] - decided))
        return {"median_ms": round(median(latencies), 1), "worst_ms": round(max(latencies), 1)}

    async def waiting(self) -> dict[str, Any]:
        """1,000 tasks wait for an approval; then the parent kills this process."""
        here = self.register_waiting()
        await self.engine.launch()
        before = psutil.Process().memory_info().rss
        idle = await self.watch(WATCHED_S / 4)
        with self.store.begin() as connection:
            for index in range(WAITING):
                self.control.start(connection, "waits", f"waiting-{index}", {}, priority=1)
        began = time.perf_counter()
        await here.all()
        took = time.perf_counter() - began
        await asyncio.sleep(5)  # not to count the end of the dispatch as waiting
        cpu = await self.watch(WATCHED_S)
        process = psutil.Process()
        return {
            "worker_id": f"bench-{os.getpid()}",
            "dispatch_s": round(took, 1),
            "rss_idle_mb": round(before / 1e6),
            "rss_mb": round(process.memory_info().rss / 1e6),
            "cpu_idle_percent": idle[0],
            "cpu_percent": cpu[0],
            "server_cpu_percent": cpu[1],
            "threads": process.num_threads(),
        }

    async def watch(self, seconds: float) -> tuple[float, float]:
        """CPU of this process and of the server over the next `seconds`, in percent of a core."""
        own, server = state_meter.own_cpu_s(), state_meter.server_cpu_s(self.options.postmaster)
        await asyncio.sleep(seconds)
        own, server = state_meter.own_cpu_s() - own, state_meter.server_cpu_s(self.options.postmaster) - server
        return round(100 * own / seconds, 1), round(100 * server / seconds, 1)

    async def again(self) -> dict[str, Any]:
        """After the kill: take all 1,000 over, then answer them."""
        here = self.register_waiting()
        began = time.perf_counter()
        await self.engine.launch()
        await self.engine.recover([self.options.dead])
        await here.all()
        took = time.perf_counter() - began
        ids = [f"waiting-{index}" for index in range(WAITING)]
        began = time.perf_counter()
        with self.store.begin() as connection:
            for id_ in ids:
                self.control.send(connection, id_, "approval", f"key-{id_}")
        await self.ended(ids)
        return {"redispatch_s": round(took, 1), "answered_s": round(time.perf_counter() - began, 1)}

    def register_waiting(self) -> Arrivals:
        here = Arrivals(WAITING)

        async def waits(_id: str, _argument: dict[str, Any]) -> dict[str, Any]:
            await self.engine.step("before", plain, str)
            here.arrive()
            await self.engine.receive("approval", DAY_S)
            await self.engine.step("after", plain, str)
            return {}

        self.engine.register("waits", waits)
        return here

    async def first(self) -> dict[str, Any]:
        """Begins the workflow that its parent kills it in."""
        print(f"bench-{os.getpid()}", flush=True)
        self.register_effects()
        await self.engine.launch()
        self.start("effects", "doubled")
        await self.ended(["doubled"])
        return {}

    async def second(self) -> dict[str, Any]:
        """One of two workers that take the dead one's work over at the same moment."""
        self.register_effects()
        await self.engine.launch()
        await asyncio.to_thread(state_meter.wait_for_go)
        await self.engine.recover([self.options.dead])
        await self.ended(["doubled"])
        return {}

    def register_effects(self) -> None:
        async def effects(_id: str, _argument: dict[str, Any]) -> dict[str, Any]:
            for number in range(state_meter.EFFECTS):

                async def effect(number: int = number) -> str:
                    state_meter.add_effect(self.options.effects, number)
                    return state_meter.RESULT

                await self.engine.step("effect", effect, str)
            return {}

        self.engine.register("effects", effects)


async def plain() -> str:
    return state_meter.RESULT


async def until(met: Callable[[], Awaitable[bool]]) -> None:
    """Look again and again: the database tells nobody. Bounded, as everything here."""
    async with asyncio.timeout(WORKER_S):
        while not await met():  # noqa: ASYNC110 - another process writes what is looked for
            await asyncio.sleep(0.01)


# -- the parent -----------------------------------------------------------------------------------------------------


class Databases:
    """A database for each measurement, dropped with the folder."""

    def __init__(self, folder: Path, server_url: str, postmaster: int) -> None:
        self._folder = folder
        self._server_url = server_url
        self.postmaster = postmaster

    def postgres(self) -> str:
        name = f"bench_{secrets.token_hex(4)}"
        engine = connect(self._server_url)
        with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
            connection.execute(sa.text(f"CREATE DATABASE {name}"))
        engine.dispose()
        url = sa.make_url(self._server_url).set(database=name, drivername="postgresql")
        return url.render_as_string(hide_password=False)

    def time_commits(self) -> list[float]:
        """Milliseconds of bare one-row commits on the server: what this machine's disk gives just now."""
        times: list[float] = []
        engine = connect(self._server_url)
        with engine.connect() as connection:
            connection.execute(sa.text("CREATE TABLE IF NOT EXISTS bare (word text)"))
            connection.commit()
            for _ in range(10):
                began = time.perf_counter()
                connection.execute(sa.text("INSERT INTO bare VALUES ('x')"))
                connection.commit()
                times.append(1000 * (time.perf_counter() - began))
        engine.dispose()
        return times

    def sqlite(self) -> str:
        return f"sqlite:///{self._folder / f'{secrets.token_hex(4)}.sqlite'}"


class Side:
    """One column of the table: where its workers run and on what."""

    def __init__(self, program: list[str], url: Callable[[], str], postmaster: int, *more: str) -> None:
        self.program = program
        self.url = url
        self.more = [*more, "--postmaster", str(postmaster)]

    def measure(self, case: str, *, url: str = "", **numbers: Any) -> dict[str, Any]:
        argv = self.argv(case, url or self.url(), **numbers)
        try:
            done = subprocess.run(argv, stdout=subprocess.PIPE, timeout=WORKER_S, text=True, check=True)
        except (subprocess.TimeoutExpired, subprocess.CalledProcessError) as error:
            return {"failed": type(error).__name__}
        return json.loads(done.stdout.splitlines()[-1])

    def argv(self, case: str, url: str, **more: Any) -> list[str]:
        words = [word for name, value in more.items() for word in (f"--{name}", str(value))]
        return [*self.program, case, "--url", url, *self.more, *words]

    def measure_double(self) -> dict[str, Any]:
        """A worker is killed in a workflow; two others take it over at once. Each effect is a line in a file."""
        url = self.url()
        with tempfile.TemporaryDirectory() as folder:
            file = Path(folder, "effects")
            file.touch()
            with worker(self.argv("first", url, effects=file)) as first:
                for _ in within(WORKER_S):
                    if len(file.read_text().splitlines()) >= state_meter.FIRST_EFFECTS:
                        break
                first.kill()
                said = first.communicate()[0].split()
            more = {"dead": said[0]} if said else {}
            argv = self.argv("second", url, effects=file, **more)
            with worker(argv) as left, worker(argv) as right:
                for each in (left, right):
                    if each.stdout.readline() != "ready\n":
                        return {"failed": "a worker did not start"}
                for each in (left, right):
                    each.stdin.write("go\n")
                    each.stdin.flush()
                codes = [each.wait(WORKER_S) for each in (left, right)]
            lines = file.read_text().split()
        wanted = state_meter.EFFECTS
        return {
            "wanted": wanted,
            "happened": len(lines),
            "missing": wanted - len(set(lines)),
            "doubled": len(lines) - len(set(lines)),
            "errors": sum(code != 0 for code in codes),
        }

    def measure_waiting(self) -> dict[str, Any]:
        url = self.url()
        result = self.measure("waiting", url=url)
        if "failed" in result:
            return result
        return result | self.measure("again", url=url, dead=result.pop("worker_id"))


@contextmanager
def worker(argv: list[str]) -> Generator[Any]:
    process = subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    alarm = threading.Timer(WORKER_S, process.kill)
    alarm.start()
    try:
        yield process
    finally:
        alarm.cancel()
        process.kill()
        process.wait()
        process.stdin.close()
        process.stdout.close()


def within(seconds: float) -> Generator[None]:
    """Look again and again, for no longer than `seconds`."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        yield
        time.sleep(0.005)
    raise TimeoutError


def make_langgraph(cache: Path) -> str:
    """The interpreter of an environment with LangGraph, made once."""
    python = cache / "bin" / "python"
    if not (cache / "complete").exists():
        print("installing LangGraph into an environment of its own", file=sys.stderr, flush=True)
        shutil.rmtree(cache, ignore_errors=True)
        subprocess.run([sys.executable, "-m", "venv", str(cache)], check=True, timeout=INSTALL_S)
        subprocess.run([python, "-m", "pip", "install", "-q", *LANGGRAPH], check=True, timeout=INSTALL_S)
        (cache / "complete").touch()
    return str(python)


def versions(python: str) -> dict[str, str]:
    code = (
        "import importlib.metadata as m, json, sys\n"
        f"print(json.dumps({{d.metadata['Name']: d.version for d in m.distributions() "
        f"if d.metadata['Name'] in {PACKAGES}}}))"
    )
    return json.loads(subprocess.run([python, "-c", code], check=True, capture_output=True, text=True).stdout)


def run_all(options: argparse.Namespace, databases: Databases) -> dict[str, Any]:
    ours = [sys.executable, __file__, "--worker"]
    results: dict[str, Any] = {"versions": versions(sys.executable), "cores": os.cpu_count()}
    small = 4 if options.quick else 1
    wanted = [options.only] if options.only else ["dbos-sqlite", "dbos-postgres", "langgraph", "waiting"]
    sides: dict[str, Side] = {}
    if "dbos-sqlite" in wanted:
        sides["dbos-sqlite"] = Side(ours, databases.sqlite, 0)
    if "dbos-postgres" in wanted:
        sides["dbos-postgres"] = Side(ours, databases.postgres, databases.postmaster)
    if "langgraph" in wanted:
        python = make_langgraph(options.langgraph_venv)
        results["versions"] |= versions(python)
        theirs = [python, str(Path(__file__).with_name("state_langgraph.py")), "--case"]
        for durability in ("sync", "async"):
            sides[f"langgraph-{durability}"] = Side(
                theirs, databases.postgres, databases.postmaster, "--durability", durability
            )
    cases: dict[str, Callable[[Side], dict[str, Any]]] = {
        "steps_1": lambda side: side.measure("steps", workflows=1, steps=100 // small),
        "steps_32": lambda side: side.measure("steps", workflows=32, steps=12 // small),
        "workflows": lambda side: side.measure("workflows", workflows=128 // small),
        "approval": lambda side: side.measure("approval", workflows=12 // small),
        "double": lambda side: side.measure_double(),
    }
    commits: list[float] = []
    deadline = time.monotonic() + 60 * options.minutes
    todo = [(name, side, case, cases[case]) for case in cases for name, side in sides.items()]
    if "waiting" in wanted:
        side = Side(ours, databases.postgres, databases.postmaster)
        todo.append(("waiting", side, "waiting", lambda side: side.measure_waiting()))
    for name, side, case, measure in todo:
        began = time.monotonic()
        if began > deadline:
            figures: dict[str, Any] = {"failed": "no time left"}
        else:
            commits += databases.time_commits()
            try:
                figures = measure(side)
            except (OSError, subprocess.SubprocessError) as error:
                figures = {"failed": type(error).__name__}
        results.setdefault(name, {})[case] = figures
        print(f"{name} {case}: {time.monotonic() - began:.1f} s", file=sys.stderr, flush=True)
    results["commit_ms"] = round(median(commits), 1) if commits else None
    results["load"] = round(os.getloadavg()[1], 1)
    return results


COLUMNS = {
    "dbos-sqlite": "ours, SQLite-WAL",
    "dbos-postgres": "ours, PostgreSQL",
    "langgraph-sync": "LangGraph, PostgreSQL, `sync`",
    "langgraph-async": "LangGraph, PostgreSQL, `async`",
}

#: words -> how to read the figure out of one side's results
ROWS: dict[str, Callable[[dict[str, Any]], Any]] = {
    "steps/s, 1 workflow": lambda side: side["steps_1"]["per_s"],
    "steps/s, 32 workflows": lambda side: side["steps_32"]["per_s"],
    "a step's checkpoint, ms (1 workflow)": lambda side: round(1000 / side["steps_1"]["per_s"], 1),
    "CPU a step, ms: worker + server (1 workflow)": lambda side: _cpu(side["steps_1"]),
    "CPU a step, ms: worker + server (32)": lambda side: _cpu(side["steps_32"]),
    "one-step workflows/s": lambda side: side["workflows"]["per_s"],
    "CPU a one-step workflow, ms: worker + server": lambda side: _cpu(side["workflows"]),
    "approval to next step, ms: median (worst)": lambda side: (
        f"{side['approval']['median_ms']} ({side['approval']['worst_ms']})"
    ),
    "two workers resume one workflow: effects of 80 (doubled, missing)": lambda side: (
        f"{side['double']['happened']} ({side['double']['doubled']}, {side['double']['missing']})"
    ),
}


def _cpu(figures: dict[str, float]) -> str:
    return f"{figures['worker_cpu_ms']:.1f} + {figures['server_cpu_ms']:.1f}"


def report(results: dict[str, Any]) -> str:
    sides = [name for name in COLUMNS if name in results]
    lines: list[str] = []
    if sides:
        heads = [*(COLUMNS[name] for name in sides), "ours / LangGraph `sync`, PostgreSQL"]
        lines = ["| | " + " | ".join(heads) + " |", "|---" * (len(heads) + 1) + "|"]
    for words, read in ROWS.items() if sides else ():
        cells = [_cell(read, results[name]) for name in sides]
        cells.append(_ratio(*(_figure(read, results.get(name, {})) for name in ("dbos-postgres", "langgraph-sync"))))
        lines.append(f"| {words} | " + " | ".join(cells) + " |")
    if waiting := results.get("waiting", {}).get("waiting"):
        lines += ["", "| 1,000 tasks wait for an approval, one worker, PostgreSQL | |", "|---|---|"]
        words = {
            "rss_mb": "RSS, MB",
            "rss_idle_mb": "RSS before the first task, MB",
            "cpu_idle_percent": f"CPU of the worker without a task over {WATCHED_S // 4} s, % of a core",
            "cpu_percent": f"CPU of the worker over {WATCHED_S} s, % of a core",
            "server_cpu_percent": "CPU of the database server, % of a core",
            "dispatch_s": "first dispatch of all, s",
            "redispatch_s": "dispatch of all after the worker died, s",
            "answered_s": "all answered at once, until the last result, s",
            "failed": "failed",
        }
        lines += [f"| {words[name]} | {waiting[name]} |" for name in words if name in waiting]
    lines += [
        "",
        f"{results['cores']} cores, load average {results['load']}; a bare one-row commit on the same server: "
        f"{results['commit_ms']} ms (median). " + _list(results["versions"]),
    ]
    return "\n".join(lines)


def _figure(read: Callable[[dict[str, Any]], Any], side: dict[str, Any]) -> Any:
    try:
        return read(side)
    except KeyError:
        return None


def _cell(read: Callable[[dict[str, Any]], Any], side: dict[str, Any]) -> str:
    value = _figure(read, side)
    if value is None:
        return "failed"
    return f"{value:.0f}" if isinstance(value, float) and value >= 20 else str(value)


def _ratio(ours: Any, theirs: Any) -> str:
    return f"{ours / theirs:.2f}" if isinstance(ours, float) and isinstance(theirs, float) else ""


def _list(named: dict[str, str]) -> str:
    return ", ".join(f"{name} {version}" for name, version in sorted(named.items()))


async def start_server(server: EmbeddedPostgres) -> tuple[str, int]:
    url = await server.start(lambda words: print(words, file=sys.stderr))
    for process in psutil.Process().children(recursive=True):
        parent = process.parent()
        if process.name() == "postgres" and parent and parent.name() != "postgres":
            return url, process.pid
    raise RuntimeError("The database server is no child of this process.")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", type=Path, help="write the figures to this file, too")
    parser.add_argument("--quick", action="store_true", help="a quarter of the work")
    parser.add_argument("--minutes", type=float, default=5)
    parser.add_argument("--only", choices=["dbos-sqlite", "dbos-postgres", "langgraph", "waiting"])
    parser.add_argument("--langgraph-venv", type=Path, default=ROOT / "build" / "bench-venv")
    internal = parser.add_argument_group("of one measurement, used by the program itself")
    internal.add_argument("--worker")
    internal.add_argument("--url")
    internal.add_argument("--postmaster", type=int, default=0)
    internal.add_argument("--workflows", type=int, default=1)
    internal.add_argument("--steps", type=int, default=1)
    internal.add_argument("--effects", type=Path)
    internal.add_argument("--dead")
    options = parser.parse_args()
    if options.worker:
        state_meter.emit(asyncio.run(Bench(options).run()))
        return
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    folder = Path(tempfile.mkdtemp(prefix="dev-tools-bench-"))
    folder.chmod(0o711)  # the server's unprivileged user must reach its own part
    server = EmbeddedPostgres(folder / "data", service_root=folder / "service")
    try:
        (folder / "service").mkdir(mode=0o711)
        url, postmaster = asyncio.run(start_server(server))
        results = run_all(options, Databases(folder, url, postmaster))
    finally:
        asyncio.run(server.stop())
        shutil.rmtree(folder)
    if options.json:
        options.json.write_text(json.dumps(results, indent=2) + "\n")
    print(report(results))


if __name__ == "__main__":
    main()
