"""`dev-tools config check`: everything that is wrong at once, each with the way out."""

import pytest
from typer.testing import CliRunner

from devtools_platform.cli.main import app
from devtools_platform.config import find_problems, load_settings


@pytest.fixture(autouse=True)
def _no_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("DATABASE_URL", "DEV_TOOLS_MODEL", "DEV_TOOLS_MODEL_BASE_URL"):
        monkeypatch.delenv(name, raising=False)


@pytest.mark.parametrize(
    ("given", "what"),
    [
        ({"DEV_TOOLS_MODEL_BASE_URL": "http://x/v1"}, "DEV_TOOLS_MODEL_BASE_URL is set without DEV_TOOLS_MODEL."),
        (
            {"DEV_TOOLS_GITHUB_WEBHOOK_SECRET": "s"},
            "DEV_TOOLS_GITHUB_WEBHOOK_SECRET is set without DEV_TOOLS_GITHUB_APP_ID or DEV_TOOLS_GITHUB_TOKEN.",
        ),
        ({"LANGFUSE_PUBLIC_KEY": "p"}, "LANGFUSE_PUBLIC_KEY is set without LANGFUSE_SECRET_KEY."),
        ({"DEV_TOOLS_EMBEDDINGS": "endpoint"}, "no endpoint is named whole"),
        ({"DEV_TOOLS_ENVIRONMENT": "production", "DEV_TOOLS_PUBLIC_URL": "http://x.org"}, "without TLS"),
        ({"DEV_TOOLS_HOST": "0.0.0.0"}, "answers to none of their names"),
        ({"DEV_TOOLS_CONSOLE_PROT": "1"}, "Did you mean 'DEV_TOOLS_CONSOLE_PORT'?"),
    ],
)
def test_half_a_setting_is_named_with_its_other_half(
    monkeypatch: pytest.MonkeyPatch, given: dict[str, str], what: str
) -> None:
    for name, value in given.items():
        monkeypatch.setenv(name, value)
    (problem,) = find_problems(load_settings(check_names=False))
    assert what in problem.what
    assert problem.hint


def test_whole_settings_have_no_problem(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DEV_TOOLS_MODEL_BASE_URL", "http://x/v1")
    monkeypatch.setenv("DEV_TOOLS_MODEL", "m")
    monkeypatch.setenv("DEV_TOOLS_GITHUB_WEBHOOK_SECRET", "s")
    monkeypatch.setenv("DEV_TOOLS_GITHUB_TOKEN", "t")
    assert find_problems(load_settings()) == []


def test_the_command_tells_everything_at_once_and_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    assert CliRunner().invoke(app, ["config", "check"]).exit_code == 0
    monkeypatch.setenv("DEV_TOOLS_CONSOLE_PROT", "1")
    monkeypatch.setenv("DEV_TOOLS_GATEWAY_PROT", "1")
    monkeypatch.setenv("DEV_TOOLS_MODEL_BASE_URL", "http://x/v1")
    done = CliRunner().invoke(app, ["config", "check"])
    assert done.exit_code == 2
    assert done.output.count("FIX  ") == done.output.count("-> ") == 3
