from pathlib import Path

import pytest

from devtools_platform.agents.routing import load_router
from devtools_platform.core.errors import BadInput


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
    assert load_router().route(text) == agent


def test_a_team_has_words_of_its_own_and_wrong_ones_are_named(tmp_path: Path) -> None:
    file = tmp_path / "routing.yaml"
    file.write_text("cicd: ['deploy(?:s|ment)?']\n")
    assert load_router(file).route("The deployment is slow") == "cicd"
    assert load_router(file).route("Fix the test") is None
    file.write_text("cicd: ['(']\n")
    with pytest.raises(BadInput, match="cannot be read"):
        load_router(file)
    file.write_text("chef: [soup]\n")
    with pytest.raises(BadInput, match="wrong at chef"):
        load_router(file)
