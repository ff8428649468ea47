"""What the gateway costs a call, beside its peers, in the same run: CPU of each process by /proc, latency by wrk.

The upstream is a hand-written server that answers at once, so that what is between it and wrk dominates. Ours runs
as the product: uvloop and httptools, tokens, policy, audit into PostgreSQL, metrics and spans on. `echo` and `passing`
are what such a process cannot cost less than: its server, and its server with the connection to the upstream. Peers
come from PyPI into an environment of their own under bench's cache folder; wrk must be on PATH (Debian: `apt-get
install wrk`).

    python bench/gateway.py [--seconds 5] [--rounds 3] [--only NAME]

A shared machine's speed changes by the minute: every round measures all rows, and medians over the rounds are printed.
"""

import argparse
import asyncio
import contextlib
import json
import os
import re
import shutil
import signal
import socket
import ssl
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Generator
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
sys.path[:0] = [str(ROOT / "src"), str(ROOT / "tests")]

SECRET = "bench-0123456789abcdef0123456789abcdef"
PEERS = {
    "fastmcp": "fastmcp==4.1.2",
    "mcp-proxy": "mcp-proxy==0.13.0",
    "contextforge": "mcp-contextforge-gateway==1.1.0",
}
"""Each in an environment of its own: they need different releases of the SDK, the last one Python 3.12."""
META = {
    "io.modelcontextprotocol/protocolVersion": "2026-07-28",
    "io.modelcontextprotocol/clientCapabilities": {},
    "io.modelcontextprotocol/clientInfo": {"name": "wrk", "version": "1"},
}
PARAMS = {"name": "echo", "arguments": {"text": "hello, upstream"}}
STDIO = f"{sys.executable} -S {ROOT / 'tests' / 'fakes' / 'misbehaving.py'}"
"""A server over stdio for the peer that serves nothing else; its own CPU is not counted."""
TICK = os.sysconf("SC_CLK_TCK")
HERE = [sys.executable, str(Path(__file__)), "--serve"]


# The programs that are measured, each started by this file in a process of its own


def upstream(port: int) -> None:
    """Answers at once, in both eras."""
    import uvicorn

    text = {"resultType": "complete", "content": [{"type": "text", "text": "hello, upstream"}], "isError": False}
    tool = {"name": "echo", "description": "Echo.", "inputSchema": {"type": "object"}}
    complete = {"resultType": "complete", "ttlMs": 0, "cacheScope": "public"}
    results: dict[str, Any] = {
        "server/discover": {"supportedVersions": ["2026-07-28"], "capabilities": {"tools": {}}, **complete},
        "initialize": {"protocolVersion": "2025-11-25", "capabilities": {"tools": {}},
                       "serverInfo": {"name": "bench", "version": "1"}},
        "tools/list": {**complete, "tools": [tool]},
        "tools/call": text,
    }  # fmt: skip
    many = int(os.environ.get("BENCH_TOOLS", "1"))
    more = [{**tool, "name": f"tool_{n}", "description": f"Tool number {n} of many." * 5} for n in range(many - 1)]
    results["tools/list"]["tools"] = [tool, *more]
    bodies = {method: json.dumps(result).encode() for method, result in results.items()}
    import msgspec

    class Head(msgspec.Struct):
        method: str
        id: int | str | None = None

    decode = msgspec.json.Decoder(Head).decode

    async def app(scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] != "http":
            return
        message = await receive()
        status, body = 405, b""
        if scope["method"] == "POST":
            head = decode(message["body"])
            result = bodies.get(head.method)
            if head.id is None:
                status = 202
            elif result is None:
                status, body = 404, b'{"jsonrpc":"2.0","id":%d,"error":{"code":-32601,"message":"no"}}' % head.id
            else:
                status = 200
                body = b'{"jsonrpc":"2.0","id":' + json.dumps(head.id).encode() + b',"result":' + result + b"}"
        headers = [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(body))]
        await send({"type": "http.response.start", "status": status, "headers": headers})
        await send({"type": "http.response.body", "body": body})

    uvicorn.run(app, host="127.0.0.1", port=port, log_level="error", access_log=False, lifespan="off")


