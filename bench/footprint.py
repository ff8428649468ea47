"""How much memory each process of a stack holds, at rest and after a task: embedded in one process, and apart.

Proportional set size (a page shared by several processes counts in parts), summed over a service's process tree, from
/proc/PID/smaps_rollup. Compared with the budgets below; together they must fit a droplet of 2 GB. Needs no network.

    python bench/footprint.py [--json FILE] [--image NAME]     --image: also the size of that Docker image
"""

import argparse
import json
import secrets
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import psutil

ROOT = Path(__file__).parents[1]
sys.path[:0] = [str(ROOT / "src"), str(ROOT / "tests")]

from devtools_platform.agents.adapters.scripted import Script  # noqa: E402 - needs the path above
from devtools_platform.app.demo import FILES, TASK  # noqa: E402
from devtools_platform.kit.process import free_port  # noqa: E402
from e2e import scenarios  # noqa: E402
from fakes.openai_server import FakeOpenAI  # noqa: E402
from stacks import StackProcess, clean_env, make_repo, remove_cluster  # noqa: E402

BUDGET_MB = {
    "gateway": 110,
    "context": 150,
    "state": 130,
    "agents": 210,
    "worker": 210,
    "console": 150,
    "PostgreSQL": 150,
}
"""Of each process tree, in MB of proportional set size: what is aimed at."""
OTHERS_MB = {"Qdrant": 200, "Prometheus": 150, "Alertmanager": 40, "Caddy": 50}
"""What compose.yaml adds: what we count on, not measured here."""
DROPLET_MB = 2048
SYSTEM_MB = 250
"""A Debian with a Docker engine: what we count on."""
SERVICES = ("gateway", "context", "state", "agents", "console")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--image")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="dt-foot-") as folder, FakeOpenAI(Script.parse(scenarios.RULES)) as model:
        Path(folder).chmod(0o755)
        env = {
            "DEV_TOOLS_MODEL_BASE_URL": model.base_url,
            "DEV_TOOLS_MODEL_API_KEY": str(model.api_key),
            "DEV_TOOLS_MODEL": model.models[0],
        }
        found: dict[str, Any] = {"embedded": measure_embedded(Path(folder), env)}
        found["apart"] = measure_apart(Path(folder), env)
    if given.image:
        found["image_mb"] = image_mb(given.image)
    report(found)
    if given.json:
        given.json.write_text(json.dumps(found, indent=2))


def measure_embedded(folder: Path, env: dict[str, str]) -> dict[str, dict[str, float]]:
    stack = StackProcess(folder / "embedded", clean_env(**env))
    stack.start()
    try:
        rest = {"stack with PostgreSQL and index": tree_mb(stack)}
        stack.run_task(TASK, make_repo(folder / "shop-1", FILES))
        return {"rest": rest, "after a task": {"stack with PostgreSQL and index": tree_mb(stack)}}
    finally:
        stack.stop()
        remove_cluster(folder / "embedded")


def measure_apart(folder: Path, env: dict[str, str]) -> dict[str, dict[str, float]]:
    with postgres(folder) as (url, server), ExitStack() as cleanup:
        ports = {name: free_port("127.0.0.1") for name in SERVICES}
        shared = clean_env(
            DATABASE_URL=url,
            DEV_TOOLS_STACK_TOKEN=secrets.token_hex(16),
            DEV_TOOLS_STACK_SECRET=secrets.token_hex(16),
            DEV_TOOLS_WORKSPACES_DIR=str(folder / "workspaces"),
            **{f"DEV_TOOLS_{name.upper()}_PORT": str(port) for name, port in ports.items()},
            **{f"DEV_TOOLS_{name.upper()}_URL": f"http://127.0.0.1:{port}" for name, port in ports.items()},
        )
        running: dict[str, StackProcess] = {}
        for name in (*SERVICES, "worker"):
            more = env if name in {"agents", "worker"} else {}
            running[name] = StackProcess(folder / name, {**shared, **more}, has_own_ports=True, only=name)
            running[name].start()
            cleanup.callback(running[name].stop)
        (folder / "state" / "token").write_text(shared["DEV_TOOLS_STACK_TOKEN"])

        def look() -> dict[str, float]:
            return {**{name: tree_mb(one) for name, one in running.items()}, "PostgreSQL": pss_mb(server)}

        rest = look()
        running["state"].run_task(TASK, make_repo(folder / "shop-2", FILES))
        return {"rest": rest, "after a task": look()}


@contextmanager
def postgres(folder: Path) -> Iterator[tuple[str, psutil.Process]]:
    """The embedded server alone, as the container of PostgreSQL is."""
    import asyncio

    from devtools_platform.state.adapters.embedded_postgres import EmbeddedPostgres

    with tempfile.TemporaryDirectory(prefix="dt-foot-pg-") as root:
        Path(root).chmod(0o711)
        before = {child.pid for child in psutil.Process().children()}
        server = EmbeddedPostgres(folder / "server", service_root=Path(root))
        url = asyncio.run(server.start(lambda _: None))
        (child,) = [one for one in psutil.Process().children() if one.pid not in before]
        try:
            yield url, child
        finally:
            asyncio.run(server.stop())


def tree_mb(stack: StackProcess) -> float:
    assert stack.process is not None
    return pss_mb(psutil.Process(stack.process.pid))


def pss_mb(process: psutil.Process) -> float:
    total = 0
    for one in [process, *process.children(recursive=True)]:
        lines = Path(f"/proc/{one.pid}/smaps_rollup").read_text().splitlines()
        total += next(int(line.split()[1]) for line in lines if line.startswith("Pss:"))
    return round(total / 1024, 1)


def image_mb(name: str) -> float:
    argv = ["docker", "image", "inspect", "--format", "{{.Size}}", name]
    done = subprocess.run(argv, capture_output=True, text=True, check=True)
    return round(int(done.stdout) / 1e6, 1)


def report(found: dict[str, Any]) -> None:
    for way, moments in (("embedded", found["embedded"]), ("apart", found["apart"])):
        for moment, sizes in moments.items():
            print(f"{way}, {moment}: {sum(sizes.values()):.0f} MB")
            for name, size in sizes.items():
                budget = BUDGET_MB.get(name)
                over = "" if budget is None else f"  of {budget}" + ("  OVER" if size > budget else "")
                print(f"  {name:<32} {size:7.1f}{over}")
    together = sum(found["apart"]["after a task"].values()) + sum(OTHERS_MB.values()) + SYSTEM_MB
    print(f"compose with {', '.join(OTHERS_MB)} and the system: {together:.0f} MB of {DROPLET_MB}")
    if "image_mb" in found:
        print(f"image: {found['image_mb']:.0f} MB")


if __name__ == "__main__":
    main()
