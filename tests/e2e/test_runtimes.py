"""The same task with agents local, managed and mixed; managed ones fail in every way and each ends in a clear state."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from devtools_platform.agents.adapters.scripted import Script
from e2e import scenarios
from fakes.digitalocean_resources import PROJECT
from fakes.digitalocean_server import FakeDigitalOcean, Fault
from fakes.openai_server import FakeOpenAI
from stacks import StackProcess, clean_env, git, run_cli, running_stack

TASK = "Fix the discount: orders of exactly 100 must get it."
MODEL = "openai-gpt-oss-20b"
OWN_TOOL = {
    "agent": "infrastructure",
    "when": "LOOK IT UP",
    "turns": [
        scenarios.call("web_fetch", url="http://127.0.0.1:9/"),
        scenarios.FIX,
        scenarios.done("Looked it up and fixed it.", "Fix it"),
    ],
}
RULES = [OWN_TOOL, *scenarios.RULES]


def environments(folder: Path, gateway: str, agents: dict[str, Any], default: dict[str, Any]) -> Path:
    file = folder / "environments.yaml"
    where = {"project_id": PROJECT, "gateway_url": f"{gateway}/mcp"}
    spec = {"digitalocean": where, "default": default, "agents": agents}
    file.write_text(yaml.safe_dump({"environments": {"staging": spec}}))
    return file


@pytest.fixture(scope="module")
def fake() -> Iterator[FakeDigitalOcean]:
    with FakeDigitalOcean(Script.parse(RULES)) as server:
        yield server
    server.check()


def managed() -> dict[str, Any]:
    return {"runtime": "gradient", "model": MODEL}


def env_for(fake: FakeDigitalOcean, file: Path, **more: str) -> dict[str, str]:
    return clean_env(
        DEV_TOOLS_ENVIRONMENT="staging",
        DEV_TOOLS_ENVIRONMENTS_FILE=str(file),
        DEV_TOOLS_DIGITALOCEAN_URL=fake.url,
        DIGITALOCEAN_ACCESS_TOKEN=fake.token,
        DEV_TOOLS_MODEL_TIMEOUT_S="3",
        DEV_TOOLS_MAX_REVIEW_ROUNDS="1",
        **more,
    )


@pytest.fixture(scope="module")
def all_managed(tmp_path_factory: pytest.TempPathFactory, fake: FakeDigitalOcean) -> Iterator[StackProcess]:
    """Every agent on a managed one; synced while the stack runs, as a person does it."""
    folder = tmp_path_factory.mktemp("managed")
    file = environments(folder, "http://127.0.0.1:1", {}, managed())
    with running_stack(folder / "data", env_for(fake, file)) as stack:
        assert stack.facts is not None
        environments(folder, stack.facts["urls"]["gateway"], {}, managed())
        done = agents_command(stack, "sync")
        assert done[0] == 0, done
        assert {change["action"] for change in done[1]} == {"create"}
        assert agents_command(stack, "status")[0] == 0
        yield stack


@pytest.fixture(autouse=True)
def no_faults(fake: FakeDigitalOcean) -> Iterator[None]:
    fake.forget_faults()
    yield
    fake.check()


def agents_command(stack: StackProcess, *arguments: str) -> tuple[int, Any]:
    command = ["agents", *arguments, "--env", "staging", "--json", "--data-dir", str(stack.data_dir)]
    done = run_cli(*command, env=stack.env)
    return done.returncode, json.loads(done.stdout)


def events(stack: StackProcess, task: dict[str, Any], kind: str) -> list[dict[str, Any]]:
    return [event for event in stack.get(f"/tasks/{task['id']}/events") if event["kind"] == kind]


def test_the_same_task_passes_with_every_agent_managed(all_managed: StackProcess, shop: Path) -> None:
    task = all_managed.run_task(TASK, shop)

    assert task["status"] == "completed", task
    assert "total >= DISCOUNT_FROM" in git(shop, "show", f"{task['branch']}:shop/prices.py")
    assert task["model"] == {"name": MODEL, "provider": "gradient-agent", "tier": "standard", "sha256": None}
    ran = {(event["agent"], event["data"]["runtime"]) for event in events(all_managed, task, "runtime")}
    assert ran == {("feature-dev", "gradient"), ("code-review", "gradient")}
    assert task["cost_usd"] is None, "what a managed agent's call costs, its endpoint does not say"


def test_a_managed_agent_reaches_a_tool_through_the_gateway_with_its_own_token(
    all_managed: StackProcess, fake: FakeDigitalOcean, shop: Path
) -> None:
    agent = next(a for a in fake.resources.agents.values() if a.spec["name"] == "dev-tools-staging-infrastructure")
    server = agent.spec["mcp_servers"][0]
    # The task's own tools go through us; this one the managed agent calls by itself, before it answers us.
    task = all_managed.run_task("LOOK IT UP", shop, agent="infrastructure")

    assert server["allowed_tools"] == ["web_fetch"], "what its policy permits and needs no task"
    call = fake.chat.own_calls[-1]
    assert (call["agent"], call["tool"]) == ("dev-tools-staging-infrastructure", "web_fetch")
    assert "Unauthorized" not in call["text"]
    assert "127.0.0.1" in call["text"], "the gateway's web tool answered: it refuses private addresses"
    assert task["status"] == "completed", task


def test_a_second_sync_changes_nothing_and_a_dry_run_says_what_would_change(
    all_managed: StackProcess, fake: FakeDigitalOcean
) -> None:
    writes = [r for r in fake.requests if r.method in {"POST", "PUT"} and r.path.startswith("/v2/")]
    code, changes = agents_command(all_managed, "sync")
    assert (code, {change["action"] for change in changes}) == (0, {"none"})

    agent = next(a for a in fake.resources.agents.values() if a.spec["name"].endswith("cicd"))
    agent.visibility = "VISIBILITY_PUBLIC"
    _, changes = agents_command(all_managed, "sync", "--dry-run")
    planned = {change["agent"]: change["why"] for change in changes if change["action"] == "update"}
    assert planned == {"cicd": ["it is VISIBILITY_PUBLIC, not private"]}
    assert len([r for r in fake.requests if r.method in {"POST", "PUT"} and r.path.startswith("/v2/")]) == len(writes)

    assert agents_command(all_managed, "sync")[0] == 0
    assert agent.visibility == "VISIBILITY_PRIVATE"


def test_a_rollback_is_seen_by_the_next_sync(all_managed: StackProcess, fake: FakeDigitalOcean) -> None:
    agent = next(a for a in fake.resources.agents.values() if a.spec["name"].endswith("documentation"))
    agent.spec = {**agent.spec, "instruction": "Agent: documentation\n\nChanged by hand."}
    assert agents_command(all_managed, "sync")[0] == 0
    assert "Changed by hand" not in agent.spec["instruction"]
    first = agent.versions[-1]["version_hash"]

    code, version = agents_command(all_managed, "rollback", "documentation")
    assert (code, version["version_hash"], agent.applied) == (0, first, first)


def test_keys_are_rotated_with_overlap_and_the_running_stack_goes_on(
    all_managed: StackProcess, fake: FakeDigitalOcean, shop: Path
) -> None:
    before = {a.spec["name"]: set(a.keys) for a in fake.resources.agents.values()}
    code, rotated = agents_command(all_managed, "rotate-keys", "--overlap", "0")
    task = all_managed.run_task(TASK, shop)

    assert code == 0
    assert {one["name"]: {one["ended"]} for one in rotated} == before
    assert all(len(a.keys) == 1 and not set(a.keys) & before[a.spec["name"]] for a in fake.resources.agents.values())
    assert task["status"] == "completed", task
    assert "secret" not in json.dumps(rotated)


def test_one_agent_can_be_asked_whether_it_answers(all_managed: StackProcess, fake: FakeDigitalOcean) -> None:
    code, results = agents_command(all_managed, "test", "documentation")
    # The script has nothing to say to this question, and says so: the way there and back works.
    assert (code, results[0]["ok"]) == (1, False)
    assert "no reply" in results[0]["text"]

    fake.inject(Fault("status", "/managed/", status=401))
    _, results = agents_command(all_managed, "test", "documentation")
    assert "refuses the key" in results[0]["text"]


FAULTS = [
    (Fault("status", "/managed/", status=404, times=None), "model_refused", "does not know the model"),
    (Fault("status", "/managed/", status=429, retry_after="0", times=None), "model_failed", "limits how often"),
    (Fault("hang", "/managed/", times=None), "model_failed", "did not answer in time"),
    (Fault("cut", "/managed/", times=None), "model_failed", "broken answer|hung up"),
    (Fault("bad_arguments", "/managed/", times=None), "model_failed|not_solved", "could not be used|used up its turns"),
    (Fault("unknown_tool", "/managed/", times=None), "model_failed|not_solved", "could not be used|used up its turns"),
]


@pytest.mark.parametrize(("fault", "reason", "words"), FAULTS, ids=lambda value: getattr(value, "kind", None))
def test_a_failing_managed_agent_ends_the_task_in_a_clear_state(
    all_managed: StackProcess, fake: FakeDigitalOcean, shop: Path, fault: Fault, reason: str, words: str
) -> None:
    import re

    fake.inject(fault)
    task = all_managed.run_task(TASK, shop)

    assert task["status"] == "failed", task
    assert re.fullmatch(reason, task["reason"]), task["message"]
    assert re.search(words, task["message"]), task["message"]
    assert task["branch"] is None


def test_one_wrong_tool_call_is_told_to_the_model_and_the_task_goes_on(
    all_managed: StackProcess, fake: FakeDigitalOcean, shop: Path
) -> None:
    fake.inject(Fault("bad_arguments", "/managed/", times=1))
    fake.inject(Fault("unknown_tool", "/managed/", times=1))
    assert all_managed.run_task(TASK, shop)["status"] == "completed"


@pytest.fixture(scope="module")
def mixed(
    tmp_path_factory: pytest.TempPathFactory, fake: FakeDigitalOcean
) -> Iterator[tuple[StackProcess, FakeOpenAI]]:
    """feature-dev managed with a local one behind it, code-review on serverless inference, the rest on the stack's."""
    folder = tmp_path_factory.mktemp("mixed")
    with FakeOpenAI(Script.parse(RULES)) as local:
        own = {"runtime": "local", "base_url": local.base_url, "model": "fake-model", "api_key": "${LOCAL_KEY}"}
        inference = {
            "runtime": "local",
            "base_url": fake.inference_url,
            "model": MODEL,
            "api_key": "${INFERENCE_KEY}",
        }
        agents = {
            "feature-dev": {**managed(), "agent": "mixed-feature-dev", "fallback": own},
            "code-review": inference,
        }
        file = environments(folder, "http://127.0.0.1:1", agents, {"runtime": "stack"})
        more = {
            "LOCAL_KEY": str(local.api_key),
            "INFERENCE_KEY": fake.inference_key,
            "DEV_TOOLS_MODEL_BASE_URL": local.base_url,
            "DEV_TOOLS_MODEL_API_KEY": str(local.api_key),
            "DEV_TOOLS_MODEL": "fake-model",
        }
        with running_stack(folder / "data", env_for(fake, file, **more)) as stack:
            assert stack.facts is not None
            environments(folder, stack.facts["urls"]["gateway"], agents, {"runtime": "stack"})
            yield stack, local


