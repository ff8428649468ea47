"""What the embedded model gives on this machine: load time, memory, speed, and skill at picking tools.

Run `python bench/embedded_model.py`; it takes about two minutes and needs the model in the cache
(`dev-tools model pull`) and the extra `local`. Prints one JSON object.
"""

import asyncio
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx2
import psutil
from openai import AsyncOpenAI
from pydantic import BaseModel
from pydantic_ai import Agent, Tool
from pydantic_ai.exceptions import UnexpectedModelBehavior
from pydantic_ai.models.openai import OpenAIChatModel
from pydantic_ai.providers.openai import OpenAIProvider

from devtools_platform.agents.adapters.embedded_model import CODER, find_cached
from devtools_platform.agents.adapters.llama_server import LlamaServer
from devtools_platform.agents.adapters.schema_tools import SchemaToolModel
from devtools_platform.config.settings import load_settings

SETTINGS: Any = {"temperature": 0, "max_tokens": 200}
TOOLS = {
    "read_file": "Read the text of one file of the repository.",
    "search_code": "Find where a word or a function occurs in the repository.",
    "run_tests": "Run the project's tests.",
    "list_commits": "List the latest commits.",
    "restart_service": "Restart a running service.",
    "read_logs": "Read the latest log lines of a service.",
}
WITHOUT_ARGUMENT = {"run_tests", "list_commits"}
CASES = [
    ("What is written in the file README.md?", "read_file", "README.md"),
    ("Where is the function parse_date used?", "search_code", "parse_date"),
    ("The service billing hangs. Please restart it.", "restart_service", "billing"),
    ("Show me what the service gateway logged last.", "read_logs", "gateway"),
    ("Do the tests pass?", "run_tests", ""),
    ("What changed in the repository lately?", "list_commits", ""),
    ("Open src/app.py and tell me what it does.", "read_file", "src/app.py"),
    ("Which files mention RETRY_LIMIT?", "search_code", "RETRY_LIMIT"),
    ("Why does the service mailer crash? Look at its output.", "read_logs", "mailer"),
    ("Check that nothing is broken by running the test suite.", "run_tests", ""),
]
GOALS = [
    "Add a /health endpoint and document it.",
    "Cache the dependencies in the CI workflow.",
    "Write a Dockerfile for the service.",
]


class Step(BaseModel):
    role: str
    goal: str


class Plan(BaseModel):
    steps: list[Step]


class PickedError(Exception):
    """Ends a run at its first tool call."""


async def measure_speed(server: LlamaServer) -> dict[str, float]:
    """Tokens per second read and written, and what a second question on the same text reuses."""
    text = "\n".join(f"def function_{n}(value):\n    return value * {n} + {n * 7 % 13}\n" for n in range(30))
    first = await ask(server, f"{text}\nWhat does function_3 do?", 64)
    second = await ask(server, f"{text}\nWhat does function_9 do?", 64)
    total = second["prompt_n"] + second["cache_n"]
    return {
        "prompt_tokens": first["prompt_n"],
        "prompt_tokens_per_s": round(first["prompt_per_second"], 1),
        "generated_tokens_per_s": round(
            statistics.mean([first["predicted_per_second"], second["predicted_per_second"]]), 1
        ),
        "prompt_reused_by_second_question": round(second["cache_n"] / total, 3),
    }


async def ask(server: LlamaServer, question: str, max_tokens: int) -> dict[str, Any]:
    body = {"messages": [{"role": "user", "content": question}], "max_tokens": max_tokens, "temperature": 0}
    headers = {"Authorization": f"Bearer {server.api_key}"}
    async with httpx2.AsyncClient(timeout=120) as client:
        response = await client.post(f"{server.base_url}/chat/completions", json=body, headers=headers)
    response.raise_for_status()
    return response.json()["timings"]


async def measure_tool_choice(model: OpenAIChatModel) -> dict[str, Any]:
    tools = [Tool(make_tool(name), name=name, description=text) for name, text in TOOLS.items()]
    agent = Agent(SchemaToolModel(model), tools=tools, instructions="Use the right tool.")
    wrong: list[str] = []
    seconds: list[float] = []
    for question, tool, argument in CASES:
        started = time.perf_counter()
        try:
            picked: object = (await agent.run(question, model_settings=SETTINGS)).output
        except PickedError as error:
            picked = error.args
        seconds.append(time.perf_counter() - started)
        if picked != (tool, argument):
            wrong.append(f"{question} -> {picked}")
    return {
        "right": len(CASES) - len(wrong),
        "of": len(CASES),
        "median_s": round(statistics.median(seconds), 1),
        "wrong": wrong,
    }


def make_tool(name: str) -> Callable[..., str]:
    def with_argument(subject: str) -> str:
        raise PickedError(name, subject)

    def without_argument() -> str:
        raise PickedError(name, "")

    return without_argument if name in WITHOUT_ARGUMENT else with_argument


async def measure_structure(model: OpenAIChatModel) -> dict[str, int]:
    agent = Agent(SchemaToolModel(model), output_type=Plan, instructions="Plan the work in one to three steps.")
    valid = 0
    for goal in GOALS:
        try:
            valid += bool((await agent.run(goal, model_settings=SETTINGS)).output.steps)
        except UnexpectedModelBehavior as error:
            print(goal, error, file=sys.stderr)
    return {"valid": valid, "of": len(GOALS)}


async def measure(path: Path, log: Path) -> dict[str, Any]:
    started = time.perf_counter()
    async with LlamaServer(path, log_file=log) as server:
        loaded = time.perf_counter() - started
        speed = await measure_speed(server)
        async with AsyncOpenAI(base_url=server.base_url, api_key=server.api_key, max_retries=0) as client:
            model = OpenAIChatModel(CODER.name, provider=OpenAIProvider(openai_client=client))
            choice = await measure_tool_choice(model)
            structure = await measure_structure(model)
        return {
            "model": CODER.title,
            "threads": server.threads,
            "load_average": psutil.getloadavg()[0],
            "load_s": round(loaded, 1),
            "rss_mb": psutil.Process(server.pid).memory_info().rss >> 20,
            **speed,
            "tool_choice": choice,
            "structure": structure,
            "took_s": round(time.perf_counter() - started),
        }


def main() -> None:
    path = find_cached(load_settings().cache_dir)
    if path is None:
        sys.exit("The embedded model is not cached. Run `dev-tools model pull`.")
    with tempfile.TemporaryDirectory() as folder:
        print(json.dumps(asyncio.run(measure(path, Path(folder) / "model.log")), indent=2))


if __name__ == "__main__":
    main()