def ours(port: int, up: str, url: str) -> None:
    """The product's gateway, everything on."""
    from devtools_platform.app.grants import ApprovalGrants
    from devtools_platform.gateway.adapters.audit_log import SqlAudit
    from devtools_platform.gateway.adapters.call_records import SqlCallRecords
    from devtools_platform.gateway.api import build_api, load_policy
    from devtools_platform.gateway.audit import Audit
    from devtools_platform.gateway.hub import Hub
    from devtools_platform.gateway.secrecy import Secrets
    from devtools_platform.gateway.service import Gateway
    from devtools_platform.gateway.trust import ToolLock
    from devtools_platform.gateway.upstreams.connect import Connector
    from devtools_platform.gateway.upstreams.types import ServerSpec
    from devtools_platform.gateway.upstreams.upstream import Upstream
    from devtools_platform.kit.database import connect
    from devtools_platform.observability.adapters.sql import SqlSpanStore
    from devtools_platform.observability.service import Tracing
    from devtools_platform.observability.spans import Origin
    from devtools_platform.state.adapters.dbos.control import DbosControl
    from devtools_platform.state.approvals import ApprovalDesk
    from devtools_platform.state.rules import load_rules

    store = connect(url)
    Tracing(SqlSpanStore(store), Origin("test", "bench", None))
    place: dict[str, Any] = {"url": up, "allow_private": True} if up.startswith("http") else {"command": up.split()}
    spec = ServerSpec.model_validate({"description": "x", "agents": ("cicd",), "writes": "allow", **place})
    connector = Connector(Path(tempfile.mkdtemp()), {"PATH": "/usr/bin:/bin"}, {}, ssl.create_default_context(), {})
    server = Upstream("up", spec, connector)
    lock = ToolLock(Path(tempfile.mkdtemp()) / "mcp.lock")
    grants = ApprovalGrants(ApprovalDesk(store, DbosControl(store)))
    gateway = Gateway(
        [], load_policy(), SqlCallRecords(store), rules=load_rules(None), grants=grants, environment="test"
    )
    hub = Hub(gateway, [server], lock=lock, audit=Audit(SqlAudit(store)), secrecy=Secrets([SECRET]), key=SECRET)
    changed = server.on_change

    def approve(upstream: Upstream) -> None:
        changed(upstream)
        if held := {q.tool: q.digest for q in hub.offer.quarantine.values()}:
            hub.offer.approve_tools("up", held, accept_findings=True)

    server.on_change = approve
    app = build_api(gateway, token="rest", secret=SECRET, hub=hub)
    serve(app, port)


def serve(app: Any, port: int) -> None:
    """As the product's services are."""
    import uvicorn

    from devtools_platform.app.serving import bind, http_config

    uvicorn.Server(http_config(app)).run(sockets=[bind("127.0.0.1", port, "")])


def echo(port: int) -> None:
    """The server alone: the floor of whatever answers behind it."""
    body = json.dumps({"jsonrpc": "2.0", "id": 1, "result": {"content": [{"type": "text", "text": "hello, upstream"}]}})

    async def app(scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "http":
            await receive()
            await answer(send, body.encode())

    serve(Alive(app), port)


def passing(port: int, up: str) -> None:
    """The server and the upstream connection with nothing between them: the floor of any gateway made of the two."""
    from devtools_platform.gateway.upstreams.addresses import parse_target
    from devtools_platform.gateway.upstreams.http_client import HttpClient

    found: list[HttpClient] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] != "http":
            return
        if not found:
            found.append(HttpClient(parse_target(up), tls=None, allow_private=True))
        message = await receive()
        headers = {"content-type": "application/json", "accept": "application/json, text/event-stream"}
        reply = await found[0].send("POST", headers, message["body"], max_bytes=1_000_000)
        await answer(send, await reply.body())

    serve(Alive(app), port)


