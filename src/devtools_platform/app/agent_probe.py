"""One question to an agent's runtimes: do they answer? Outside any task; nothing is recorded, a call may cost money."""

import time
from collections.abc import Callable
from dataclasses import replace

from pydantic_ai import Agent

from devtools_platform.agents.adapters.endpoints.failures import explain
from devtools_platform.agents.carriers import ProbeResult
from devtools_platform.agents.definitions import load_definitions
from devtools_platform.agents.types import Definition
from devtools_platform.app.home import Home
from devtools_platform.app.models import raw_model
from devtools_platform.app.runtimes import Runtime, open_runtimes
from devtools_platform.config import Settings
from devtools_platform.core.errors import DevToolsError, UnknownAgent

QUESTION = "This is a test of the connection. Answer with the one word: ready"
MAX_SHOWN = 200


async def probe_runtimes(settings: Settings, agent: str, progress: Callable[[str, str], None]) -> list[ProbeResult]:
    """The declared runtime first, then those that stand in for it. Raises `UnknownAgent`."""
    known = load_definitions(settings.agent_definitions)
    if agent not in known:
        raise UnknownAgent(f"There is no agent {agent!r}.", hint=f"The agents are: {', '.join(known)}.")
    home = Home.of(settings)
    home.prepare()
    runtimes = await open_runtimes(settings, home, lambda text: progress("model", text), [agent])
    try:
        return [await ask_runtime(settings, known[agent], runtime) for runtime in runtimes.chains[agent]]
    finally:
        await runtimes.stop()


async def ask_runtime(settings: Settings, definition: Definition, runtime: Runtime) -> ProbeResult:
    """One of them. What is wrong with it is in the result."""
    began = time.perf_counter()
    agent, instructions = definition.name, definition.instructions
    try:
        await runtime.served.check_model()
        asked = Agent(raw_model(runtime.served, agent, settings.model_timeout_s), instructions=instructions, retries=0)
        answer = (await asked.run(QUESTION)).output
        result = ProbeResult(runtime.name, ok=True, text=str(answer)[:MAX_SHOWN])
    except DevToolsError as error:
        result = ProbeResult(runtime.name, ok=False, text=str(error), hint=error.hint)
    except Exception as error:  # noqa: BLE001 - `explain` raises again what is none of an endpoint's doing
        explained = explain(error, runtime.served.endpoint)
        result = ProbeResult(runtime.name, ok=False, text=str(explained), hint=explained.hint)
    return replace(result, duration_s=round(time.perf_counter() - began, 3))
