"""The evaluation set judges by programs: the same case passes with a right answer and fails with a wrong one."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from stacks import clean_env

ROOT = Path(__file__).parents[2]
pytest.importorskip("pydantic_evals", reason="`make eval` installs it; it pins another pydantic-ai than ours")

DONE = {"output": {"outcome": "done", "summary": "Done.", "commit_message": "Do it"}}


def evaluate(tmp_path: Path, agent: str, limit: int, rules: list[dict[str, Any]]) -> dict[str, Any]:
    script, report = tmp_path / "script.json", tmp_path / "report.json"
    script.write_text(json.dumps(rules))
    env = clean_env(DEV_TOOLS_MODEL_SCRIPT=str(script), PYTHONPATH=os.pathsep.join([str(ROOT / "src")]))
    command = [sys.executable, str(ROOT / "bench" / "evaluate.py"), "--agent", agent, "--limit", str(limit)]
    done = subprocess.run([*command, "--json", str(report)], env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return json.loads(report.read_text())


def test_a_repaired_function_counts_and_a_bent_test_does_not(tmp_path: Path) -> None:
    right = {
        "tool": "workspace_edit_file",
        "arguments": {
            "path": "clamp.py",
            "old": "        return low\n    return value",
            "new": "        return high\n    return value",
        },
    }
    bent = {"tool": "workspace_write_file", "arguments": {"path": "test_is_leap.py", "content": "x = 1\n"}}
    rules = [
        {"agent": "feature-dev", "when": "clamp", "turns": [{"calls": [right]}, DONE]},
        {"agent": "feature-dev", "when": "is_leap", "turns": [{"calls": [bent]}, DONE]},
        {"agent": "feature-dev", "turns": [DONE]},
    ]
    found = evaluate(tmp_path, "feature-dev", 3, rules)
    row = found["agents"]["feature-dev"]
    assert (row["cases"], row["solved"]) == (3, 1)
    assert row["input_tokens"] > 0
    assert found["failures"] == {"fix-is_leap": "test_is_leap.py was changed", "fix-average": "the tests fail"}


def test_a_plan_is_judged_by_its_agents(tmp_path: Path) -> None:
    plan = {"output": {"steps": [{"agent": "feature-dev", "goal": "Do."}]}}
    found = evaluate(tmp_path, "orchestrator", 2, [{"agent": "orchestrator", "turns": [plan]}])
    assert found["agents"]["orchestrator"]["solved"] == 1
    assert found["failures"] == {"plan-readme": "planned ['feature-dev']"}