async def answer(send: Any, body: bytes) -> None:
    headers = [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(body))]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": body})


class Alive:
    """An app that has a beginning and an end, as the server asks."""

    def __init__(self, app: Any) -> None:
        self.app = app

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] != "lifespan":
            await self.app(scope, receive, send)
            return
        for phase in ("startup", "shutdown"):
            await receive()
            await send({"type": f"lifespan.{phase}.complete"})


FASTMCP = """
import sys
from fastmcp.server import create_proxy
create_proxy(sys.argv[2]).run(transport="http", host="127.0.0.1", port=int(sys.argv[1]), log_level="ERROR",
    show_banner=False, stateless_http=True, json_response=True)
"""


def contextforge(folder: Path) -> dict[str, str]:
    """ContextForge's settings: signed tokens as its own program makes them, no sessions, no console, no limits."""
    password = "Bench-" + SECRET  # it refuses weak ones
    return {
        "DATABASE_URL": f"sqlite:///{folder / 'contextforge.db'}",
        "CACHE_TYPE": "memory",
        "JWT_SECRET_KEY": SECRET,
        "AUTH_ENCRYPTION_SECRET": SECRET,
        **dict.fromkeys(("BASIC_AUTH_PASSWORD", "PLATFORM_ADMIN_PASSWORD", "DEFAULT_USER_PASSWORD"), password),
        "PLATFORM_ADMIN_EMAIL": "admin@example.com",
        "USE_STATEFUL_SESSIONS": "false",
        "JSON_RESPONSE_ENABLED": "true",
        "LOG_LEVEL": "ERROR",
        **dict.fromkeys(("SSRF_ALLOW_LOCALHOST", "SSRF_ALLOW_PRIVATE_NETWORKS"), "true"),
        **dict.fromkeys(("MCPGATEWAY_UI_ENABLED", "MCPGATEWAY_ADMIN_API_ENABLED", "RATELIMITING_ENABLED"), "false"),
        "TOOL_RATE_LIMIT": "100000000",
    }


def enter_contextforge(python: Path, port: int, target: str) -> str:
    """A token of its administrator, with whom the upstream is registered as `up`."""
    make = ["-m", "mcpgateway.utils.create_jwt_token", "--username", "admin@example.com", "--admin", "--exp", "1000"]
    with tempfile.TemporaryDirectory() as folder:
        env = {**os.environ, **contextforge(Path(folder))}
        command = [str(python), *make, "--secret", SECRET]
        token = subprocess.run(command, capture_output=True, text=True, check=True, env=env).stdout.split()[-1]
    server = json.dumps({"name": "up", "url": target, "transport": "STREAMABLEHTTP"}).encode()
    headers = {"Authorization": f"Bearer {token}", "Content-Type": "application/json"}
    request = urllib.request.Request(f"http://127.0.0.1:{port}/gateways", server, headers)
    with urllib.request.urlopen(request, timeout=60):
        return token


# Measuring


