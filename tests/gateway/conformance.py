"""The official conformance suite through the gateway. `make conformance` runs it; it needs npm packages, once.

Both requirement sets, each against an upstream over HTTP of the same era, one of the other era, and one over stdio;
and the scenarios of the tasks extension, which no set requires, over HTTP and stdio. The suite sends no tokens, so a
wrapper here adds one; everything behind it is the product's own code.

    python tests/gateway/conformance.py [--tools FOLDER] [--only NAME]
"""

import argparse
import asyncio
import re
import shutil
import socket
import ssl
import subprocess
import sys
import tempfile
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
sys.path[:0] = [str(ROOT / "src"), str(ROOT / "tests")]

from devtools_platform.app.serving import Serving  # noqa: E402 - needs the path above
from devtools_platform.core.tools import Caller  # noqa: E402
from devtools_platform.gateway.api import NoAudit, build_api  # noqa: E402
from devtools_platform.gateway.audit import Audit  # noqa: E402
from devtools_platform.gateway.hub import Hub  # noqa: E402
from devtools_platform.gateway.secrecy import Secrets  # noqa: E402
from devtools_platform.gateway.trust import ToolLock  # noqa: E402
from devtools_platform.gateway.upstreams.connect import Connector  # noqa: E402
from devtools_platform.gateway.upstreams.types import ServerSpec  # noqa: E402
from devtools_platform.gateway.upstreams.upstream import Upstream  # noqa: E402
from devtools_platform.kit.tokens import issue_run_token  # noqa: E402
from gateway_rig import plain_gateway  # noqa: E402

FIXTURE = ROOT / "tests" / "fakes" / "everything.py"
SECRET = "conformance-0123456789abcdef0123456789"
SETS = {"2026-07-28": 37, "2025-11-25": 30}
NODE, SUITE = "node@22", "@modelcontextprotocol/conformance@0.2.0-alpha.12"
RUNS = {
    "same-era-2026-07-28": ("2026-07-28", "modern", "http"),
    "same-era-2025-11-25": ("2025-11-25", "legacy", "http"),
    "other-era-2026-07-28": ("2026-07-28", "legacy", "http"),
    "other-era-2025-11-25": ("2025-11-25", "modern", "http"),
    "stdio-2026-07-28": ("2026-07-28", "modern", "stdio"),
    "stdio-2025-11-25": ("2025-11-25", "modern", "stdio"),
    "stdio-legacy-2025-11-25": ("2025-11-25", "legacy", "stdio"),
    "stdio-legacy-2026-07-28": ("2026-07-28", "legacy", "stdio"),
}
EXTRA = {"stdio-legacy-2026-07-28"}
"""Run with --only: one child cannot know the capabilities of each of its callers, see docs/decisions/0010."""


LONG_WORK = FIXTURE.with_name("long_work.py")
TASK_RUNS = {"tasks-extension-http": "http", "tasks-extension-stdio": "stdio"}
TASK_SCENARIOS = {
    "tasks-lifecycle": 9,
    "tasks-capability-negotiation": 5,
    "tasks-wire-fields": 4,
    "tasks-request-state-removal": 3,
    "tasks-mrtr-input": 4,
    "tasks-request-headers": 5,
    "tasks-dispatch-and-envelope": 9,
    "tasks-required-task-error": 3,
    "tasks-mrtr-composition": 2,
}
"""Their checks. `tasks-status-notifications` has none yet in this version of the suite."""


class WithToken:
    """The suite knows no tokens."""

    def __init__(self, app: Any, token: str) -> None:
        self.app = app
        self.header = (b"authorization", f"Bearer {token}".encode())

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "http":
            scope = {**scope, "headers": [*scope["headers"], self.header]}
        await self.app(scope, receive, send)


def install(folder: Path) -> tuple[Path, Path]:
    """Node 22 and the suite, from npm, by name and version; installed once."""
    node = folder / "node_modules" / "node" / "bin" / "node"
    suite = folder / "node_modules" / "@modelcontextprotocol" / "conformance" / "dist" / "index.js"
    if not node.exists() or not suite.exists():
        npm = shutil.which("npm")
        if npm is None:
            sys.exit("The conformance suite needs npm on PATH.")
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "package.json").write_text("{}")
        subprocess.run([npm, "install", "--no-audit", "--no-fund", NODE, SUITE], cwd=folder, check=True)
    return node, suite


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        return probe.getsockname()[1]


@contextmanager
def fixture(command: Sequence[str], transport: str, **spec: Any) -> Iterator[ServerSpec]:
    """A server of the suite's tools, to be started by the gateway or, over HTTP, started here."""
    common: dict[str, Any] = {"description": "x", "agents": ("cicd",), "writes": "allow"}
    if transport == "stdio":
        yield ServerSpec(command=(sys.executable, *command, "--stdio"), **common, **spec)
        return
    port = free_port()
    process = subprocess.Popen([sys.executable, *command, "--port", str(port)])
    try:
        yield ServerSpec(url=f"http://127.0.0.1:{port}/mcp", allow_private=True, **common)
    finally:
        process.terminate()
        process.wait()


