"""The same task with agents local, managed and mixed; managed ones fail in every way and each ends in a clear state."""

import json
import sys
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx2
import openai
import pytest
import yaml

from devtools_platform.agents.adapters.scripted import Script
from e2e import scenarios
from fakes.digitalocean_resources import PROJECT, ManagedAgent
from fakes.digitalocean_server import FakeDigitalOcean, Fault
from fakes.openai_server import FakeOpenAI
from stacks import StackProcess, clean_env, git, run_cli, running_stack

TASK = "Fix the discount: orders of exactly 100 must get it."
MODEL = "openai-gpt-oss-20b"
SERVER = Path(__file__).parents[1] / "fakes" / "misbehaving.py"
SEVENTH = """---
name: licence-keeper
role: Keeps licence headers and third-party notices right
output: report
max_turns: 10
toolsets: [read, write]
---
You keep licence headers and third-party notices right.

When you are done, report outcome `done`, a summary and a commit message.
"""
NOTICE = scenarios.call("workspace_write_file", path="NOTICE", content="Shop\n")
OWN: list[dict[str, Any]] = [
    {
        "agent": "infrastructure",
        "when": "LOOK IT UP",
        "turns": [scenarios.call("ours_echo", text="hello"), scenarios.FIX, scenarios.done("Fixed it.", "Fix it")],
    },
    {
        "agent": "documentation",
        "when": "FETCH",
        "turns": [scenarios.call("web_fetch", url="https://example.org/"), {"text": "It could not be fetched."}],
    },
    {"agent": "licence-keeper", "turns": [NOTICE, scenarios.done("Added a notice.", "Add a notice")]},
    {"agent": "cicd", "when": "hello", "turns": [{"text": "I write pipelines."}]},
    {"agent": "cicd", "when": "connection", "turns": [{"text": "ready"}]},
]
RULES = [*OWN, *scenarios.RULES]


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
    return {"runtime": "gradient", "model": MODEL, "edit_format": "replace"}


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
    (folder / "agents").mkdir()
    (folder / "agents" / "licence-keeper.md").write_text(SEVENTH)
    command = json.dumps([sys.executable, "-S", str(SERVER)])
    ours = f"{{description: x, command: {command}, agents: [infrastructure], writes: allow}}"
    (folder / "catalog.yaml").write_text(f"servers: {{ours: {ours}}}")
    more = {
        "DEV_TOOLS_AGENT_DEFINITIONS": str(folder / "agents"),
        "DEV_TOOLS_GATEWAY_CATALOG": str(folder / "catalog.yaml"),
        "DEV_TOOLS_GATEWAY_SERVERS": "ours",
    }
    with running_stack(folder / "data", env_for(fake, file, **more)) as stack:
        assert stack.facts is not None
        environments(folder, stack.facts["urls"]["gateway"], {}, managed())
        approve = ("tools", "approve", "ours", "--tool", "echo", "--yes", "--json", "--data-dir", str(stack.data_dir))
        assert run_cli(*approve, env=stack.env).returncode == 0
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


def test_digitaloceans_own_count_and_prices_are_kept_and_shown(all_managed: StackProcess, shop: Path) -> None:
    all_managed.run_task(TASK, shop)
    where = ("--json", "--data-dir", str(all_managed.data_dir))
    today = datetime.now(UTC).date()
    asked = run_cli("cost", "reconcile", "--day", str(today), *where, env=all_managed.env)
    lines = {line["subject"]: line for line in json.loads(asked.stdout)}
    assert lines["account"]["said_usd"] == pytest.approx(11.21)
    assert lines["account"]["recorded_usd"] is None, "managed agents say no cost"
    worked = lines["feature-dev"]
    assert worked["recorded_tokens"] > 0
    assert worked["missing_tokens"] == worked["said_tokens"] - worked["recorded_tokens"]
    assert asked.returncode == int(any(line["is_off"] for line in lines.values()))
    report = json.loads(run_cli("cost", "report", *where, env=all_managed.env).stdout)
    assert {line["subject"] for line in report["reconciled"]} == set(lines)

    refreshed = run_cli("cost", "prices", "--refresh", *where, env=all_managed.env)
    (price,) = [one for one in json.loads(refreshed.stdout) if one["model"] == MODEL]
    assert (price["provider"], price["input_usd"], price["since"]) == ("digitalocean", 0.1, str(today))
    future = run_cli("cost", "reconcile", "--day", "2199-01-01", *where, env=all_managed.env)
    assert (future.returncode, "has begun" in future.stdout + future.stderr) == (2, True)


def agent_of(fake: FakeDigitalOcean, agent: str) -> ManagedAgent:
    return next(a for a in fake.resources.agents.values() if a.spec["name"] == f"dev-tools-staging-{agent}")


def test_a_managed_agent_reaches_a_tool_through_the_gateway_with_its_own_token(
    all_managed: StackProcess, fake: FakeDigitalOcean, shop: Path
) -> None:
    # The task's own tools go through us; this one the managed agent calls by itself, before it answers us.
    task = all_managed.run_task("LOOK IT UP", shop, agent="infrastructure")

    server = agent_of(fake, "infrastructure").spec["mcp_servers"][0]
    assert server["allowed_tools"] == ["ours_echo", "web_fetch"], "what its policy permits and needs no task"
    call = fake.chat.own_calls[-1]
    assert (call["tool"], call["text"], call["is_error"]) == ("ours_echo", "hello", False)
    assert task["status"] == "completed", task
    tokens = json.loads(
        run_cli("token", "list", "--json", "--data-dir", str(all_managed.data_dir), env=all_managed.env).stdout
    )
    mine = next(token for token in tokens if token["name"] == "dev-tools-staging-infrastructure" and token["is_valid"])
    assert (mine["agent"], mine["scopes"]) == ("infrastructure", ["tools:ours_echo", "tools:web_fetch"])


