"""A gateway with servers of others, on a real socket, driven with plain HTTP. No database: calls carry no key."""

import asyncio
import json
import socket
import ssl
import sys
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx2

from devtools_platform.app.serving import Serving
from devtools_platform.core.approvals import ApprovalRule, ApprovalRules
from devtools_platform.core.tools import Caller
from devtools_platform.gateway.adapters.sign_ins import SignInFiles
from devtools_platform.gateway.api import build_api
from devtools_platform.gateway.audit import GENESIS, Audit, Line
from devtools_platform.gateway.hub import Hub
from devtools_platform.gateway.identity import Identity
from devtools_platform.gateway.interfaces import Grants
from devtools_platform.gateway.oidc import OidcCallers
from devtools_platform.gateway.search import SearchMode
from devtools_platform.gateway.secrecy import Secrets
from devtools_platform.gateway.service import Gateway
from devtools_platform.gateway.trust import ToolLock
from devtools_platform.gateway.types import Policy
from devtools_platform.gateway.upstreams.addresses import parse_target
from devtools_platform.gateway.upstreams.connect import Connector
from devtools_platform.gateway.upstreams.http_client import HttpClient
from devtools_platform.gateway.upstreams.oauth.accounts import Accounts
from devtools_platform.gateway.upstreams.types import ServerSpec
from devtools_platform.gateway.upstreams.upstream import Upstream
from devtools_platform.kit.tokens import issue_run_token

FAKES = Path(__file__).parent / "fakes"
SECRET = "0123456789abcdef0123456789abcdef"
MODERN = "2026-07-28"
ENVIRONMENT = {"PATH": "/usr/bin:/bin"}
ME = "cicd"
ENVELOPE: dict[str, Any] = {
    "io.modelcontextprotocol/protocolVersion": MODERN,
    "io.modelcontextprotocol/clientCapabilities": {},
}


class Memory:
    """An audit store in memory."""

    def __init__(self) -> None:
        self.lines: list[Line] = []
        self.keeps_all = True

    async def last(self) -> tuple[int, str]:
        return (self.lines[-1].seq, self.lines[-1].hash) if self.lines else (0, GENESIS)

    async def append(self, lines: Any) -> None:
        self.lines = [*self.lines, *lines] if self.keeps_all else list(lines)

    async def read(self, after: int, limit: int) -> list[Line]:
        return [line for line in self.lines if line.seq > after][:limit]


class NoRecords:
    async def begin(self, *_: Any) -> None:
        return None

    async def finish(self, *_: Any) -> None:
        return None

    async def mark_doubtful(self, key: str) -> None:
        return

    async def usage(self, _: str) -> int:
        return 0


class NoGrants:
    """Nobody has approved anything."""

    async def find_grant(self, *_: Any) -> None:
        return None


def plain_gateway(
    policy: Policy | None = None, rules: Sequence[ApprovalRule] = (), grants: Grants | None = None
) -> Gateway:
    """One without tools of its own, and without a database."""
    return Gateway(
        [],
        policy or Policy(toolsets={}, agents={}),
        NoRecords(),
        rules=ApprovalRules(rules=tuple(rules)),
        grants=grants or NoGrants(),
        environment="test",
    )


def misbehaving(*arguments: str, **spec: Any) -> ServerSpec:
    command = (sys.executable, "-S", str(FAKES / "misbehaving.py"), *arguments)
    return ServerSpec(**{"description": "x", "command": command, "agents": (ME,), "writes": "allow", **spec})


def everything(era: str, **spec: Any) -> ServerSpec:
    command = (sys.executable, str(FAKES / "everything.py"), "--era", era, "--stdio")
    return ServerSpec(**{"description": "x", "command": command, "agents": (ME,), "writes": "allow", **spec})


