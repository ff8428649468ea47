"""Scrape config, alerts and dashboards by Prometheus' own tools, and a real Prometheus over a running stack."""

import importlib.util
import json
import pkgutil
import re
import shutil
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import httpx2
import pytest
import yaml
from prometheus_client import REGISTRY

import devtools_platform
from devtools_platform.agents.adapters.scripted import Script
from devtools_platform.app.demo import FILES
from devtools_platform.app.serving import bind
from devtools_platform.kit.metrics import render_metrics
from fakes.openai_server import FakeOpenAI
from stacks import StackProcess, clean_env, make_repo, running_stack

ROOT = Path(__file__).parents[2]
PROMETHEUS = ROOT / "deploy" / "prometheus"
GRAFANA = ROOT / "deploy" / "grafana"
CASES = (PROMETHEUS / "rules_test.yml", PROMETHEUS / "rules_slow_test.yml")


def read(file: Path) -> Any:
    return yaml.safe_load(file.read_text())


RULE_LIST = [rule for group in read(PROMETHEUS / "rules.yml")["groups"] for rule in group["rules"]]
ALERTS = [rule for rule in RULE_LIST if "alert" in rule]
RECORDED = {rule["record"] for rule in RULE_LIST if "record" in rule}


@pytest.fixture(scope="session")
def promtool() -> Callable[..., subprocess.CompletedProcess[str]]:
    path = shutil.which("promtool")
    if path is None:
        pytest.skip("promtool is missing: `apt-get install prometheus prometheus-alertmanager`, as `.ci/run` does")

    def run(*arguments: object) -> subprocess.CompletedProcess[str]:
        command = [path, *map(str, arguments)]
        return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)

    return run


def test_config_and_rules_are_valid_and_each_alert_has_a_case_for_and_against(promtool: Any) -> None:
    checked = promtool("check", "config", PROMETHEUS / "prometheus.yml")
    assert checked.returncode == 0, checked.stdout + checked.stderr
    for file in CASES:
        tested = promtool("test", "rules", file)
        assert tested.returncode == 0, tested.stdout + tested.stderr
    listed = [case for file in CASES for test in read(file)["tests"] for case in test["alert_rule_test"]]
    for alert in ALERTS:
        outcomes = {bool(case["exp_alerts"]) for case in listed if case["alertname"] == alert["alert"]}
        assert outcomes == {True, False}, alert["alert"]


@pytest.mark.parametrize("expression", ["vector(1) > 2", "vector(1)"])
def test_an_alert_that_never_or_always_fires_fails_its_cases(promtool: Any, tmp_path: Path, expression: str) -> None:
    for alert in ALERTS:
        rules = [{**rule, "expr": expression} if rule is alert else rule for rule in RULE_LIST]
        kept = [rule for rule in rules if rule.get("alert") in {None, alert["alert"]}]
        (tmp_path / "rules.yml").write_text(yaml.safe_dump({"groups": [{"name": "mutated", "rules": kept}]}))
        assert not all(passes(promtool, file, alert["alert"], tmp_path) for file in CASES), alert["alert"]


def passes(promtool: Any, file: Path, alert: str, folder: Path) -> bool:
    """Whether the cases of one alert hold against the rules in `folder`."""
    cases = read(file)
    for test in cases["tests"]:
        test["alert_rule_test"] = [case for case in test["alert_rule_test"] if case["alertname"] == alert]
    cases["tests"] = [test for test in cases["tests"] if test["alert_rule_test"]]
    (folder / file.name).write_text(yaml.safe_dump(cases))
    return not cases["tests"] or promtool("test", "rules", folder / file.name).returncode == 0


