"""The official conformance suite through the gateway. `make conformance` runs it; it needs npm packages, once.

Six runs: both requirement sets, each against an upstream over HTTP of the same era, one of the other era, and one
over stdio. The suite sends no tokens, so a wrapper here adds one; everything behind it is the product's own code.

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


def start_fixture(era: str, port: int) -> subprocess.Popen[bytes]:
    return subprocess.Popen([sys.executable, str(FIXTURE), "--era", era, "--port", str(port)])


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        return probe.getsockname()[1]


async def run(name: str, node: Path, suite: Path, work: Path) -> tuple[int, int, str]:
    """(passed, scored, the suite's report) of one run."""
    requirements, era, transport = RUNS[name]
    fixture: subprocess.Popen[bytes] | None = None
    if transport == "http":
        port = free_port()
        fixture = start_fixture(era, port)
        spec = ServerSpec(description="x", url=f"http://127.0.0.1:{port}/mcp", allow_private=True, agents=("cicd",))
    else:
        command = (sys.executable, str(FIXTURE), "--era", era, "--stdio")
        protocol: Any = "2025-11-25" if era == "legacy" else "auto"
        spec = ServerSpec(description="x", command=command, protocol=protocol, interactive=True, agents=("cicd",))
    spec = spec.model_copy(update={"writes": "allow"})
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
        url = f"http://127.0.0.1:{sock.getsockname()[1]}/mcp/everything"
        process = await asyncio.create_subprocess_exec(
            str(node), str(suite), "server", "--url", url, "--requirements", requirements,
            "--output-dir", str(work / name),
            stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT, cwd=work,
        )  # fmt: skip
        report = (await process.communicate())[0].decode()
    finally:
        await serving.stop()
        sock.close()
        if fixture is not None:
            fixture.terminate()
            fixture.wait()
    return (*score(report), report)


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
    for name in options.only or [name for name in RUNS if name not in EXTRA]:
        with tempfile.TemporaryDirectory() as work:
            passed, scored, report = await run(name, node, suite, Path(work))
        wanted = SETS[RUNS[name][0]]
        is_good = passed == scored == wanted
        failed += not is_good
        print(f"{'ok  ' if is_good else 'FAIL'} {name:28} {passed}/{scored} of {wanted}")
        if not is_good or options.verbose:
            print(report[-6000:])
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(asyncio.run(main()))