@dataclass
class Rig:
    url: str
    hub: Hub
    identity: Identity
    audit: Memory
    http: httpx2.AsyncClient
    logs: Path
    _ids: list[int] = field(default_factory=lambda: [0])

    def token(self, agent: Any = ME, task: str = "task1") -> str:
        return issue_run_token(SECRET, Caller(task, agent))

    async def rpc(
        self,
        method: str,
        params: Mapping[str, Any],
        *,
        path: str = "/mcp",
        token: str | None = None,
        headers: Mapping[str, str] | None = None,
        meta: Mapping[str, Any] | None = None,
    ) -> httpx2.Response:
        """One stateless request."""
        self._ids[0] += 1
        envelope = {**ENVELOPE, **(meta or {})}
        body = {"jsonrpc": "2.0", "id": self._ids[0], "method": method, "params": {**params, "_meta": envelope}}
        given = {
            "Authorization": f"Bearer {token or self.token()}",
            "Content-Type": "application/json",
            "Accept": "application/json, text/event-stream",
            "MCP-Protocol-Version": MODERN,
            "Mcp-Method": method,
        }
        if name := params.get("name") or params.get("uri"):
            given["Mcp-Name"] = str(name)
        return await self.http.post(self.url + path, content=json.dumps(body), headers={**given, **(headers or {})})

    async def call(self, tool: str, text: str = "", **options: Any) -> dict[str, Any]:
        response = await self.rpc("tools/call", {"name": tool, "arguments": {"text": text}}, **options)
        return response.json()

    async def text(self, tool: str, text: str = "", **options: Any) -> str:
        answer = await self.call(tool, text, **options)
        assert "result" in answer, answer
        return answer["result"]["content"][0]["text"]

    async def bulk(self, tool: str, texts: Sequence[str], *, session: str | None = None, width: int = 50) -> list[str]:
        """Many calls with a client that costs little, `width` at a time; as of a session, or stateless."""
        target = parse_target(self.url + "/mcp")
        client = HttpClient(target, tls=None, allow_private=True)
        gate = asyncio.Semaphore(width)

        async def one(number: int, text: str) -> str:
            meta = {} if session else {"_meta": ENVELOPE}
            params = {"name": tool, "arguments": {"text": text}, **meta}
            body = {"jsonrpc": "2.0", "id": number, "method": "tools/call", "params": params}
            headers = {"authorization": f"Bearer {token}", "content-type": "application/json"}
            modern = {"mcp-protocol-version": MODERN, "mcp-method": "tools/call", "mcp-name": tool}
            headers |= {"mcp-session-id": session} if session else modern
            async with gate:
                reply = await client.send("POST", headers, json.dumps(body).encode(), max_bytes=1_000_000)
                answer = json.loads(await reply.body())
            assert answer["id"] == number
            return answer["result"]["content"][0]["text"]

        token = self.token()
        try:
            return await asyncio.gather(*(one(n, text) for n, text in enumerate(texts)))
        finally:
            client.close()

    async def names(self, **options: Any) -> list[str]:
        answer = (await self.rpc("tools/list", {}, **options)).json()
        return [tool["name"] for tool in answer["result"]["tools"]]


@asynccontextmanager
async def running(
    specs: Mapping[str, ServerSpec],
    folder: Path,
    *,
    approve_all: bool = True,
    secrets: Mapping[str, str] | None = None,
    rules: Sequence[ApprovalRule] = (),
    grants: Grants | None = None,
    search: SearchMode | None = None,
    wait: bool = True,
    policy: Policy | None = None,
    document_url: str | None = None,
    oidc: OidcCallers | None = None,
) -> AsyncIterator[Rig]:
    await asyncio.to_thread(folder.mkdir, exist_ok=True)
    tls = ssl.create_default_context()
    secrecy = Secrets([SECRET, *(secrets or {}).values()])
    accounts = Accounts(SignInFiles(folder / "sign-ins"), tls, secrecy.learn, document_url)
    connector = Connector(folder, ENVIRONMENT, secrets or {}, tls, {"python": sys.executable}, accounts)
    upstreams = [Upstream(name, spec, connector) for name, spec in specs.items()]
    gateway = plain_gateway(policy, rules, grants)
    memory, identity = Memory(), Identity(SECRET, oidc=oidc)
    hub = Hub(
        gateway,
        upstreams,
        lock=ToolLock.load(folder / "mcp.lock"),
        audit=Audit(memory),
        secrecy=secrecy,
        key=SECRET,
    )
    app = build_api(gateway, token="rest", secret=SECRET, hub=hub, identity=identity, search=search)
    serving = Serving()
    sock = socket.create_server(("127.0.0.1", 0))
    sock.setblocking(False)
    await serving.serve(app, sock)
    try:
        for upstream in upstreams if wait else ():
            assert await upstream.ready(20), f"{upstream.name}: {upstream.reason}"
            if approve_all:
                trust_all(hub, upstream)
        limits = httpx2.Limits(max_connections=1000)
        async with httpx2.AsyncClient(trust_env=False, timeout=30, limits=limits) as http:
            yield Rig(f"http://127.0.0.1:{sock.getsockname()[1]}", hub, identity, memory, http, folder)
    finally:
        await serving.stop()
        sock.close()


def trust_all(hub: Hub, upstream: Upstream) -> None:
    held = {q.tool: q.digest for q in hub.offer.quarantine.values() if q.server == upstream.name}
    hub.offer.approve_tools(upstream.name, held, accept_findings=True)
