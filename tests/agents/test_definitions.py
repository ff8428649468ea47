import re
from pathlib import Path

import pytest

from devtools_platform.agents.definitions import load_definitions, working_agents
from devtools_platform.agents.types import plan_type
from devtools_platform.app.policy import policy_of
from devtools_platform.core.agents import AGENTS, WORKING_AGENTS
from devtools_platform.core.errors import BadInput
from devtools_platform.gateway.api import load_policy


def test_there_are_six_agents_and_each_knows_its_name() -> None:
    definitions = load_definitions()

    assert tuple(definitions) == AGENTS
    assert all(d.instructions.startswith(f"Agent: {name}\n") for name, d in definitions.items())
    assert {name for name, d in definitions.items() if d.output == "report"} == set(WORKING_AGENTS)


def test_the_reviewer_and_the_planner_cannot_write() -> None:
    policy = load_policy()
    writing = {"workspace_edit_file", "workspace_write_file", "workspace_delete_file", "workspace_run_command"}
    writing |= {"workspace_apply_patch"}

    assert set(policy.agents) == set(AGENTS)
    assert not policy.tools_of("code-review") & writing
    assert not policy.tools_of("orchestrator") & writing
    assert writing <= policy.tools_of("feature-dev")


HOW_TO = Path(__file__).parents[2] / "docs" / "how-to" / "add-an-agent.md"


def shown_definition() -> str:
    """The example of the how-to, taken out of its code block."""
    block = re.search(r"```markdown\n(.*?)```", HOW_TO.read_text(), re.DOTALL)
    assert block is not None
    return "\n".join(line.removeprefix("   ") for line in block[1].splitlines()) + "\n"


def test_the_how_tos_example_is_a_seventh_agent_by_one_file(tmp_path: Path) -> None:
    (tmp_path / "licence-keeper.md").write_text(shown_definition())
    definitions = load_definitions(tmp_path)

    assert list(definitions) == [*AGENTS, "licence-keeper"]
    assert working_agents(definitions) == (*WORKING_AGENTS, "licence-keeper")
    assert "- licence-keeper: Keeps licence headers" in definitions["orchestrator"].instructions
    plan = plan_type(working_agents(definitions))
    assert plan.model_validate({"steps": [{"agent": "licence-keeper", "goal": "x"}]}).steps[0].agent == "licence-keeper"
    with pytest.raises(ValueError, match="licence-keeper"):
        plan.model_validate({"steps": [{"agent": "code-review", "goal": "x"}]})
    tools = policy_of(tmp_path).tools_of("licence-keeper")
    assert "workspace_edit_file" in tools
    assert "workspace_run_command" not in tools, "run is not among its toolsets"


@pytest.mark.parametrize(
    ("name", "change", "problem"),
    [
        ("cicd", ("licence-keeper", "cicd"), "one of the shipped agents"),
        ("Keeper", ("licence-keeper", "Keeper"), "no name for an agent"),
        ("person", ("licence-keeper", "person"), "no name for an agent"),
        ("keeper", ("x", "x"), "named like its file"),
        ("licence-keeper", ("output: report", "output: judgement"), "gives a report"),
        ("licence-keeper", ("toolsets: [read, write]\n", ""), "toolsets is missing"),
        ("licence-keeper", ("role:", "rolle: x\nrole:"), "rolle"),
        ("licence-keeper", ("---\n", ""), "front matter"),
    ],
)
def test_a_wrong_definition_is_refused_saying_what_is_wrong(
    tmp_path: Path, name: str, change: tuple[str, str], problem: str
) -> None:
    (tmp_path / f"{name}.md").write_text(shown_definition().replace(*change))

    with pytest.raises(BadInput, match=problem):
        load_definitions(tmp_path)


def test_a_toolset_nobody_has_is_named_with_those_there_are(tmp_path: Path) -> None:
    (tmp_path / "licence-keeper.md").write_text(shown_definition().replace("[read, write]", "[read, everything]"))

    with pytest.raises(BadInput, match="'everything'") as caught:
        policy_of(tmp_path)
    assert "write" in caught.value.hint