class Measured:
    def __init__(self, process: subprocess.Popen[bytes]) -> None:
        self.process = process

    def cpu_s(self) -> float:
        fields = Path(f"/proc/{self.process.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / TICK

    def rss_mb(self) -> float:
        return int(re.findall(r"VmRSS:\s+(\d+)", Path(f"/proc/{self.process.pid}/status").read_text())[0]) / 1024


@contextlib.contextmanager
def running(argv: list[str], port: int, **env: str) -> Generator[Measured]:
    process = subprocess.Popen(
        argv,
        env={**os.environ, "PYTHONPATH": str(ROOT / "src"), **env},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    try:
        for _ in range(600):
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 0.2):
                break
            assert process.poll() is None, f"{argv} ended"
            time.sleep(0.1)
        time.sleep(1.5)
        yield Measured(process)
    finally:
        os.killpg(process.pid, signal.SIGTERM)
        process.wait()


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        return probe.getsockname()[1]


def script(folder: Path, name: str, token: str | None, tool: str) -> Path:
    era = "2025-11-25" if name == "mcp-proxy" else "2026-07-28"
    meta = {} if name == "mcp-proxy" else {"_meta": META}
    body = json.dumps({"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": {**PARAMS, "name": tool, **meta}})
    headers = {
        "Content-Type": "application/json",
        "Accept": "application/json, text/event-stream",
        "MCP-Protocol-Version": era,
        "Mcp-Method": "tools/call",
        "Mcp-Name": tool,
        **({"Authorization": f"Bearer {token}"} if token else {}),
    }
    lines = [f"wrk.method = 'POST'\nwrk.body = [==[{body}]==]"]
    lines += [f"wrk.headers['{key}'] = '{value}'" for key, value in headers.items()]
    lines.append(
        "bad = 0\nfunction response(status, headers, body)\n"
        "  if status ~= 200 or not string.find(body, 'hello, upstream', 1, true) then bad = bad + 1 end\nend\n"
        "local threads = {}\nfunction setup(thread) table.insert(threads, thread) end\n"
        "function done(summary, latency, requests)\n  local wrong = 0\n"
        "  for _, t in ipairs(threads) do wrong = wrong + t:get('bad') end\n"
        "  io.write(string.format('RESULT %d %d %d %d\\n', summary.requests, wrong,"
        " latency:percentile(50), latency:percentile(99)))\nend"
    )
    path = folder / f"{name}.lua"
    path.write_text("\n".join(lines))
    return path


def wrk(url: str, lua: Path, width: int, seconds: int) -> dict[str, float]:
    command = ["wrk", "-t1", f"-c{width}", f"-d{seconds}s", "--timeout", "30s", "-s", str(lua), url]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    count, wrong, p50, p99 = map(int, re.findall(r"RESULT (\d+) (\d+) (\d+) (\d+)", done.stdout)[0])
    return {"calls": count, "wrong": wrong, "per_s": count / seconds, "p50_ms": p50 / 1000, "p99_ms": p99 / 1000}


def measure(name: str, url: str, server: Measured, lua: Path, seconds: int) -> dict[str, Any]:
    wrk(url, lua, 4, 2)
    found: dict[str, Any] = {"name": name}
    for width in (1, 32):
        before = server.cpu_s()
        result = wrk(url, lua, width, seconds)
        result["cpu_ms"] = (server.cpu_s() - before) * 1000 / max(1, result["calls"])
        found[f"c{width}"] = {key: round(value, 3) for key, value in result.items()}
    found["rss_mb"] = round(server.rss_mb(), 1)
    print(json.dumps(found))
    return found


def print_medians(found: dict[str, list[dict[str, Any]]]) -> None:
    for name, rounds in found.items():
        row: dict[str, Any] = {"median_of": len(rounds), "name": name}
        for width in ("c1", "c32"):
            row[width] = {
                key: statistics.median(r[width][key] for r in rounds) for key in ("cpu_ms", "p50_ms", "p99_ms")
            }
        row["rss_mb"] = statistics.median(r["rss_mb"] for r in rounds)
        print(json.dumps(row))


def peer(cache: Path, name: str) -> Path:
    """The interpreter of a peer's environment, made on first use."""
    python = cache / name / "bin" / "python"
    if not python.exists():
        interpreter = "python3.12" if name == "contextforge" else sys.executable
        subprocess.run([interpreter, "-m", "venv", str(python.parents[1])], check=True)
        subprocess.run([str(python), "-m", "pip", "install", "-q", PEERS[name], "uvloop", "httptools"], check=True)
    return python


async def postgres(folder: Path) -> Any:
    from devtools_platform.state.adapters.embedded_postgres import EmbeddedPostgres

    server = EmbeddedPostgres(folder, service_root=folder.parent)
    return server, await server.start(lambda _: None)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--seconds", type=int, default=5)
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--only", action="append")
    parser.add_argument("--cache", type=Path, default=Path(tempfile.gettempdir()) / "dev-tools-bench")
    parser.add_argument("--serve", nargs="+")
    options = parser.parse_args()
    if options.serve:
        kind, port, *rest = options.serve
        {"upstream": upstream, "ours": ours, "echo": echo, "passing": passing}[kind](int(port), *rest)
        return
    if shutil.which("wrk") is None:
        sys.exit("wrk is not on PATH (Debian: apt-get install wrk).")
    from devtools_platform.kit.database import connect, migrate

    folder = Path(tempfile.mkdtemp(prefix="dev-tools-bench-"))
    folder.chmod(0o711)
    database, url = asyncio.run(postgres(folder / "pg"))
    engine = connect(url)
    migrate(engine)
    engine.dispose()
    try:
        measured = measure_rows(options, folder, url)
    finally:
        asyncio.run(database.stop())
        shutil.rmtree(folder, ignore_errors=True)
    if options.rounds > 1:
        print_medians(measured)


def measure_rows(options: argparse.Namespace, folder: Path, database_url: str) -> dict[str, list[dict[str, Any]]]:
    """Row -> what each round found."""
    wanted = options.only or [
        "direct",
        "echo",
        "passing",
        "ours",
        "ours-1000-tools",
        "fastmcp",
        *(["contextforge"] if shutil.which("python3.12") else []),
        "ours-stdio",
        "mcp-proxy",
    ]
    up = free_port()
    target = f"http://127.0.0.1:{up}/mcp"
    found: dict[str, list[dict[str, Any]]] = {name: [] for name in wanted}
    for many in ("1", "1000") * options.rounds:
        names = [name for name in wanted if (name == "ours-1000-tools") == (many == "1000")]
        if not names:
            continue
        with running([*HERE, "upstream", str(up)], up, BENCH_TOOLS=many) as server:
            for name in names:
                lua = script_for(name, folder)
                if name == "direct":
                    found[name].append(measure(name, target, server, lua, options.seconds))
                    continue
                port = free_port()
                command = command_of(name, port, target, database_url, options.cache)
                with running(command, port, **(contextforge(folder) if name == "contextforge" else {})) as gateway:
                    if name == "contextforge":
                        lua = script(folder, name, enter_contextforge(Path(command[0]), port, target), "up-echo")
                    found[name].append(measure(name, f"http://127.0.0.1:{port}/mcp", gateway, lua, options.seconds))
    return found


def script_for(name: str, folder: Path) -> Path:
    from devtools_platform.core.tools import Caller
    from devtools_platform.kit.tokens import issue_run_token

    if not name.startswith("ours"):
        return script(folder, name, None, "echo")
    return script(folder, name, issue_run_token(SECRET, Caller("bench", "cicd")), "up_echo")


def command_of(name: str, port: int, target: str, database_url: str, cache: Path) -> list[str]:
    if name.startswith("ours"):
        return [*HERE, "ours", str(port), STDIO if name == "ours-stdio" else target, database_url]
    if name in {"echo", "passing"}:
        return [*HERE, name, str(port), *([target] if name == "passing" else [])]
    python = peer(cache, name)
    if name == "fastmcp":
        return [str(python), "-c", FASTMCP, str(port), target]
    if name == "contextforge":
        served = ["mcpgateway.main:app", "--host", "127.0.0.1", "--port", str(port), "--log-level", "error"]
        return [str(python), "-m", "uvicorn", *served, "--loop", "uvloop", "--http", "httptools", "--no-access-log"]
    served = [*STDIO.split(), "--legacy"]
    return [str(python.parent / "mcp-proxy"), "--port", str(port), "--stateless", "--", *served]


if __name__ == "__main__":
    main()
