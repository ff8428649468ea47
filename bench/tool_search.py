"""How well the gateway finds a tool among hundreds of real ones, and what that saves.

The tools are those of eleven public MCP servers, started by name and version; the queries are in
`tool_search_queries.yaml`, which says who wrote them and when. Prints recall and the size of what a model reads.

    python bench/tool_search.py [--servers FOLDER] [--misses]
"""

import argparse
import asyncio
import json
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "src"))

from devtools_platform.context.adapters.minilm import MiniLm  # noqa: E402 - needs the path above
from devtools_platform.gateway.mcp.exchange import Call, Silent  # noqa: E402
from devtools_platform.gateway.mcp.messages import raw, read_object, read_text  # noqa: E402
from devtools_platform.gateway.meaning import Meanings  # noqa: E402
from devtools_platform.gateway.ranking import Index  # noqa: E402
from devtools_platform.gateway.search import DEFAULT_THRESHOLD_BYTES, META_TOOLS, RESULTS, SearchMode  # noqa: E402
from devtools_platform.gateway.upstreams.pipes import Command  # noqa: E402
from devtools_platform.gateway.upstreams.stdio_link import StdioLink  # noqa: E402

NPM = {
    "everything": ("@modelcontextprotocol/server-everything", "mcp-server-everything", ()),
    "filesystem": ("@modelcontextprotocol/server-filesystem", "mcp-server-filesystem", (tempfile.gettempdir(),)),
    "memory": ("@modelcontextprotocol/server-memory", "mcp-server-memory", ()),
    "thinking": ("@modelcontextprotocol/server-sequential-thinking", "mcp-server-sequential-thinking", ()),
    "github": ("@modelcontextprotocol/server-github", "mcp-server-github", ()),
    "playwright": ("@playwright/mcp", "playwright-mcp", ()),
    "linear": ("@tacticlaunch/mcp-linear", "mcp-linear", ()),
    "digitalocean": ("@digitalocean/mcp", "mcp", ()),
}
PYPI = {"git": "mcp-server-git", "time": "mcp-server-time", "fetch": "mcp-server-fetch"}
DUMMY = {"GITHUB_PERSONAL_ACCESS_TOKEN": "x", "LINEAR_API_TOKEN": "x", "DIGITALOCEAN_API_TOKEN": "x"}


@dataclass(frozen=True)
class Tool:
    full: str
    server: str
    description: str
    schema: Any
    size: int


def install(folder: Path) -> None:
    if not (folder / "node_modules").exists():
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "package.json").write_text("{}")
        packages = [package for package, _, _ in NPM.values()]
        subprocess.run(["npm", "install", "--no-audit", "--no-fund", *packages], cwd=folder, check=True)
    if not (folder / "python").exists():
        subprocess.run([sys.executable, "-m", "venv", str(folder / "python")], check=True)
        pip = [str(folder / "python" / "bin" / "python"), "-m", "pip", "install", "-q"]
        subprocess.run([*pip, *PYPI.values()], check=True)


async def list_tools(name: str, argv: list[str], folder: Path) -> list[Tool]:
    link = StdioLink(lambda *_: None, lambda _: None, 10_000_000)
    env = {"PATH": "/usr/local/bin:/usr/bin:/bin", "HOME": str(folder), **DUMMY}
    async with asyncio.timeout(60):
        await link.open(Command(argv, env, folder / f"{name}.log"), "auto")
        tools: list[Tool] = []
        cursor: str | None = None
        while True:
            params = {} if cursor is None else {"cursor": raw(cursor)}
            page = read_object(await link.request(Call("tools/list", params), Silent()))
            for item in json.loads(bytes(page["tools"])):
                size = len(json.dumps(item, separators=(",", ":")))
                full = f"{name}_{item['name']}"
                tools.append(Tool(full, name, item.get("description", ""), item.get("inputSchema", {}), size))
            cursor = read_text(page.get("nextCursor"))
            if cursor is None:
                break
    await link.close()
    return tools


async def catalogue(folder: Path) -> list[Tool]:
    found: list[Tool] = []
    for name, (_, program, arguments) in NPM.items():
        argv = [str(folder / "node_modules" / ".bin" / program), *arguments]
        if name == "digitalocean":
            argv = ["node", str(folder / "node_modules" / "@digitalocean" / "mcp" / "index.js")]
        found += await list_tools(name, argv, folder)
    for name, program in PYPI.items():
        found += await list_tools(name, [str(folder / "python" / "bin" / program)], folder)
    return found


async def compare(
    index: Index,
    meanings: Meanings,
    tools: list[Tool],
    queries: list[Any],
    sizes: dict[str, int],
    *,
    shows_misses: bool,
) -> dict[str, Any]:
    """By words, and by words and meaning."""
    began = time.process_time()
    meanings.want(tools)
    await meanings.settled()
    found: dict[str, Any] = {"embedding_all_cpu_s": round(time.process_time() - began, 1)}
    for by in ("words", "words and meaning"):
        at, read = dict.fromkeys((1, 5, 10), 0), list[int]()
        began = time.process_time()
        for query in queries:
            closeness = await meanings.closeness(query["ask"], tools) if by != "words" else None
            ranked = list(index.rank(query["ask"], 10, closeness))
            place = next((n for n, name in enumerate(ranked, 1) if name in query["tools"]), 99)
            for limit in at:
                at[limit] += place <= limit
            read.append(sum(sizes[name] for name in ranked[:RESULTS]))
            if shows_misses and place > RESULTS:
                print("MISS", by, query["ask"], "->", ranked[:5])
        found[by] = {
            "recall": {f"@{limit}": round(count / len(queries), 3) for limit, count in at.items()},
            "cpu_ms_a_query": round(1000 * (time.process_time() - began) / len(queries), 2),
            "bytes_of_five_results": round(sum(read) / len(read)),
        }
    return found


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--servers", type=Path, default=Path(tempfile.gettempdir()) / "dev-tools-bench" / "servers")
    parser.add_argument("--misses", action="store_true")
    parser.add_argument("--names", action="store_true")
    options = parser.parse_args()
    install(options.servers)
    tools = asyncio.run(catalogue(options.servers))
    if options.names:
        print("\n".join(tool.full for tool in tools))
        return
    index, meanings = Index(tools), Meanings(MiniLm())
    queries = yaml.safe_load((Path(__file__).parent / "tool_search_queries.yaml").read_text())["queries"]
    sizes = {tool.full: tool.size for tool in tools}
    results = asyncio.run(compare(index, meanings, tools, queries, sizes, shows_misses=options.misses))
    meta = len(SearchMode().tools)
    everything = sum(sizes.values())
    print(
        json.dumps(
            {
                "tools": len(tools),
                "bytes_of_all": everything,
                "queries": len(queries),
                **results,
                "bytes_of_two_tools": meta,
                "tools_offered": META_TOOLS,
                "threshold_bytes": DEFAULT_THRESHOLD_BYTES,
            },
            indent=2,
        )
    )


if __name__ == "__main__":
    main()
