"""The peers' side of `agents.py`, in an environment that has them and not us: `agents_peers.py NAME URL KEY ...`.

One run of one agent with the same endpoint and the same tool, `TURNS` calls of it. Prints CPU milliseconds. Each in
its own usual way: LangGraph's prebuilt agent with its PostgreSQL saver, openai-agents' runner, which keeps nothing.
"""

import argparse
import asyncio
import json
import time
from pathlib import Path
from typing import Any

SYSTEM = "Agent: feature-dev\n\nDo what is asked."


def read_file(folder: Path, path: str) -> str:
    return (folder / path).read_text()


async def langgraph(options: argparse.Namespace, prompts: list[str]) -> list[float]:
    from langchain.agents import create_agent
    from langchain_core.tools import StructuredTool
    from langchain_openai import ChatOpenAI
    from langgraph.checkpoint.postgres.aio import AsyncPostgresSaver

    async def workspace_read_file(path: str) -> str:
        """Read a file."""
        return read_file(options.folder, path)

    model = ChatOpenAI(model=options.model, base_url=options.url, api_key=options.key, max_retries=0)
    tool = StructuredTool.from_function(coroutine=workspace_read_file)
    async with AsyncPostgresSaver.from_conn_string(options.database) as saver:
        await saver.setup()
        agent = create_agent(model, [tool], system_prompt=SYSTEM, checkpointer=saver)

        async def run(prompt: str, number: int) -> None:
            config: Any = {"configurable": {"thread_id": f"{time.time_ns()}-{number}"}, "recursion_limit": 1000}
            await agent.ainvoke({"messages": [("user", prompt)]}, config, durability="sync")

        return await measure(run, prompts)


async def openai_agents(options: argparse.Namespace, prompts: list[str]) -> list[float]:
    from openai import AsyncOpenAI

    from agents import Agent, OpenAIChatCompletionsModel, Runner, function_tool, set_tracing_disabled

    set_tracing_disabled(True)  # it would send them to its maker

    @function_tool
    async def workspace_read_file(path: str) -> str:
        """Read a file."""
        return read_file(options.folder, path)

    client = AsyncOpenAI(base_url=options.url, api_key=options.key, max_retries=0)
    model = OpenAIChatCompletionsModel(options.model, client)
    agent = Agent(name="bench", instructions=SYSTEM, model=model, tools=[workspace_read_file])

    async def run(prompt: str, _number: int) -> None:
        await Runner.run(agent, prompt, max_turns=1000)

    return await measure(run, prompts)


async def measure(run: Any, prompts: list[str]) -> list[float]:
    await run(prompts[0], -1)  # what is loaded and compiled once
    spent: list[float] = []
    for number, prompt in enumerate(prompts):
        began = time.process_time()
        await run(prompt, number)
        spent.append(1000 * (time.process_time() - began))
    return spent


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("peer", choices=["langgraph", "openai_agents"])
    parser.add_argument("--url", required=True)
    parser.add_argument("--key", required=True)
    parser.add_argument("--model", required=True)
    parser.add_argument("--database", default="")
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument("prompts", nargs="+")
    given = parser.parse_args()
    print(json.dumps(asyncio.run(globals()[given.peer](given, given.prompts))))
