"""A whole stack whose spans go to Langfuse: all of them, in one session a task, and no task is worse off without it."""

import json
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from devtools_platform.kit.telemetry import trace_id_for
from fakes.langfuse import FakeLangfuse, Observation
from stacks import StackProcess, clean_env, git, run_cli, running_stack

KEY = "ghp_" + "a1B2" * 9
SIX = f"SIX AGENTS do their share. The key is {KEY}, and postgresql://u:hunter22@db/x."
PLAIN = "Fix the failing test: an order of exactly 100 must get the discount."
PRICES = 'prices:\n- {model: "*", input_usd: 1, output_usd: 2, source: this test}\n'
GIT_SHA_CHARS = 40


@pytest.fixture(scope="module")
def langfuse() -> Iterator[FakeLangfuse]:
    with FakeLangfuse() as fake:
        yield fake


@pytest.fixture(scope="module")
def traced(
    langfuse: FakeLangfuse, tmp_path_factory: pytest.TempPathFactory, endpoint_env: dict[str, str]
) -> Iterator[StackProcess]:
    folder = tmp_path_factory.mktemp("traced")
    (folder / "prices.yaml").write_text(PRICES)
    env = clean_env(
        **endpoint_env,
        DEV_TOOLS_PRICES=str(folder / "prices.yaml"),
        LANGFUSE_HOST=langfuse.base_url,
        LANGFUSE_PUBLIC_KEY=langfuse.public_key,
        LANGFUSE_SECRET_KEY=langfuse.secret_key,
    )
    with running_stack(folder / "data", env) as stack:
        yield stack


@pytest.fixture
def task(traced: StackProcess, shop: Path) -> dict[str, Any]:
    (shop / "shop" / "keys.txt").write_text(f"token = {KEY}\n")
    git(shop, "add", "-A")
    git(shop, "-c", "user.name=T", "-c", "user.email=t@example.com", "commit", "-q", "-m", "keys")
    done = traced.run_task(SIX, shop)
    assert done["status"] == "completed", done
    return done


def eventually(look: Callable[[], bool], what: str, for_s: float = 20) -> None:
    """Polls something outside this process, which cannot wake us."""
    deadline = time.monotonic() + for_s
    while not look():
        assert time.monotonic() < deadline, what
        time.sleep(0.1)


def sink(stack: StackProcess) -> dict[str, Any]:
    return stack.get("/traces/sinks")[0]


def ledger(stack: StackProcess, task_id: str) -> list[dict[str, Any]]:
    return [event["data"] for event in stack.get(f"/tasks/{task_id}/events") if event["kind"] == "model_call"]


def test_langfuse_gets_every_span_of_a_task_of_six_agents_as_the_ledger_has_it(
    traced: StackProcess, langfuse: FakeLangfuse, task: dict[str, Any]
) -> None:
    validated = run_cli(
        "traces", "validate", "--task", task["id"], "--langfuse", "--json", "--data-dir", str(traced.data_dir),
        env=traced.env,
    )  # fmt: skip
    assert validated.returncode == 0, validated.stdout + validated.stderr
    stored = {span["span_id"] for span in traced.get(f"/tasks/{task['id']}/trace")}
    seen = langfuse.of_session(task["id"])
    assert {observation.id for observation in seen} == stored

    _check_ownership(seen, task["id"])
    _check_amounts(seen, ledger(traced, task["id"]), task)
    _check_types(seen)
    assert not [body for body in langfuse.bodies if KEY.encode() in body or b"hunter22" in body]
    headers = langfuse.headers[0]
    assert (headers["x-langfuse-ingestion-version"], headers["content-encoding"]) == ("4", "gzip")


def _check_ownership(seen: list[Observation], task_id: str) -> None:
    agents = {"orchestrator", "feature-dev", "code-review", "infrastructure", "cicd", "documentation"}
    assert {observation.user_id for observation in seen} == agents
    assert {observation.trace_id for observation in seen} == {trace_id_for(task_id)}
    assert {observation.environment for observation in seen} == {"development"}
    ids = {observation.id for observation in seen}
    assert {o.parent_id for o in seen} - ids == {None}, "a parent is missing"