def test_each_alert_says_how_grave_it_is_and_where_its_runbook_stands() -> None:
    anchors = {
        re.sub(r"[^a-z0-9 -]", "", line.lstrip("# ").strip().lower()).replace(" ", "-")
        for line in (ROOT / "docs" / "how-to" / "prometheus.md").read_text().splitlines()
        if line.startswith("#")
    }
    for alert in ALERTS:
        assert alert["labels"]["severity"] in {"page", "warning"}
        page, _, anchor = alert["annotations"]["runbook"].partition("#")
        assert (page, anchor in anchors) == ("docs/how-to/prometheus.md", True), alert["alert"]


@pytest.fixture(scope="module")
def boards() -> dict[str, Any]:
    spec = importlib.util.spec_from_file_location("dashboards", GRAFANA / "dashboards.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    for name, board in module.dashboards().items():
        assert (GRAFANA / name).read_text() == module.render(board), f"{name}: run deploy/grafana/dashboards.py"
    return module.dashboards()


def expressions(boards: dict[str, Any]) -> list[str]:
    return [target["expr"] for board in boards.values() for panel in board["panels"] for target in panel["targets"]]


def test_dashboards_are_as_generated_and_every_query_parses(
    boards: dict[str, Any], promtool: Any, tmp_path: Path
) -> None:
    def as_rules(queries: list[str]) -> Path:
        plain = [re.sub(r"\$__(rate_interval|range)", "5m", query) for query in queries]
        rules = [{"record": f"query:{n}", "expr": query} for n, query in enumerate(plain)]
        (tmp_path / "queries.yml").write_text(yaml.safe_dump({"groups": [{"name": "queries", "rules": rules}]}))
        return tmp_path / "queries.yml"

    checked = promtool("check", "rules", as_rules(expressions(boards)))
    assert checked.returncode == 0, checked.stdout + checked.stderr
    assert promtool("check", "rules", as_rules(["sum(rate(x[5m])"])).returncode == 1
    assert len({board["uid"] for board in boards.values()}) == len(boards)
    for board in boards.values():
        for panel in board["panels"]:
            assert panel["fieldConfig"]["defaults"]["unit"], panel["title"]
            assert panel["datasource"]["uid"] == "${datasource}"


def test_alerts_and_dashboards_ask_only_for_metrics_that_exist(boards: dict[str, Any]) -> None:
    for module in pkgutil.walk_packages(devtools_platform.__path__, "devtools_platform."):
        if not re.search(r"__main__|\.versions\.|migrations\.env|_child$|landlock_exec", module.name):
            importlib.import_module(module.name)
    known = {name for metric in REGISTRY.collect() for name in (metric.name, f"{metric.name}_total")}
    known |= {f"{metric.name}_bucket" for metric in REGISTRY.collect() if metric.type == "histogram"}
    asked = [*expressions(boards), *(str(rule["expr"]) for rule in RULE_LIST)]
    names = {name for text in asked for name in re.findall(r"\bdevtools[_:][a-z0-9_:]+", text)}
    assert names - known - RECORDED == set()


def test_a_sum_over_all_services_counts_everything_once() -> None:
    importlib.import_module("devtools_platform.app.stack")
    services = ("gateway", "context", "state", "console")
    named = [set(re.findall(r"^# TYPE (devtools_\w+)", render_metrics(s).decode(), re.MULTILINE)) for s in services]
    own = [{name for name in names if not name.startswith("devtools_http_")} for names in named]
    assert all(not one & other for n, one in enumerate(own) for other in own[n + 1 :])
    every = {metric.name for metric in REGISTRY.collect() if metric.name.startswith("devtools_")}
    assert {name.removesuffix("_total") for names in named for name in names} == {
        n.removesuffix("_total") for n in every
    }
    assert own[3] == set()


# -- a real Prometheus ---------------------------------------------------------------------------------------------

RULES_OF_MODEL: list[dict[str, Any]] = [
    {"agent": agent, "turns": [{"output": {"outcome": "done", "summary": "Nothing to change."}}]}
    for agent in ("feature-dev", "documentation")
]
TASKS = 20
PRICES = 'prices:\n- {model: "*", input_usd: 1, output_usd: 2, source: this test}\n'


OF_A_RUNNING_STACK = [
    f"count({text}) >= bool 1"
    for text in (
        'devtools_http_requests_total{service="console"}',
        'devtools_http_request_duration_seconds_bucket{service="state"}',
        'devtools_tasks_open{status="queued"}',
        "devtools_queue_oldest_seconds",
        "devtools_approvals_waiting",
        "devtools_workers_alive",
        "devtools_context_indexes_failing",
        "devtools_context_last_index_timestamp_seconds",
        "devtools_gauges_refreshed_timestamp_seconds",
    )
]
"""What the issue asks to be measured, and no other line here counts."""


class Webhook:
    """Takes what Alertmanager sends."""

    def __init__(self) -> None:
        self.alerts: list[dict[str, Any]] = []
        received = self.alerts

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["content-length"])))
                received.extend(body["alerts"])
                self.send_response(200)
                self.end_headers()

            def log_message(self, *_: Any) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=self.server.serve_forever, args=(0.05,), daemon=True).start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server.server_address[1]}/alerts"


