"""The crew as the evaluation set drives it: one agent's run at a time, in a clone that is already there."""

import asyncio
from collections.abc import Mapping
from typing import Any

from devtools_platform.app.bare import BareCrew as _BareCrew
from devtools_platform.core.tools import Caller, ToolResult


class BareCrew(_BareCrew):
    async def run_agent(self, agent: str, task_id: str, prompt: str, goal: str, timeout_s: float) -> dict[str, Any]:
        """An agent's outcome, as its workflow would give it."""
        argument = {"task_id": task_id, "agent": agent, "n": 1, "prompt": prompt, "goal": goal}
        async with asyncio.timeout(timeout_s):
            return await self.run(f"{task_id}/{agent}/1", {**argument, "without_sandbox": False})

    async def call(self, agent: Any, task_id: str, tool: str, arguments: Mapping[str, Any]) -> ToolResult:
        return await self.tools.client.call(Caller(task_id, agent), tool, arguments, f"judge:{task_id}:{tool}")