def _check_amounts(seen: list[Observation], calls: list[dict[str, Any]], task: dict[str, Any]) -> None:
    generations = [observation for observation in seen if observation.type == "GENERATION"]
    assert len(generations) == len(calls) == task["tokens"]["model_calls"]
    tokens = sum(call["input_tokens"] + call["output_tokens"] for call in calls)
    assert sum(observation.usage["total"] for observation in generations) == tokens
    assert sum(observation.cost or 0 for observation in generations) == pytest.approx(task["cost_usd"])
    assert {call["span_id"] for call in calls} == {observation.id for observation in generations}
    assert all(observation.model for observation in generations)
    assert not [o for o in seen if o.type != "GENERATION" and (o.usage or o.cost)]


def _check_types(seen: list[Observation]) -> None:
    of = {kind: {o.name for o in seen if o.type == kind} for kind in ("AGENT", "TOOL", "RETRIEVER")}
    assert "invoke_agent feature-dev" in of["AGENT"]
    assert "workspace_run_command" in of["TOOL"]
    # The gateway's own spans, told by what only it writes.
    at_gateway = [o for o in seen if "devtools.tool.key" in o.attributes]
    assert {o.user_id for o in at_gateway} >= {"orchestrator", "feature-dev", "cicd"}
    releases = {o.release for o in seen}
    assert len(releases) == 1
    assert all(release is None or len(release) == GIT_SHA_CHARS for release in releases)


def test_what_a_dead_sink_missed_waits_through_a_restart_and_is_sent(
    traced: StackProcess, langfuse: FakeLangfuse, shop: Path
) -> None:
    langfuse.status = 503
    try:
        done = traced.run_task(PLAIN, shop)
        assert done["status"] == "completed", done
        eventually(lambda: sink(traced)["last_error"] is not None, "the failure is not shown")
        assert "503" in sink(traced)["last_error"]
        eventually(lambda: sink(traced)["pending"] > 0, "nothing waits")
        shown = run_cli("traces", "sinks", "--data-dir", str(traced.data_dir), env=traced.env)
        assert (shown.returncode, "failing: HTTP 503" in shown.stdout) == (1, True)
        assert langfuse.of_session(done["id"]) == []
        traced.kill_everything()
    finally:
        langfuse.status = None
    traced.start()

    eventually(lambda: sink(traced)["pending"] == 0, "the backlog is not sent")
    assert sink(traced)["lost"] == 0
    seen = {observation.id for observation in langfuse.of_session(done["id"])}
    assert seen == {span["span_id"] for span in traced.get(f"/tasks/{done['id']}/trace")}


def test_a_trace_and_its_cost_are_shown_by_command(traced: StackProcess, shop: Path) -> None:
    done = traced.run_task(PLAIN, shop)
    where = ("--data-dir", str(traced.data_dir))
    shown = run_cli("traces", "show", done["id"], *where, env=traced.env)
    assert shown.returncode == 0
    lines = shown.stdout.splitlines()
    assert lines[0].startswith("task ")
    (chat,) = [line for line in lines if line.strip().startswith("chat") and "code-review" in line]
    assert chat.startswith("    ")
    assert "tokens, $0.00" in chat

    report = json.loads(run_cli("cost", "report", "--by", "task", "--json", *where, env=traced.env).stdout)
    (line,) = [line for line in report["lines"] if line["key"] == done["id"]]
    assert line["cost_usd"] == pytest.approx(done["cost_usd"])
    assert line["input_tokens"] == done["tokens"]["input"]
    told = run_cli(
        "cost", "report", "--compare", "self-hosted", "--machine-usd-per-hour", "3", "--machine-input-tokens-per-s",
        "4000", "--machine-output-tokens-per-s", "1000", *where, env=traced.env,
    )  # fmt: skip
    assert told.returncode == 0, told.stderr
    assert "Your figures: we have not measured them." in told.stdout
    assert "saving       -" in told.stdout
    refused = run_cli("cost", "report", "--compare", "self-hosted", *where, env=traced.env)
    assert (refused.returncode, "nobody but you knows" in refused.stderr) == (2, True)
