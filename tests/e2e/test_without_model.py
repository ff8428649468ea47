"""A stack without any model: what a program can do is done and says so; the rest names the setting that is missing."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from stacks import StackProcess, clean_env, git, running_stack


@pytest.fixture(scope="module")
def bare(tmp_path_factory: pytest.TempPathFactory) -> Iterator[StackProcess]:
    folder = tmp_path_factory.mktemp("bare")
    with running_stack(folder / "data", clean_env(XDG_CACHE_HOME=str(folder / "cache"))) as running:
        yield running


def test_a_pipeline_is_written_reviewed_and_published_without_a_model(bare: StackProcess, shop: Path) -> None:
    # The shop's own test fails before the change and after it; a pipeline does not touch code.
    task = bare.run_task("Add a GitHub Actions pipeline.", shop)
    assert task["status"] == "completed", task
    assert git(shop, "diff", "--name-only", "main", task["branch"]) == ".github/workflows/ci.yml"
    assert {"actionlint", "zizmor", "schema"} <= set(task["review"]["judged_by"])
    assert "model" not in task["review"]["judged_by"]
    what = {item["what"]: item["why"] for item in task["degraded"]}
    assert {"done without a model", "review without a model"} <= set(what)
    assert "DEV_TOOLS_MODEL_BASE_URL" in what["review without a model"]
    assert task["tokens"]["model_calls"] == 0


def test_what_needs_a_model_says_which_setting_is_missing(bare: StackProcess, shop: Path) -> None:
    task = bare.run_task("Fix the failing test.", shop)
    assert (task["status"], task["reason"]) == ("failed", "needs_model")
    assert "DEV_TOOLS_MODEL_BASE_URL" in task["message"]
    assert "Without a model a new pipeline" in task["message"]


def test_a_conversation_without_a_model_names_the_setting_too(bare: StackProcess) -> None:
    assert bare.facts is not None
    body = {"model": "cicd", "messages": [{"role": "user", "content": "Hello"}]}
    with bare.http as http:
        answer = http.post(f"{bare.facts['urls']['gateway']}/agents/cicd/v1/chat/completions", json=body)
    assert (answer.status_code, answer.json()["error"]["code"]) == (503, "no_model")
    assert "DEV_TOOLS_MODEL_BASE_URL" in answer.text
