import pytest

from devtools_platform.agents.routing import route


@pytest.mark.parametrize(
    ("text", "agent"),
    [
        ("Fix the failing test in prices", "feature-dev"),
        ("The function order_total returns the wrong sum", "feature-dev"),
        ("Describe the settings in the README", "documentation"),
        ("Add a GitHub Actions pipeline", "cicd"),
        ("Write a Dockerfile", "infrastructure"),
        ("Fix the bug and say so in the README", None),
        ("Make it nicer", None),
        ("Rename decide to choose", None),
    ],
)
def test_only_a_request_that_is_clearly_for_one_agent_is_routed_by_rule(text: str, agent: str | None) -> None:
    assert route(text) == agent
