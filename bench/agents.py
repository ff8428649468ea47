"""What a platform costs per step of an agent: ours (durable, traced, policy on) beside LangGraph and openai-agents.

    python bench/agents.py --peers PYTHON [--openhands PYTHON] [--rounds N] [--json FILE]

The same scripted endpoint, and the same tools for all: ours as feature-dev is given them, and for the peers functions
of the same names and schemas in their own process. A step is one model call and one tool call (a file is read); its
cost is the slope between runs of few and of many steps, so that what a run costs besides (clone, tests, review) is not
in it. Medians of the rounds, one side after the other. CPU of the endpoint is not counted; that of the database server
is told apart. PYTHON is of an environment with what `make build/peers/.complete` installs; without it only ours is
measured.
"""

import argparse
import asyncio
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from statistics import median
from typing import Any

import psutil

ROOT = Path(__file__).parents[1]
sys.path[:0] = [str(ROOT / "bench"), str(ROOT / "tests"), str(ROOT / "src")]

from devtools_platform.agents.adapters.mcp_tools import GatewayClient  # noqa: E402 - needs the path above
from devtools_platform.app.demo import FILES  # noqa: E402
from devtools_platform.core.tools import Caller  # noqa: E402
from e2e.scenarios import APPROVE, FIX, SIX, call, done  # noqa: E402
from stacks import StackProcess, clean_env, make_repo, running_stack  # noqa: E402

FEW, MANY = 5, 35
IDLE_S = 10
READ = call("workspace_read_file", path="README.md")


def rules() -> list[dict[str, Any]]:
    ours = [
        {"agent": "feature-dev", "when": f"OURS {n} ", "turns": [FIX, *[READ] * n, done("Done.", "Note it")]}
        for n in (FEW, MANY)
    ]
    theirs = [
        {"agent": "feature-dev", "when": f"THEIRS {n} ", "turns": [*[READ] * n, {"text": "Done."}]} for n in (FEW, MANY)
    ]
    return [*ours, *theirs, *SIX, {"agent": "code-review", "turns": [APPROVE]}]


def cpu_ms(stack: StackProcess) -> tuple[float, float]:
    """CPU of the stack and of its database server so far."""
    assert stack.process is not None
    root = psutil.Process(stack.process.pid)
    own = database = 0.0
    for process in [root, *root.children(recursive=True)]:
        try:
            times, name = process.cpu_times(), process.name()
        except psutil.NoSuchProcess:
            continue
        spent = 1000 * (times.user + times.system)
        if name == "postgres":
            database += spent
        else:
            own += spent
    return own, database


def measure_idle(stack: StackProcess) -> float:
    """CPU milliseconds a second of the stack with nothing to do: polls, heartbeats, the search engine's process."""
    before = cpu_ms(stack)
    time.sleep(IDLE_S)
    return round((cpu_ms(stack)[0] - before[0]) / IDLE_S, 1)


def per_step(few: list[float], many: list[float]) -> float:
    return round((median(many) - median(few)) / (MANY - FEW), 3)


def measure_ours(stack: StackProcess, repo: Path, rounds: int) -> dict[str, Any]:
    idle = measure_idle(stack)
    own: dict[int, list[float]] = {FEW: [], MANY: []}
    database: dict[int, list[float]] = {FEW: [], MANY: []}
    seconds: dict[int, list[float]] = {FEW: [], MANY: []}
    for round_ in range(rounds + 1):
        for n in (FEW, MANY):
            began, before = time.perf_counter(), cpu_ms(stack)
            task = stack.run_task(f"OURS {n} steps.", repo, agent="feature-dev")
            assert task["status"] == "completed", task
            after = cpu_ms(stack)
            if round_:  # the first loads and compiles
                own[n].append(after[0] - before[0])
                database[n].append(after[1] - before[1])
                seconds[n].append(time.perf_counter() - began)
    walls: list[float] = []
    for _ in range(rounds):
        began = time.perf_counter()
        task = stack.run_task("SIX AGENTS have work to do: all of them.", repo)
        assert task["status"] == "completed", task
        walls.append(time.perf_counter() - began)
    step, step_s = per_step(own[FEW], own[MANY]), per_step(seconds[FEW], seconds[MANY])
    return {
        "step_cpu_ms": step,
        "step_cpu_ms_above_idle": round(step - idle * step_s, 2),
        "idle_cpu_ms_a_second": idle,
        "step_s": step_s,
        "step_database_cpu_ms": per_step(database[FEW], database[MANY]),
        "six_agents_s": round(median(walls), 2),
    }


