"""docs/how-to/connect-your-editor.md, followed: commands of a person, then their editor's MCP client."""

import asyncio
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx2
import mcp_types
import pytest
from mcp.client import Client
from mcp.client.streamable_http import streamable_http_client

from stacks import StackProcess, clean_env, git, run_cli, running_stack

TASK = "Fix the failing test: an order of exactly 100 must get the discount."
SERVER = Path(__file__).parents[1] / "fakes" / "misbehaving.py"


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory, endpoint_env: dict[str, str]) -> Iterator[StackProcess]:
    """A stack with one server of others behind its gateway."""
    folder = tmp_path_factory.mktemp("editor")
    command = json.dumps([sys.executable, "-S", str(SERVER)])
    (folder / "catalog.yaml").write_text(f"servers: {{ours: {{description: x, command: {command}}}}}")
    env = clean_env(
        **endpoint_env, DEV_TOOLS_GATEWAY_CATALOG=str(folder / "catalog.yaml"), DEV_TOOLS_GATEWAY_SERVERS="ours"
    )
    with running_stack(folder / "data", env) as stack:
        yield stack


def cli(stack: StackProcess, *arguments: str, code: int = 0) -> Any:
    done = run_cli(*arguments, "--json", "--data-dir", str(stack.data_dir), env=stack.env)
    assert done.returncode == code, done.stderr
    return json.loads(done.stdout) if done.stdout else done.stderr


def use(stack: StackProcess, token: str, work: Any, *, mode: Any, agrees: bool = True) -> Any:
    """`work` with an editor's client, whose person agrees to everything or to nothing."""
    assert stack.facts is not None
    url = stack.facts["urls"]["gateway"] + "/mcp"

    async def answer(_: Any, asked: Any) -> mcp_types.ElicitResult:
        assert "May " in asked.message
        return mcp_types.ElicitResult(action="accept", content={"approve": agrees})

    async def run() -> Any:
        headers = {"Authorization": f"Bearer {token}"}
        async with (
            httpx2.AsyncClient(headers=headers, trust_env=False, timeout=30) as http,
            Client(streamable_http_client(url, http_client=http), mode=mode, elicitation_callback=answer) as client,
        ):
            return await work(client)

    return asyncio.run(run())


@pytest.mark.parametrize("mode", ["legacy", "2026-07-28"])
def test_an_editor_uses_the_servers_tools_and_hands_over_a_task(stack: StackProcess, shop: Path, mode: str) -> None:
    cli(stack, "tools", "approve", "ours", "--yes")
    assert {s["name"]: s["state"] for s in cli(stack, "tools", "doctor")}["ours"] == "ready"
    token = cli(stack, "token", "create", "editor", "--scope", "tools:ours_*", "--scope", "tools:tasks_*")["token"]

    async def work(client: Client) -> tuple[set[str], str, dict[str, Any]]:
        names = {tool.name for tool in (await client.list_tools()).tools}
        echo = await client.call_tool("ours_echo", {"text": "hello"})
        made = await client.call_tool("tasks_hand_over", {"text": TASK, "repo": str(shop)})
        return names, _text(echo), dict(made.structured_content or {})

    names, echo, made = use(stack, token, work, mode=mode)
    assert {"ours_echo", "tasks_hand_over", "tasks_show"} <= names
    assert not any(name.startswith("workspace_") for name in names), "they work in a task's workspace"
    assert echo == "hello"
    task = stack.wait_for_end(made["id"])
    assert task["status"] == "completed", task

    async def look(client: Client) -> mcp_types.CallToolResult:
        return await client.call_tool("tasks_show", {"id": made["id"]})

    shown = use(stack, token, look, mode=mode)
    assert f"branch {task['branch']}" in _text(shown)
    assert git(shop, "branch", "--list", task["branch"])


def test_nothing_is_handed_over_when_the_person_says_no(stack: StackProcess, shop: Path) -> None:
    token = cli(stack, "token", "create", "editor", "--scope", "tools:tasks_*")["token"]
    before = stack.get("/tasks")["items"]

    async def work(client: Client) -> mcp_types.CallToolResult:
        return await client.call_tool("tasks_hand_over", {"text": TASK, "repo": str(shop)})

    refused = use(stack, token, work, mode="2026-07-28", agrees=False)
    assert (refused.is_error, "The person said no" in _text(refused)) == (True, True)
    assert stack.get("/tasks")["items"] == before


def test_the_operator_calls_what_changes_something_only_on_purpose(stack: StackProcess) -> None:
    cli(stack, "tools", "approve", "ours", "--yes")
    refused = cli(stack, "tools", "call", "ours_twice", '{"text": "x"}', code=5)
    assert "--yes" in refused["error"]["hint"]
    assert cli(stack, "tools", "call", "ours_twice", '{"text": "x"}', "--yes")["text"] == "x"
    assert cli(stack, "tools", "search", "echo", "--limit", "1")[0]["server"] == "ours"


def _text(result: mcp_types.CallToolResult) -> str:
    return "".join(part.text for part in result.content if isinstance(part, mcp_types.TextContent))