def test_what_a_person_must_approve_a_managed_agent_cannot_do_by_itself(
    all_managed: StackProcess, fake: FakeDigitalOcean
) -> None:
    answer = chat(all_managed, "documentation", "FETCH it")

    call = fake.chat.own_calls[-1]
    assert (call["tool"], call["is_error"]) == ("web_fetch", True)
    assert "approve" in call["text"]
    assert answer.json()["choices"][0]["message"]["content"] == "It could not be fetched."


def test_a_seventh_agent_is_one_file(all_managed: StackProcess, fake: FakeDigitalOcean, shop: Path) -> None:
    task = all_managed.run_task("Add a notice.", shop, agent="licence-keeper")

    assert task["status"] == "completed", task
    assert git(shop, "show", f"{task['branch']}:NOTICE") == "Shop"
    assert task["plan"]["steps"][0]["agent"] == "licence-keeper"
    assert agent_of(fake, "licence-keeper").visibility == "VISIBILITY_PRIVATE"


def chat(stack: StackProcess, agent: str, text: str, token: str | None = None, **more: Any) -> httpx2.Response:
    assert stack.facts is not None
    given = token or (stack.data_dir / "token").read_text()
    url = f"{stack.facts['urls']['gateway']}/agents/{agent}/v1/chat/completions"
    body = {"model": agent, "messages": [{"role": "user", "content": text}], **more}
    return httpx2.post(url, json=body, headers={"Authorization": f"Bearer {given}"}, trust_env=False, timeout=30)


def test_each_agent_is_an_openai_endpoint_behind_a_scoped_token(all_managed: StackProcess) -> None:
    assert all_managed.facts is not None
    base = f"{all_managed.facts['urls']['gateway']}/agents/cicd"
    made = ("token", "create", "ana", "--scope", "agents:cicd", "--json", "--data-dir", str(all_managed.data_dir))
    token = json.loads(run_cli(*made, env=all_managed.env).stdout)["token"]
    client = openai.OpenAI(
        base_url=f"{base}/v1", api_key=token, max_retries=0, http_client=httpx2.Client(trust_env=False)
    )

    whole = client.chat.completions.create(model="cicd", messages=[{"role": "user", "content": "hello"}])
    pieces = client.chat.completions.create(model="cicd", messages=[{"role": "user", "content": "hello"}], stream=True)

    assert whole.choices[0].message.content == "I write pipelines."
    assert whole.usage is not None
    assert whole.usage.prompt_tokens > 0
    assert "".join(piece.choices[0].delta.content or "" for piece in pieces) == "I write pipelines."
    assert [model.id for model in client.models.list()] == ["cicd"]
    assert httpx2.get(f"{base}/health", trust_env=False).json()["ok"] is True
    client.close()
    assert chat(all_managed, "cicd", "hello", token="wrong").status_code == 401
    assert chat(all_managed, "documentation", "hello", token=token).status_code == 403
    assert chat(all_managed, "wizard", "hello").json()["error"]["code"] == "unknown_agent"
    assert chat(all_managed, "cicd", "hello", tools=[{"type": "function"}]).status_code == 422


def test_a_failing_endpoint_is_an_error_a_client_can_read_streamed_or_not(
    all_managed: StackProcess, fake: FakeDigitalOcean
) -> None:
    fake.inject(Fault("status", "/managed/", status=401, times=2))
    whole, streamed = chat(all_managed, "cicd", "hello"), chat(all_managed, "cicd", "hello", stream=True)

    assert whole.json()["error"]["code"] == "model_refused"
    assert "refuses the key" in whole.json()["error"]["message"]
    assert '"code": "model_refused"' in streamed.text
    assert "[DONE]" not in streamed.text


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
    assert agents_command(all_managed, "rotate-keys", "--older-than", "1") == (0, []), "a timer finds nothing to do"


def test_one_agent_can_be_asked_whether_it_answers(all_managed: StackProcess, fake: FakeDigitalOcean) -> None:
    code, results = agents_command(all_managed, "test", "cicd")
    assert (code, results[0]["ok"], results[0]["text"]) == (0, True, "ready")

    fake.inject(Fault("status", "/managed/", status=401))
    code, results = agents_command(all_managed, "test", "cicd")
    assert (code, results[0]["ok"]) == (1, False)
    assert "refuses the key" in results[0]["text"]


FAULTS = [
    (Fault("status", "/managed/", status=404, times=None), "model_refused", "does not know the model"),
    (Fault("status", "/managed/", status=429, retry_after="0", times=None), "model_failed", "limits how often"),
    (Fault("hang", "/managed/", times=None), "model_failed", "did not answer in time"),
    (Fault("cut", "/managed/", times=None), "model_failed", "broken answer|hung up"),
    (
        Fault("bad_arguments", "/managed/", times=None),
        "model_failed|not_solved",
        "could not be used|used up its turns|exceeded",
    ),
    (
        Fault("unknown_tool", "/managed/", times=None),
        "model_failed|not_solved",
        "could not be used|used up its turns|exceeded",
    ),
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