def write_tools(stack: StackProcess, file: Path) -> None:
    """The tools that the gateway gives feature-dev."""
    assert stack.facts is not None
    client = GatewayClient(
        f"{stack.facts['urls']['gateway']}/mcp", (stack.data_dir / "secret").read_text(), timeout_s=30
    )
    listed = asyncio.run(client.list_tools(Caller("bench", "feature-dev")))
    tools = [{"name": one.name, "description": one.description, "schema": dict(one.input_schema)} for one in listed]
    file.write_text(json.dumps(tools))


def measure_peer(
    python: Path, peer: str, database: str, folder: Path, tools: Path, endpoint: dict[str, str], rounds: int
) -> dict[str, Any]:
    prompts = [f"THEIRS {n} steps." for _ in range(rounds) for n in (FEW, MANY)]
    command = [str(python), str(ROOT / "bench" / "agents_peers.py"), peer, "--folder", str(folder)]
    command += ["--tools", str(tools)]
    options = ["--url", endpoint["url"], "--key", endpoint["key"], "--model", endpoint["model"], "--database", database]
    done_ = subprocess.run([*command, *options, *prompts], capture_output=True, text=True, check=False)
    if done_.returncode:
        return {"problem": done_.stderr.strip().splitlines()[-1]}
    spent: list[float] = json.loads(done_.stdout)
    return {"step_cpu_ms": per_step(spent[::2], spent[1::2])}


def serve_endpoint(folder: Path) -> tuple[subprocess.Popen[str], dict[str, str]]:
    """In a process of its own, so that its CPU is nobody's."""
    script = folder / "script.json"
    script.write_text(json.dumps(rules()))
    env = clean_env(PYTHONPATH=f"{ROOT / 'src'}:{ROOT / 'tests'}")
    command = [sys.executable, "-m", "fakes.openai_server", "--script", str(script)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=env)
    assert process.stdout is not None
    return process, {"url": process.stdout.readline().strip(), "key": "test-key", "model": "fake-model"}


def peers(options: argparse.Namespace) -> Iterator[tuple[str, Path]]:
    if options.peers:
        yield from ((peer, options.peers) for peer in ("langgraph", "openai_agents"))
    if options.openhands:
        yield "openhands", options.openhands


def main(options: argparse.Namespace) -> dict[str, Any]:
    found: dict[str, Any] = {}
    with tempfile.TemporaryDirectory(prefix="dev-tools-bench-") as name:
        folder = Path(name)
        repo = make_repo(folder / "shop", FILES)
        process, endpoint = serve_endpoint(folder)
        env = clean_env(
            DEV_TOOLS_MODEL_BASE_URL=endpoint["url"],
            DEV_TOOLS_MODEL_API_KEY=endpoint["key"],
            DEV_TOOLS_MODEL=endpoint["model"],
            DEV_TOOLS_MAX_AGENT_TURNS="100",
        )
        try:
            with running_stack(folder / "data", env) as stack:
                found["ours"] = measure_ours(stack, repo, options.rounds)
                database = (stack.data_dir / "database_url").read_text().replace("+psycopg", "", 1)
                tools = folder / "tools.json"
                write_tools(stack, tools)
                for peer, python in peers(options):
                    print(json.dumps(found), file=sys.stderr, flush=True)
                    found[peer] = measure_peer(python, peer, database, repo, tools, endpoint, options.rounds)
        finally:
            process.terminate()
    return found


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--peers", type=Path, help="the Python of an environment that has the peers")
    parser.add_argument("--openhands", type=Path, help="the same for OpenHands' SDK, which needs Python 3.12")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    result = main(given)
    print(json.dumps(result, indent=2))
    if given.json:
        given.json.write_text(json.dumps(result, indent=2) + "\n")
