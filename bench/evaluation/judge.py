"""Whether an agent did what a case asks: decided by programs, never by a model."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from evaluation.crew import BareCrew


async def judge(crew: BareCrew, case: Mapping[str, Any], task_id: str, outcome: Mapping[str, Any]) -> str:
    """Why the case failed; empty when it did not."""
    if outcome.get("reason"):
        return f"{outcome['reason']}: {str(outcome['message'])[:160]}"
    output: dict[str, Any] = dict(outcome.get("output") or {})
    if "plan" in case:
        agents = [step["agent"] for step in output.get("steps", ())]
        return "" if agents in case["plan"] else f"planned {agents}"
    if "blocks" in case:
        does_block = output["verdict"] == "request_changes"
        return "" if does_block == case["blocks"] else f"verdict {output['verdict']}"
    if output.get("outcome") != "done":
        return f"reported {output.get('outcome')}: {str(output.get('summary'))[:160]}"
    if "files" in case:
        return _files(crew.workspaces / task_id, case["files"]) or await _validators(crew, task_id)
    return await _tests(crew, case, task_id)


def _files(clone: Path, wanted: Mapping[str, str]) -> str:
    for glob, pattern in wanted.items():
        found = [path for path in clone.glob(glob) if path.is_file()]
        if not found:
            return f"{glob} is not there"
        if not any(re.search(pattern, path.read_text()) for path in found):
            return f"{glob} does not hold {pattern}"
    return ""


async def _validators(crew: BareCrew, task_id: str) -> str:
    done = await crew.call("code-review", task_id, "workspace_analyze", {})
    blocking = [f"{f['source']}:{f['rule']}" for f in done.data.get("findings", ()) if f["is_blocking"]]
    return f"validators block: {blocking}" if blocking or done.is_error else ""


async def _tests(crew: BareCrew, case: Mapping[str, Any], task_id: str) -> str:
    for path, text in case["base"].items():
        if Path(path).name.startswith("test") and (crew.workspaces / task_id / path).read_text() != text:
            return f"{path} was changed"
    done = await crew.call("feature-dev", task_id, "workspace_run_tests", {})
    return "" if done.data.get("exit_code") == 0 else "the tests fail"
