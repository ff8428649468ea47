"""The demo's task with the real embedded model. Runs where its file is cached."""

import json
from pathlib import Path

import pytest

from devtools_platform.agents.adapters import embedded_model
from devtools_platform.app.demo import FILES
from devtools_platform.config import Settings
from stacks import clean_env, git, make_repo, remove_cluster, run_cli

CACHED = embedded_model.find_cached(Settings().cache_dir)


@pytest.mark.model
@pytest.mark.timeout(600)
@pytest.mark.skipif(CACHED is None, reason="the embedded model is not cached; run `dev-tools model pull`")
def test_the_demo_is_solved_by_the_embedded_model(tmp_path: Path) -> None:
    env = clean_env(XDG_DATA_HOME=str(tmp_path), DEV_TOOLS_CACHE_DIR=str(Settings().cache_dir))

    done = run_cli("demo", "--no-stay", "--json", env=env, timeout_s=560)
    remove_cluster(tmp_path / "dev-tools" / "demo")

    assert done.returncode == 0, done.stderr[-3000:]
    task = json.loads(done.stdout)
    assert (task["model"]["provider"], task["model"]["tier"]) == ("embedded", "small")
    assert task["model"]["sha256"] == embedded_model.CODER.sha256
    assert [run["exit_code"] for run in task["tests"]] == [1, 0]
    assert task["cost_usd"] == 0.0
    assert "guided loop" in [item["what"] for item in task["degraded"]]
    shop = tmp_path / "dev-tools" / "demo" / "shop"
    assert git(shop, "diff", "--name-only", "main", task["branch"]) == "shop/prices.py"


@pytest.mark.model
@pytest.mark.timeout(300)
@pytest.mark.skipif(CACHED is None, reason="the embedded model is not cached; run `dev-tools model pull`")
def test_what_no_test_can_judge_is_not_left_to_the_embedded_model(tmp_path: Path) -> None:
    repo = make_repo(tmp_path / "shop", {**FILES, "tests/test_prices.py": "import unittest\n"})
    env = clean_env(DEV_TOOLS_CACHE_DIR=str(Settings().cache_dir))
    text = "Describe the functions of shop/prices.py in the README."

    done = run_cli("task", "run", text, "--repo", str(repo), "--json", "--data-dir", str(tmp_path / "data"), env=env)

    assert done.returncode == 20, done.stderr[-3000:]
    task = json.loads(done.stdout)
    assert task["plan"]["source"] == "model"
    assert (task["reason"], task["branch"]) == ("needs_model", None)
    assert "DEV_TOOLS_MODEL_BASE_URL" in task["message"]
