from devtools_platform.agents.definitions import load_definitions
from devtools_platform.core.agents import AGENTS, WORKING_AGENTS
from devtools_platform.gateway.api import load_policy


def test_there_are_six_agents_and_each_knows_its_name() -> None:
    definitions = load_definitions()

    assert tuple(definitions) == AGENTS
    assert all(d.instructions.startswith(f"Agent: {name}\n") for name, d in definitions.items())
    assert {name for name, d in definitions.items() if d.output == "report"} == set(WORKING_AGENTS)


def test_the_reviewer_and_the_planner_cannot_write() -> None:
    policy = load_policy()
    writing = {"workspace_edit_file", "workspace_write_file", "workspace_delete_file", "workspace_run_command"}

    assert set(policy.agents) == set(AGENTS)
    assert not policy.tools_of("code-review") & writing
    assert not policy.tools_of("orchestrator") & writing
    assert writing <= policy.tools_of("feature-dev")
