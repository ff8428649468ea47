"""The twenty small bugs for ours and for mini-swe-agent, in turns, at the endpoint the settings name.

    make eval-peers
    python bench/eval_peers.py --peers PYTHON [--skip N] [--cases N] [--steps N] [--seconds S]
        [--minutes M] [--json FILE]

Each case is given to both before the next one begins, with the same words, the same running endpoint and the same
time; both are judged the same way (the tests pass and are as they were). `--cases N` takes the first N, `--minutes`
begins none after so long: what was not begun is not counted, and another run may go on there (`--skip N`). PYTHON is
of an environment with `mini-swe-agent`. The peer runs what the model writes, so it runs in bubblewrap: this machine
read-only but for the repository, its network only for the endpoint.
"""

import argparse
import asyncio
import json
import math
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
sys.path[:0] = [str(ROOT / "bench"), str(ROOT / "tests"), str(ROOT / "src")]

from devtools_platform.app.ledger import Pricing  # noqa: E402 - needs the path above
from devtools_platform.app.models import ServedModel, choose_model, describe_model  # noqa: E402
from devtools_platform.config import Settings, load_settings  # noqa: E402
from devtools_platform.kit.sandbox import Bubblewrap, find_sandbox  # noqa: E402
from devtools_platform.observability.prices import load_prices  # noqa: E402
from evaluate import Result, carry_out, load_cases, total  # noqa: E402
from evaluation.crew import BareCrew  # noqa: E402
from stacks import make_repo  # noqa: E402


def boxed(bubblewrap: str, repo: Path, peers: Path, command: list[str]) -> list[str]:
    environment, base = peers.parents[1], str(peers.resolve().parents[1])
    return [
        bubblewrap, "--ro-bind", "/", "/", "--dev", "/dev", "--proc", "/proc", "--tmpfs", "/tmp", "--tmpfs", "/root",
        "--ro-bind", str(environment), str(environment), "--ro-bind", base, base,
        "--ro-bind", str(ROOT / "bench"), "/tmp/bench",
        "--bind", str(repo), str(repo), "--chdir", str(repo), "--unshare-pid", "--unshare-ipc", "--die-with-parent",
        "--clearenv", "--setenv", "PATH", f"{environment}/bin:/usr/bin:/bin", "--setenv", "HOME", "/tmp",
        "--setenv", "MSWEA_SILENT_STARTUP", "1", "--setenv", "PYTHONDONTWRITEBYTECODE", "1", *command,
    ]  # fmt: skip


def run_case(
    options: argparse.Namespace, served: ServedModel, bubblewrap: str, case: dict[str, Any], repo: Path
) -> Any:
    assert served.endpoint is not None
    key = served.endpoint.api_key.get_secret_value() if served.endpoint.api_key else "none"
    limits = ["--steps", str(options.steps), "--seconds", str(options.seconds)]
    command = [
        str(options.peers), "/tmp/bench/eval_peers_mini.py", "--url", str(served.endpoint.base_url), "--key", key,
        "--model", served.endpoint.model, *limits, "--folder", str(repo), case["goal"],
    ]  # fmt: skip
    began = time.perf_counter()
    try:
        done = subprocess.run(
            boxed(bubblewrap, repo, options.peers, command),
            capture_output=True, text=True, check=False, timeout=options.seconds + 60,
        )  # fmt: skip
        used = (
            json.loads(done.stdout.strip().splitlines()[-1]) if done.returncode == 0 else {"ended": done.stderr[-300:]}
        )
    except subprocess.TimeoutExpired:
        used = {"ended": "timeout"}
    return {**used, "seconds": round(time.perf_counter() - began, 1)}


def is_solved(bubblewrap: str, peers: Path, case: dict[str, Any], repo: Path) -> bool:
    for path, text in case["base"].items():
        if path.startswith("test") and (repo / path).read_text() != text:
            return False
    test = [str(peers), "-m", "unittest", "-q"]
    try:
        done = subprocess.run(boxed(bubblewrap, repo, peers, test), capture_output=True, check=False, timeout=60)
    except subprocess.TimeoutExpired:
        return False
    return done.returncode == 0


