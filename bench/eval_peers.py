"""The twenty small bugs for mini-swe-agent, at the endpoint the settings name: `make eval-peers`.

    python bench/eval_peers.py --peers PYTHON [--limit N] [--steps N] [--seconds S] [--minutes M] [--json FILE]

Beside it stands `make eval --agent feature-dev`: the same cases, the same endpoint, judged the same way (the tests
pass and are as they were). PYTHON is of an environment with `mini-swe-agent`. The peer runs what the model writes, so
it runs in bubblewrap: this machine read-only but for the repository, its network only for the endpoint.
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

from devtools_platform.app.models import ServedModel, choose_model, describe_model  # noqa: E402 - needs the path above
from devtools_platform.config import Settings, load_settings  # noqa: E402
from devtools_platform.kit.sandbox import find_sandbox  # noqa: E402
from evaluate import load_cases  # noqa: E402
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
            capture_output=True, text=True, check=False, timeout=options.seconds + 150,
        )  # fmt: skip
        used = (
            json.loads(done.stdout.strip().splitlines()[-1]) if done.returncode == 0 else {"ended": done.stderr[-300:]}
        )
    except subprocess.TimeoutExpired:
        used = {"ended": "timeout"}
    return {"name": case["name"], **used, "seconds": round(time.perf_counter() - began, 1)}


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
    bubblewrap = str(find_sandbox(settings.sandbox_program).bwrap)
    cases = [case for case in load_cases() if case["name"].startswith("fix-")][: options.limit]
    stop = time.perf_counter() + 60 * options.minutes
    rows: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory(prefix="dev-tools-peers-") as name:
        folder = Path(name)
        served = await choose_model(settings, folder, lambda _: None)
        try:
            for case in cases:
                if time.perf_counter() >= stop:
                    break
                repo = make_repo(folder / case["name"], case["base"])
                row = await asyncio.to_thread(run_case, options, served, bubblewrap, case, repo)
                row["solved"] = await asyncio.to_thread(is_solved, bubblewrap, options.peers, case, repo)
                rows.append(row)
                print(json.dumps(row), file=sys.stderr, flush=True)
                if options.json:
                    options.json.write_text(json.dumps(summarise(served, rows, len(cases)), indent=2) + "\n")
        finally:
            if served.server is not None:
                await served.server.stop()
    return summarise(served, rows, len(cases))


def summarise(served: ServedModel, rows: list[dict[str, Any]], planned: int) -> dict[str, Any]:
    def total(name: str) -> int | None:
        """None where a case did not say."""
        values = [row.get(name) for row in rows]
        return None if any(value is None for value in values) else sum(values)

    return {
        "model": describe_model(served),
        "planned": planned,
        "ran": len(rows),
        "solved": sum(row["solved"] for row in rows),
        "calls": total("calls"),
        "prompt_tokens": total("prompt_tokens"),
        "completion_tokens": total("completion_tokens"),
        "seconds": round(sum(row["seconds"] for row in rows), 1),
        "cases": rows,
    }


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--peers", type=Path, required=True, help="the Python of an environment with mini-swe-agent")
    parser.add_argument("--limit", type=int)
    parser.add_argument("--steps", type=int, default=10)
    parser.add_argument("--seconds", type=int, default=150)
    parser.add_argument("--minutes", type=float, default=math.inf)
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    found = asyncio.run(main(given, load_settings()))
    print(json.dumps({name: value for name, value in found.items() if name != "cases"}, indent=2))
