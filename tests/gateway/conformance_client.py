"""The official suite's client scenarios of OAuth (`auth/*`), driven by our own code.

The suite starts an authorization server and an MCP server, and this program with the server's URL. It does what a
gateway and its operator do: connect, sign in where a reason says so, list the tools, call them.

    python tests/gateway/conformance_client.py [--tools FOLDER]      runs all of them
    python tests/gateway/conformance_client.py URL                   what the suite runs
"""

import argparse
import asyncio
import json
import os
import re
import shlex
import ssl
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import httpx2

ROOT = Path(__file__).parents[2]
sys.path[:0] = [str(ROOT / "src"), str(ROOT / "tests"), str(ROOT / "tests" / "gateway")]

from conformance import install  # noqa: E402 - needs the path above

from devtools_platform.app.sign_in import SignIns  # noqa: E402
from devtools_platform.gateway.adapters.sign_ins import SignInFiles  # noqa: E402
from devtools_platform.gateway.mcp.exchange import Call, Silent  # noqa: E402
from devtools_platform.gateway.mcp.messages import RpcError, raw, read_object, read_text  # noqa: E402
from devtools_platform.gateway.upstreams.connect import Connector  # noqa: E402
from devtools_platform.gateway.upstreams.fetch import Fetch  # noqa: E402
from devtools_platform.gateway.upstreams.oauth.account import Account  # noqa: E402
from devtools_platform.gateway.upstreams.oauth.accounts import Accounts  # noqa: E402
from devtools_platform.gateway.upstreams.oauth.discovery import discover  # noqa: E402
from devtools_platform.gateway.upstreams.oauth.types import Credential  # noqa: E402
from devtools_platform.gateway.upstreams.types import ServerSpec  # noqa: E402
from devtools_platform.gateway.upstreams.upstream import Upstream  # noqa: E402

DOCUMENT = "https://conformance-test.local/client-metadata.json"
PORT = 8765
LOGINS = 4
"""A person's patience: how often they sign in again because a server wants more."""
NEEDS_LOGIN = re.compile(r"dev-tools tools login \S+(?: --scope '([^']*)')?`")


async def act(url: str) -> int:
    """One scenario. The exit code says whether the tools could be called."""
    context: dict[str, Any] = json.loads(os.environ.get("MCP_CONFORMANCE_CONTEXT", "{}"))
    tls = ssl.create_default_context()
    with tempfile.TemporaryDirectory() as folder:
        accounts = Accounts(SignInFiles(Path(folder)), tls, lambda *_: None, DOCUMENT)
        spec = ServerSpec(description="x", url=url, auth="oauth", allow_private=True)
        if "client_id" in context:
            issuer = (await discover(Fetch(tls, allow_private=True), url)).issuer
            fixed = {"client_id": context["client_id"], "client_secret": context.get("client_secret"), "issuer": issuer}
            spec = ServerSpec(**{**spec.model_dump(), "oauth": fixed})
        sign_ins = SignIns(spec, accounts.of("suite", spec, str))
        upstream = Upstream("suite", spec, Connector(Path(folder), {}, {}, tls, {}, accounts))
        upstream.start()
        try:
            async with asyncio.timeout(25):
                return await use(upstream, sign_ins)
        finally:
            await upstream.stop()


async def use(upstream: Upstream, sign_ins: SignIns) -> int:
    for _ in range(LOGINS + 1):
        reason = await try_tools(upstream, sign_ins.account)
        if reason is None:
            return 0
        print(reason, file=sys.stderr)
        wanted = NEEDS_LOGIN.search(reason)
        if wanted is None:
            return 1
        scopes = tuple((wanted.group(1) or "").split())
        made = await sign_ins.sign_in(scopes=scopes, port=PORT, show=lambda url: spawn(browse(url)))
        async with asyncio.timeout(5):
            while _is_older(sign_ins.account.credential, made):  # noqa: ASYNC110 - the gateway's side looks each second
                await asyncio.sleep(0.05)
    return 1


def _is_older(held: Credential | None, made: Credential) -> bool:
    return held is None or held.saved_at < made.saved_at


async def try_tools(upstream: Upstream, account: Account) -> str | None:
    """Why the tools cannot be called; None when all could."""
    async with asyncio.timeout(15):
        while upstream.state == "starting":  # noqa: ASYNC110 - one state of several
            await asyncio.sleep(0.02)
    if upstream.state == "down" and not (account.credential is not None and await upstream.ready(2)):
        return upstream.reason
    for tool in upstream.tools:
        call = Call("tools/call", {"name": raw(read_text(tool["name"])), "arguments": raw({})})
        try:
            read_object(await upstream.request(call, Silent()))
        except RpcError as error:
            return error.message
    return None


async def browse(url: str) -> None:
    """What a browser does when its person agrees."""
    async with httpx2.AsyncClient(trust_env=False) as http:
        answer = await http.get(url)
        if "location" in answer.headers:
            await http.get(answer.headers["location"])


_tasks: set[asyncio.Task[None]] = set()


def spawn(coroutine: Any) -> None:
    task: asyncio.Task[None] = asyncio.create_task(coroutine)
    _tasks.add(task)
    task.add_done_callback(_tasks.discard)


def run_suite(tools: Path, only: list[str]) -> int:
    """Every scenario of `auth/*` the revision requires. Returns how many failed."""
    node, suite = install(tools)
    text = (suite.parents[1] / "requirements" / "2026-07-28.yaml").read_text().partition("\nnot_scored:")[0]
    names = only or list(dict.fromkeys(re.findall(r"^ *- (auth/\S+)", text, re.MULTILINE)))
    command = f"{shlex.quote(sys.executable)} {shlex.quote(__file__)}"
    failed: list[str] = []
    for name in names:
        argv = [str(node), str(suite), "client", "--command", command, "--scenario", name]
        argv += ["--spec-version", "2026-07-28"]
        done = subprocess.run(argv, capture_output=True, text=True, check=False, timeout=60)
        if done.returncode:
            failed.append(name)
            print(done.stdout[-5000:], done.stderr[-3000:])
        print(f"{'FAIL' if done.returncode else 'ok  '} {name}", flush=True)
    print(f"{len(names) - len(failed)}/{len(names)} of auth/*")
    return len(failed)


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("url", nargs="?")
    parser.add_argument("--tools", type=Path, default=ROOT / ".venv" / "conformance")
    parser.add_argument("--only", action="append", default=[])
    options = parser.parse_args()
    if options.url is not None:
        return asyncio.run(act(options.url))
    return run_suite(options.tools, options.only)


if __name__ == "__main__":
    sys.exit(main())