@asynccontextmanager
async def gateway_of(spec: ServerSpec, work: Path) -> AsyncIterator[str]:
    connector = Connector(work, {"PATH": "/usr/bin:/bin"}, {}, ssl.create_default_context(), {})
    upstream = Upstream("everything", spec, connector)
    lock = Trusting(work / "mcp.lock")
    gateway = plain_gateway()
    hub = Hub(gateway, [upstream], lock=lock, audit=Audit(NoAudit()), secrecy=Secrets(()), key=SECRET)
    app = build_api(gateway, token="rest", secret=SECRET, hub=hub)
    token = issue_run_token(SECRET, Caller("conformance", "cicd"))
    serving = Serving()
    sock = socket.create_server(("127.0.0.1", 0))
    sock.setblocking(False)
    await serving.serve(WithToken(app, token), sock)
    try:
        await until_ready(upstream)
        yield f"http://127.0.0.1:{sock.getsockname()[1]}/mcp/everything"
    finally:
        await serving.stop()
        sock.close()


async def run_suite(node: Path, suite: Path, work: Path, *arguments: str) -> str:
    process = await asyncio.create_subprocess_exec(
        str(node), str(suite), "server", *arguments,
        stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT, cwd=work,
    )  # fmt: skip
    return (await process.communicate())[0].decode()


async def run(name: str, node: Path, suite: Path, work: Path) -> tuple[int, int, str]:
    """(passed, scored, the suite's report) of one run."""
    requirements, era, transport = RUNS[name]
    protocol: Any = "2025-11-25" if era == "legacy" else "auto"
    spoken = {"protocol": protocol, "interactive": True}
    with fixture((str(FIXTURE), "--era", era), transport, **spoken) as spec:
        async with gateway_of(spec, work) as url:
            report = await run_suite(
                node, suite, work, "--url", url, "--requirements", requirements, "--output-dir", str(work / name)
            )
    return (*score(report), report)


async def run_tasks(name: str, node: Path, suite: Path, work: Path) -> tuple[int, int, str]:
    """(passed, made, the reports of those that failed) of all checks of the tasks extension."""
    passed = made = 0
    reports: list[str] = []
    with fixture((str(LONG_WORK),), TASK_RUNS[name]) as spec:
        async with gateway_of(spec, work) as url:
            for scenario, checks in TASK_SCENARIOS.items():
                report = await run_suite(node, suite, work, "--url", url, "--scenario", scenario)
                found = re.search(r"Passed: (\d+)/(\d+)", report)
                good, all_ = (int(found[1]), int(found[2])) if found else (0, 0)
                passed, made = passed + good, made + all_
                if not good == all_ == checks:
                    reports.append(report)
    return passed, made, "".join(reports)


class Trusting(ToolLock):
    """Approves everything: the suite's fixture changes its tools on purpose."""

    def verdict(self, *_: Any) -> str | None:
        return None


async def until_ready(upstream: Upstream) -> None:
    assert await upstream.ready(30), upstream.reason


def score(report: str) -> tuple[int, int]:
    """(passed, all) of the scenarios that count: those the summary lists and the not-scored list does not."""
    summary = report.partition("=== SUMMARY ===")[2]
    unscored = set(re.findall(r"^  [✓✗~] (\S+) \(", summary, re.MULTILINE))
    found = [
        (mark, name) for mark, name in re.findall(r"^([✓✗~]) (\S+): ", summary, re.MULTILINE) if name not in unscored
    ]
    return sum(mark == "✓" for mark, _ in found), len(found)


async def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("--tools", type=Path, default=ROOT / ".venv" / "conformance")
    parser.add_argument("--only", action="append")
    parser.add_argument("--verbose", action="store_true")
    options = parser.parse_args()
    node, suite = install(options.tools)
    failed = 0
    for name in options.only or [*(name for name in RUNS if name not in EXTRA), *TASK_RUNS]:
        of_tasks = name in TASK_RUNS
        with tempfile.TemporaryDirectory() as work:
            passed, scored, report = await (run_tasks if of_tasks else run)(name, node, suite, Path(work))
        wanted = sum(TASK_SCENARIOS.values()) if of_tasks else SETS[RUNS[name][0]]
        is_good = passed == scored == wanted
        failed += not is_good
        print(f"{'ok  ' if is_good else 'FAIL'} {name:28} {passed}/{scored} of {wanted}")
        if not is_good or options.verbose:
            print(report[-6000:])
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(asyncio.run(main()))