def test_a_runtime_that_is_not_there_is_stood_in_for_and_the_task_says_so(
    mixed: tuple[StackProcess, FakeOpenAI], shop: Path
) -> None:
    stack, local = mixed
    task = stack.run_task(TASK, shop)  # nothing is synced yet

    assert task["status"] == "completed", task
    stood_in = [one for one in task["degraded"] if one["what"].startswith("feature-dev ran on local fake-model")]
    assert len(stood_in) == 1
    assert "not synced" in stood_in[0]["why"]
    told = events(stack, task, "fallback")
    assert [(e["agent"], e["data"]["used"]) for e in told] == [("feature-dev", "local fake-model")]
    assert len(local.chats) > 0
    with stack.http as http:
        metrics = http.get("/metrics").text
    assert 'devtools_model_fallbacks_total{agent="feature-dev",runtime="local fake-model"}' in metrics
    spans = stack.get(f"/tasks/{task['id']}/trace")
    assert any("devtools.fallback" in json.dumps(span) for span in spans)


def test_the_same_task_passes_with_agents_mixed(
    tmp_path: Path, mixed: tuple[StackProcess, FakeOpenAI], fake: FakeDigitalOcean, shop: Path
) -> None:
    stack, _ = mixed
    code, changes = agents_command(stack, "sync")
    assert (code, [change["name"] for change in changes]) == (0, ["mixed-feature-dev"])
    assert agents_command(stack, "status")[0] == 0
    # The one that failed before the sync rests for a while in that process: a fresh one asks it at once.
    stack.stop()
    stack.start()
    task = stack.run_task(TASK, shop)

    assert task["status"] == "completed", task
    assert [one for one in task["degraded"] if "ran on" in one["what"]] == []
    calls = {(e["agent"], e["data"]["provider"], e["data"]["model"]) for e in events(stack, task, "model_call")}
    assert calls == {("feature-dev", "gradient-agent", MODEL), ("code-review", "openai-compatible", MODEL)}
    assert task["model"]["provider"] == "several"
