"""Which editing tools a model's agents are offered, and that it works with the real loop, gateway and workspace."""

import json
from pathlib import Path

import pytest

from devtools_platform.agents.adapters import endpoints
from devtools_platform.agents.adapters.scripted import Script
from devtools_platform.agents.edit_formats import TOOLS, edit_format_of, load_table
from devtools_platform.app.bare import BareCrew
from devtools_platform.app.home import Home
from devtools_platform.app.models import ServedModel
from devtools_platform.app.runtimes import open_runtimes
from devtools_platform.config import Settings
from devtools_platform.config.environments import load_environments
from devtools_platform.core.errors import BadInput
from devtools_platform.core.tasks import ModelInfo
from devtools_platform.gateway.api import load_policy
from devtools_platform.kit.git import clone_for_task, resolve_repository
from stacks import make_repo


@pytest.mark.parametrize(
    ("name", "tier", "expected"),
    [
        ("openai-gpt-5.2-codex", "standard", "patch"),
        ("GPT-4.1-mini", "standard", "patch"),
        ("openai-gpt-oss-120b", "standard", "patch"),
        ("gpt-oss:20b", "small", "patch"),
        ("anthropic-claude-sonnet-4.6", "standard", "replace"),
        ("openai-gpt-4o", "standard", "replace"),
        ("codellama-13b", "standard", "whole"),
        ("llama3.1-8b-instruct", "standard", "whole"),
        ("phi4:14b", "small", "whole"),
    ],
)
def test_the_format_goes_by_the_models_family_then_by_its_tier(name: str, tier: str, expected: str) -> None:
    model = ModelInfo.model_validate({"name": name, "provider": "any", "tier": tier})
    assert edit_format_of(model) == expected


def test_every_line_of_the_table_says_where_it_comes_from_and_no_format_gives_more_than_the_policy() -> None:
    assert all(len(family.source) > 40 for family in load_table().families)
    assert frozenset().union(*TOOLS.values()) <= load_policy().tools_of("feature-dev")


async def test_the_environments_file_decides_before_the_table(tmp_path: Path) -> None:
    script, file = tmp_path / "script.json", tmp_path / "environments.yaml"
    script.write_text(json.dumps([{"agent": "feature-dev", "turns": [{"text": "x"}]}]))
    local = "{runtime: local, base_url: http://127.0.0.1:9/v1, model: openai-gpt-5}"
    file.write_text(
        "environments:\n  test:\n"
        f"    default: {local}\n"
        "    agents:\n"
        f"      cicd: {local[:-1]}, edit_format: whole}}\n"
        f"      feature-dev: {{runtime: scripted, script: {script}, edit_format: patch}}\n"
    )
    settings = Settings(environment="test", environments_file=file, data_dir=tmp_path / "data")
    agents = ("feature-dev", "cicd", "documentation")
    runtimes = await open_runtimes(settings, Home.of(settings), lambda _: None, agents)
    assert [runtimes.edit_format(agent) for agent in agents] == ["patch", "whole", "patch"]

    file.write_text(file.read_text().replace("whole", "diff"))
    with pytest.raises(BadInput, match="edit_format"):
        load_environments(file)


PATCH = """*** Begin Patch
*** Update File: clamp.py
@@ def clamp(value, low, high):
     if value > high:
-        return low
+        return high
*** End Patch"""
CLAMP = "def clamp(value, low, high):\n    if value > high:\n        return low\n    return max(value, low)\n"
DONE = {"output": {"outcome": "done", "summary": "Mended.", "commit_message": "Mend clamp"}}


async def test_a_model_of_a_patch_family_mends_by_a_patch_and_is_told_of_no_other_way(tmp_path: Path) -> None:
    edit = {"path": "clamp.py", "old": "return low", "new": "return high"}
    turns = [
        {"calls": [{"tool": "workspace_edit_file", "arguments": edit}]},
        {"calls": [{"tool": "workspace_apply_patch", "arguments": {"patch": PATCH.replace("value > high", "x")}}]},
        {"calls": [{"tool": "workspace_apply_patch", "arguments": {"patch": PATCH}}]},
        DONE,
    ]
    script = Script.parse([{"agent": "feature-dev", "turns": turns}])
    served = ServedModel(
        endpoints.Endpoint("scripted", None, None, "scripted", "standard"),
        ModelInfo(name="openai-gpt-5", provider="scripted", tier="standard"),
        script=script,
    )
    workspaces = tmp_path / "workspaces"
    await clone_for_task(await resolve_repository(make_repo(tmp_path / "repo", {"clamp.py": CLAMP})), workspaces / "t1")
    told: list[str] = []

    class Log:
        async def append_event(self, _task: str, _key: str, _kind: str, _agent: str, data: dict[str, object]) -> None:
            told.append(f"{data.get('tool')}: {data.get('message', 'done')}")

        async def is_paused(self, _task: str) -> bool:
            return False

        async def take_messages(self, _task: str, _key: str) -> list[str]:
            return []

        async def append_and_take(
            self, task: str, key: str, kind: str, agent: str, data: dict[str, object], taker: str
        ) -> list[str]:
            await self.append_event(task, key, kind, agent, data)
            return []

        async def begin_run(self, *_: object) -> None: ...

        async def end_run(self, *_: object) -> None: ...

    crew = BareCrew(Settings(data_dir=tmp_path / "data"), served, workspaces, log=Log())
    argument = {"task_id": "t1", "agent": "feature-dev", "n": 1, "prompt": "Mend clamp.", "goal": "Mend clamp."}
    outcome = await crew.run("t1/feature-dev/1", {**argument, "without_sandbox": False})

    assert outcome["reason"] is None, outcome
    assert (workspaces / "t1" / "clamp.py").read_text() == CLAMP.replace("return low", "return high", 1)
    # The first call never reached the gateway: the tool was not offered.
    assert [line.partition(":")[0] for line in told] == ["workspace_apply_patch"] * 2
    assert "the hunk does not fit" in told[0]
    assert "2:     if value > high:" in told[0]
    assert told[1] == "workspace_apply_patch: done"