async def main(options: argparse.Namespace, settings: Settings) -> dict[str, Any]:
    options.peers = options.peers.absolute()
    settings = settings.model_copy(
        update={"model_timeout_s": options.seconds}
    )  # as the peer: a slow machine is no fault
    bubblewrap = str(find_sandbox(Bubblewrap(settings.sandbox_program)).program)
    cases = [case for case in load_cases() if case["name"].startswith("fix-")][options.skip : options.cases]
    stop = time.perf_counter() + 60 * options.minutes
    rows: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory(prefix="dev-tools-peers-") as name:
        folder = Path(name)
        (folder / "workspaces").mkdir()
        served = await choose_model(settings, folder, lambda _: None)
        try:
            pricing = Pricing(served, load_prices(settings.prices))
            crew = BareCrew(settings, served, folder / "workspaces")
            for place, case in enumerate(cases):
                if time.perf_counter() >= stop:
                    break
                ours = as_row(await carry_out(crew, case, place, options.seconds, folder))
                theirs = await ask_mini(options, served, bubblewrap, case, folder, pricing)
                rows.append({"name": case["name"], "ours": ours, "mini-swe-agent": theirs})
                print(json.dumps(rows[-1]), file=sys.stderr, flush=True)
                if options.json:
                    options.json.write_text(json.dumps(summarise(served, rows, len(cases)), indent=2) + "\n")
        finally:
            if served.server is not None:
                await served.server.stop()
    return summarise(served, rows, len(cases))


def as_row(result: Result) -> dict[str, Any]:
    """What ours came to, in the words of the peer's row."""
    meter = result.meter
    cost = None if meter.cost_usd is None else float(meter.cost_usd)
    return {
        "ended": result.problem or "done",
        "calls": meter.calls,
        "prompt_tokens": meter.input_tokens,
        "completion_tokens": meter.output_tokens,
        "cost_usd": cost,
        "seconds": round(result.seconds, 1),
        "solved": not result.problem,
    }


async def ask_mini(
    options: argparse.Namespace, served: ServedModel, bubblewrap: str, case: Any, folder: Path, pricing: Pricing
) -> dict[str, Any]:
    repo = make_repo(folder / "mini" / case["name"], case["base"])
    row = await asyncio.to_thread(run_case, options, served, bubblewrap, case, repo)
    tokens = row.get("prompt_tokens"), row.get("completion_tokens")
    cost = None if None in tokens else pricing.price(*tokens, 0)[0]
    solved = await asyncio.to_thread(is_solved, bubblewrap, options.peers, case, repo)
    return {**row, "cost_usd": None if cost is None else float(cost), "solved": solved}


def summarise(served: ServedModel, rows: list[dict[str, Any]], planned: int) -> dict[str, Any]:
    sides = {side: add_up([row[side] for row in rows]) for side in ("ours", "mini-swe-agent")}
    return {"model": describe_model(served), "planned": planned, "ran": len(rows), **sides, "cases": rows}


def add_up(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """Sums over all cases, failed ones too: a success costs what was spent until it came. None is unknown."""
    names = ("calls", "prompt_tokens", "completion_tokens", "cost_usd")
    sums = {name: total([row.get(name) for row in rows]) for name in names}
    solved = sum(row["solved"] for row in rows)
    tokens = total([sums["prompt_tokens"], sums["completion_tokens"]])

    def per_success(value: float | None) -> float | None:
        return None if value is None or not solved else round(value / solved, 6)

    return {
        "solved": solved,
        **sums,
        "seconds": round(sum(row["seconds"] for row in rows), 1),
        "tokens_per_success": per_success(tokens),
        "cost_per_success_usd": per_success(sums["cost_usd"]),
    }


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--peers", type=Path, required=True, help="the Python of an environment with mini-swe-agent")
    parser.add_argument("--skip", type=int, default=0, help="not the first N")
    parser.add_argument("--cases", type=int, help="only the first N")
    parser.add_argument("--steps", type=int, default=16, help="model calls the peer may make for a case")
    parser.add_argument("--seconds", type=int, default=600, help="for a case, each side")
    parser.add_argument("--minutes", type=float, default=math.inf, help="begin no case after so long")
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    found = asyncio.run(main(given, load_settings()))
    print(json.dumps({name: value for name, value in found.items() if name != "cases"}, indent=2))