@contextmanager
def program(name: str, *arguments: str, log: Path) -> Iterator[None]:
    path = shutil.which(name)
    if path is None:
        pytest.skip(f"{name} is missing: `apt-get install prometheus prometheus-alertmanager`, as `.ci/run` does")
    with log.open("w") as file, subprocess.Popen([path, *arguments], stdout=file, stderr=file) as process:
        try:
            yield
        finally:
            process.terminate()
            process.wait(timeout=20)


def free_port() -> int:
    with bind("127.0.0.1", 0, "x") as sock:
        return sock.getsockname()[1]


@pytest.fixture
def stack(tmp_path: Path) -> Iterator[StackProcess]:
    (tmp_path / "prices.yaml").write_text(PRICES)
    with FakeOpenAI(Script.parse(RULES_OF_MODEL)) as endpoint:
        env = clean_env(
            DEV_TOOLS_MODEL_BASE_URL=endpoint.base_url,
            DEV_TOOLS_MODEL_API_KEY=str(endpoint.api_key),
            DEV_TOOLS_MODEL=endpoint.models[0],
            DEV_TOOLS_PRICES=str(tmp_path / "prices.yaml"),
            DEV_TOOLS_CONCURRENT_TASKS="4",
            DEV_TOOLS_AGENT_CONCURRENCY="4",
        )
        with running_stack(tmp_path / "data", env) as running:
            yield running


@pytest.fixture
def webhook() -> Iterator[Webhook]:
    hook = Webhook()
    yield hook
    hook.server.shutdown()
    hook.server.server_close()


@pytest.fixture
def prometheus(stack: StackProcess, webhook: Webhook, tmp_path: Path) -> Iterator[str]:
    """Its URL. The shipped configuration with this stack's ports and everything quicker."""
    folder, port, alert_port = tmp_path / "prometheus", free_port(), free_port()
    folder.mkdir()
    _write_config(folder, stack, alert_port, webhook.url)
    with ExitStack() as programs:
        programs.enter_context(
            program(
                "prometheus-alertmanager", f"--config.file={folder / 'alertmanager.yml'}", "--cluster.listen-address=",
                f"--storage.path={folder / 'alerts'}", f"--web.listen-address=127.0.0.1:{alert_port}",
                log=folder / "alertmanager.log",
            )
        )  # fmt: skip
        programs.enter_context(
            program(
                "prometheus", f"--config.file={folder / 'prometheus.yml'}", f"--storage.tsdb.path={folder / 'data'}",
                f"--web.listen-address=127.0.0.1:{port}", log=folder / "prometheus.log",
            )
        )  # fmt: skip
        yield f"http://127.0.0.1:{port}"


