"""The peers' side of `agents.py`, in an environment that has them and not us: `agents_peers.py NAME --url URL ...`.

Runs of one agent with the same endpoint and tools of the same names and schemas, of which `workspace_read_file` is
called. Prints CPU milliseconds a run. Each in its own usual way: LangGraph's prebuilt agent with its PostgreSQL saver,
OpenHands' conversation with its files of events, openai-agents' runner, which keeps nothing.
"""

import argparse
import asyncio
import json
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

sys.path.pop(0)  # this folder: its `agents.py` would be taken for the package of that name

SYSTEM = "Agent: feature-dev\n\nDo what is asked."


def read_file(folder: Path, path: str) -> str:
    return (folder / path).read_text()


async def langgraph(options: argparse.Namespace, prompts: list[str]) -> list[float]:
    from langchain.agents import create_agent
    from langchain_core.tools import StructuredTool
    from langchain_openai import ChatOpenAI
    from langgraph.checkpoint.postgres.aio import AsyncPostgresSaver

    async def call(**arguments: Any) -> str:
        return read_file(options.folder, **arguments)

    model = ChatOpenAI(model=options.model, base_url=options.url, api_key=options.key, max_retries=0)
    tools = [
        StructuredTool(name=tool["name"], description=tool["description"], args_schema=tool["schema"], coroutine=call)
        for tool in options.tools
    ]
    async with AsyncPostgresSaver.from_conn_string(options.database) as saver:
        await saver.setup()
        agent = create_agent(model, tools, system_prompt=SYSTEM, checkpointer=saver)

        async def run(prompt: str, number: int) -> None:
            config: Any = {"configurable": {"thread_id": f"{time.time_ns()}-{number}"}, "recursion_limit": 1000}
            await agent.ainvoke({"messages": [("user", prompt)]}, config, durability="sync")

        return await measure(run, prompts)


async def openai_agents(options: argparse.Namespace, prompts: list[str]) -> list[float]:
    from openai import AsyncOpenAI

    from agents import Agent, FunctionTool, OpenAIChatCompletionsModel, Runner, set_tracing_disabled

    set_tracing_disabled(True)  # it would send them to its maker

    async def call(_context: Any, arguments: str) -> str:
        return read_file(options.folder, **json.loads(arguments))

    tools = [
        FunctionTool(tool["name"], tool["description"], tool["schema"], call, strict_json_schema=False)
        for tool in options.tools
    ]
    client = AsyncOpenAI(base_url=options.url, api_key=options.key, max_retries=0)
    model = OpenAIChatCompletionsModel(options.model, client)
    agent = Agent(name="bench", instructions=SYSTEM, model=model, tools=tools)

    async def run(prompt: str, _number: int) -> None:
        await Runner.run(agent, prompt, max_turns=1000)

    return await measure(run, prompts)


async def openhands(options: argparse.Namespace, prompts: list[str]) -> list[float]:
    import mcp.types
    from openhands.sdk import LLM, Agent, AgentContext, LocalConversation, Tool, register_tool
    from openhands.sdk.mcp.definition import MCPToolAction, MCPToolObservation
    from openhands.sdk.mcp.tool import MCPToolDefinition
    from openhands.sdk.tool import ToolExecutor

    class Reader(ToolExecutor[Any, Any]):
        def __call__(self, action: Any, conversation: Any = None) -> Any:
            return MCPToolObservation.from_text(read_file(options.folder, **action.data), tool_name="read")

    for tool in options.tools:
        described = mcp.types.Tool(name=tool["name"], description=tool["description"], inputSchema=tool["schema"])
        definition = MCPToolDefinition(
            description=tool["description"],
            action_type=MCPToolAction,
            observation_type=MCPToolObservation,
            executor=Reader(),
            mcp_tool=described,
        )
        register_tool(tool["name"], definition)
    agent = Agent(
        llm=LLM(model=f"openai/{options.model}", base_url=options.url, api_key=options.key, num_retries=0),
        tools=[Tool(name=tool["name"]) for tool in options.tools],
        agent_context=AgentContext(system_message_suffix=SYSTEM),
    )

    async def run(prompt: str, _number: int) -> None:
        with tempfile.TemporaryDirectory() as events:
            conversation = LocalConversation(
                agent,
                workspace=options.folder,
                persistence_dir=events,
                max_iteration_per_run=1000,
                stuck_detection=False,  # the same file is read again and again
                visualizer=None,
            )
            conversation.send_message(prompt)
            await asyncio.to_thread(conversation.run)
            turns = sum(type(event).__name__ == "ActionEvent" for event in conversation.state.events)
            assert turns == int(prompt.split()[1]), f"{turns} tool calls: {prompt}"

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
    parser.add_argument("peer", choices=["langgraph", "openai_agents", "openhands"])
    parser.add_argument("--url", required=True)
    parser.add_argument("--key", required=True)
    parser.add_argument("--model", required=True)
    parser.add_argument("--database", default="")
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument("--tools", type=Path, required=True, help="ours: names, descriptions, schemas, as JSON")
    parser.add_argument("prompts", nargs="+")
    given = parser.parse_args()
    given.tools = json.loads(given.tools.read_text())
    print(json.dumps(asyncio.run(globals()[given.peer](given, given.prompts))))
