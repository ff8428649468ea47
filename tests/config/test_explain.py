"""Settings explained: where each value came from, and no secret among them."""

import json

from devtools_platform.config import explain, load_settings
from stacks import clean_env, run_cli


def test_a_value_says_where_it_came_from(monkeypatch):
    monkeypatch.setenv("DEV_TOOLS_HOST", "0.0.0.0")
    found = {one.variable: one for one in explain(load_settings({"console_port": 9}))}
    assert (found["DEV_TOOLS_HOST"].value, found["DEV_TOOLS_HOST"].source) == ("0.0.0.0", "DEV_TOOLS_HOST")
    assert (found["DEV_TOOLS_CONSOLE_PORT"].value, found["DEV_TOOLS_CONSOLE_PORT"].source) == ("9", "flag")
    assert found["DEV_TOOLS_MODEL"].source == "default"
    assert found["DEV_TOOLS_MODEL"].meaning == "Model name at the endpoint, or `embedded`."


def test_a_secret_is_set_or_not_and_never_shown(monkeypatch):
    monkeypatch.setenv("GRADIENT_MODEL_ACCESS_KEY", "sk-do-very-secret")
    found = {one.variable: one for one in explain(load_settings())}
    assert found["GRADIENT_MODEL_ACCESS_KEY"].value == "***"
    assert found["GRADIENT_MODEL_ACCESS_KEY"].is_secret
    assert found["DEV_TOOLS_MODEL_API_KEY"].value is None
    assert "very-secret" not in str(found)


def test_config_check_names_what_is_set_and_refuses_what_is_none():
    good = run_cli("config", "check", "--json", env=clean_env(DEV_TOOLS_HOST="::1"))
    assert (good.returncode, "DEV_TOOLS_HOST" in json.loads(good.stdout)["set"]) == (0, True)
    bad = run_cli("config", "check", env=clean_env(DEV_TOOLS_HOTS="::1"))
    assert (bad.returncode, "Did you mean 'DEV_TOOLS_HOST'?" in bad.stderr) == (2, True)


def test_config_explain_finds_by_a_part_of_the_name():
    found = run_cli("config", "explain", "keep_tasks", env=clean_env())
    assert "DEV_TOOLS_KEEP_TASKS_DAYS = 90.0  [default]" in found.stdout
    none = run_cli("config", "explain", "nothing_like_it", env=clean_env())
    assert (none.returncode, "config show" in none.stderr) == (3, True)


def test_no_color_leaves_out_every_colour():
    refused = run_cli("config", "check", env=clean_env(DEV_TOOLS_HOTS="x", NO_COLOR="1", FORCE_COLOR="1"))
    assert "\x1b[3" not in refused.stderr