def _write_config(folder: Path, stack: StackProcess, alert_port: int, webhook: str) -> None:
    assert stack.facts is not None
    config = yaml.safe_load((PROMETHEUS / "prometheus.yml").read_text())
    config["global"] = {"scrape_interval": "1s", "evaluation_interval": "1s"}
    config["alerting"]["alertmanagers"][0]["static_configs"][0]["targets"] = [f"127.0.0.1:{alert_port}"]
    for job in config["scrape_configs"]:
        url = stack.facts["urls"][job["job_name"].removeprefix("devtools-")]
        job["static_configs"] = [{"targets": [url.removeprefix("http://")]}]
    (folder / "prometheus.yml").write_text(yaml.safe_dump(config))
    rules = re.sub(r"for: \d+m", "for: 1s", (PROMETHEUS / "rules.yml").read_text())
    (folder / "rules.yml").write_text(rules)
    alerting = yaml.safe_load((PROMETHEUS / "alertmanager.yml").read_text())
    alerting["route"] |= {"group_wait": "0s", "group_interval": "1s"}
    alerting["receivers"][0]["webhook_configs"][0]["url"] = webhook
    (folder / "alertmanager.yml").write_text(yaml.safe_dump(alerting))


def query(url: str, text: str) -> float | None:
    """One number; None while there is none."""
    try:
        answer = httpx2.get(f"{url}/api/v1/query", params={"query": text}, timeout=5, trust_env=False).json()
    except httpx2.HTTPError:
        return None
    result = answer["data"]["result"]
    return float(result[0]["value"][1]) if result else None


def eventually(look: Callable[[], bool], what: Callable[[], object], for_s: float = 30) -> None:
    """Polls another program, which cannot wake us."""
    deadline = time.monotonic() + for_s
    while not look():
        assert time.monotonic() < deadline, what()
        time.sleep(0.2)


def test_prometheus_counts_what_the_ledger_has_and_tells_when_a_service_is_killed(
    stack: StackProcess, prometheus: str, webhook: Webhook, tmp_path: Path
) -> None:
    repo = make_repo(tmp_path / "shop", FILES)
    tasks = [
        stack.create_task("Nothing to do here.", repo, agent=("feature-dev", "documentation")[n % 2])["id"]
        for n in range(TASKS)
    ]
    ended = [stack.wait_for_end(task) for task in tasks]
    assert {task["reason"] for task in ended} == {"no_change"}
    ledger = stack.get("/costs?by=agent")
    assert ledger["total"]["calls"] == TASKS

    expected = {
        'sum(up{job=~"devtools-.*"})': 4,
        'sum(devtools_llm_calls_total{outcome="ok"})': TASKS,
        'sum(devtools_llm_tokens_total{direction="input"})': ledger["total"]["input_tokens"],
        'sum(devtools_llm_tokens_total{direction="output"})': ledger["total"]["output_tokens"],
        "sum(devtools_llm_cost_usd_total)": ledger["total"]["cost_usd"],
        'devtools_budget_spent_usd{scope="month"}': ledger["total"]["cost_usd"],
        "sum(devtools_tasks_ended_total)": TASKS,
        'sum(devtools_agent_runs_ended_total{agent="documentation", outcome="completed"})': TASKS / 2,
        **dict.fromkeys(OF_A_RUNNING_STACK, 1),
        **{f'sum(devtools_llm_cost_usd_total{{agent="{line["key"]}"}})': line["cost_usd"] for line in ledger["lines"]},
    }
    for text, number in expected.items():
        eventually(
            lambda text=text, number=number: query(prometheus, text) == pytest.approx(number),
            lambda text=text, number=number: (text, query(prometheus, text), number),
        )
    down = ("DevToolsTargetDown", "firing", "devtools-gateway")
    assert down not in told(webhook)
    stack.kill_everything()
    eventually(lambda: down in told(webhook), lambda: told(webhook))


def told(webhook: Webhook) -> set[tuple[str, str, str]]:
    return {(a["labels"]["alertname"], a["status"], a["labels"].get("job", "")) for a in webhook.alerts}
