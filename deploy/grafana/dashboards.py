"""The Grafana dashboards, as code: `python deploy/grafana/dashboards.py` writes the JSON files beside it.

A test asserts that the files are what stands here, that every query parses and that every metric in it exists.
"""

import json
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
DATASOURCE = {"type": "prometheus", "uid": "${datasource}"}
WIDTH, HEIGHT = 12, 8
COLUMNS = 24
MONTH_SPENT = 'devtools_budget_spent_usd{scope="month"}'


def panel(title: str, unit: str, *queries: tuple[str, str], kind: str = "timeseries") -> dict[str, Any]:
    """One panel; `queries` are (PromQL, legend)."""
    return {
        "title": title,
        "type": kind,
        "datasource": DATASOURCE,
        "fieldConfig": {"defaults": {"unit": unit}, "overrides": []},
        "targets": [
            {"refId": chr(ord("A") + n), "datasource": DATASOURCE, "expr": query, "legendFormat": legend}
            for n, (query, legend) in enumerate(queries)
        ],
    }


def rate(metric: str, by: str, where: str = "") -> str:
    return f"sum by ({by}) (rate({metric}{where}[$__rate_interval]))"


def quantile(share: float, metric: str, by: str) -> str:
    return f"histogram_quantile({share}, sum by ({by}, le) (rate({metric}_bucket[$__rate_interval])))"


def dashboard(uid: str, title: str, panels: list[dict[str, Any]]) -> dict[str, Any]:
    placed = [
        {**one, "id": n + 1, "gridPos": {"h": HEIGHT, "w": WIDTH, "x": n * WIDTH % COLUMNS, "y": n // 2 * HEIGHT}}
        for n, one in enumerate(panels)
    ]
    source = {"name": "datasource", "label": "Prometheus", "type": "datasource", "query": "prometheus"}
    return {
        "uid": uid,
        "title": title,
        "tags": ["dev-tools"],
        "schemaVersion": 39,
        "editable": True,
        "refresh": "30s",
        "time": {"from": "now-6h", "to": "now"},
        "templating": {"list": [source]},
        "panels": placed,
    }


SERVICES = [
    panel("Up", "bool_yes_no", ('up{job=~"devtools-.*"}', "{{job}}"), kind="stat"),
    panel("Requests", "reqps", (rate("devtools_http_requests_total", "service"), "{{service}}")),
    panel(
        "Errors of ours",
        "percentunit",
        (
            rate("devtools_http_requests_total", "service", '{status=~"5.."}')
            + " / "
            + rate("devtools_http_requests_total", "service"),
            "{{service}}",
        ),
    ),
    panel(
        "Request time",
        "s",
        (quantile(0.5, "devtools_http_request_duration_seconds", "service"), "{{service}} half"),
        (quantile(0.95, "devtools_http_request_duration_seconds", "service"), "{{service}} 19 of 20"),
    ),
    panel("Tool calls", "ops", (rate("devtools_tool_calls_total", "server, outcome"), "{{server}} {{outcome}}")),
    panel("MCP servers", "bool_yes_no", ("devtools_mcp_server_up", "{{server}}"), kind="stat"),
    panel("Searches", "ops", (rate("devtools_context_queries_total", "job"), "searches")),
    panel("Releases", "none", ("devtools_rollout_release * devtools_rollout_colour_live > 0", "{{host}} {{colour}}")),
    panel("Last rollout", "s", ("devtools_rollout_last_duration_seconds", "{{host}}"), kind="stat"),
    panel("Indexes that fail", "none", ("devtools_context_indexes_failing", "failing"), kind="stat"),
    panel("Spans that wait", "none", ("devtools_trace_spans_pending", "{{sink}}")),
    panel("Spans lost", "none", ("increase(devtools_trace_spans_lost_total[$__range])", "{{sink}}"), kind="stat"),
]

AGENTS = [
    panel("Tasks that ended", "ops", (rate("devtools_tasks_ended_total", "status, reason"), "{{status}} {{reason}}")),
    panel(
        "Tasks that ended for reasons of ours",
        "percentunit",
        ("devtools:task_failures:ratio1h", "1 h"),
        ("devtools:task_failures:ratio6h", "6 h"),
    ),
    panel(
        "Runs of agents", "ops", (rate("devtools_agent_runs_ended_total", "agent, outcome"), "{{agent}} {{outcome}}")
    ),
    panel("Open tasks", "none", ("max by (status) (devtools_tasks_open)", "{{status}}")),
    panel(
        "Waiting",
        "s",
        ("devtools_queue_oldest_seconds", "for work to begin"),
        ("devtools_approval_oldest_seconds", "for a person"),
        ("devtools_task_silence_seconds", "quietest task"),
    ),
    panel("Approvals that wait", "none", ("max(devtools_approvals_waiting)", "approvals"), kind="stat"),
    panel("Workers alive", "none", ("max(devtools_workers_alive)", "workers"), kind="stat"),
    panel("Model calls", "ops", (rate("devtools_llm_calls_total", "agent, outcome"), "{{agent}} {{outcome}}")),
    panel(
        "Model call time",
        "s",
        (quantile(0.5, "devtools_llm_request_duration_seconds", "agent"), "{{agent}} half"),
        (quantile(0.95, "devtools_llm_request_duration_seconds", "agent"), "{{agent}} 19 of 20"),
    ),
]

SPEND = [
    panel(
        "Spent in an hour", "currencyUSD", ("sum by (agent) (increase(devtools_llm_cost_usd_total[1h]))", "{{agent}}")
    ),
    panel("Spent by model", "currencyUSD", ("sum by (model) (increase(devtools_llm_cost_usd_total[1h]))", "{{model}}")),
    panel("Tokens", "none", (rate("devtools_llm_tokens_total", "agent, direction"), "{{agent}} {{direction}}")),
    panel(
        "Budgets used",
        "percentunit",
        ("devtools_budget_spent_usd / devtools_budget_limit_usd", "{{scope}} {{name}}"),
        ("devtools_budget_task_used_ratio", "fullest task"),
    ),
    panel("This month", "currencyUSD", ('devtools_budget_spent_usd{scope="month"}', "spent"), kind="stat"),
    panel(
        "Month's end at the pace of the last day",
        "currencyUSD",
        (
            MONTH_SPENT + f" + deriv({MONTH_SPENT}[1d]) * 86400 * (days_in_month() - day_of_month() + 1)",
            "projected",
        ),
        kind="stat",
    ),
    panel(
        "Calls stopped by a budget",
        "none",
        ("increase(devtools_budget_blocked_total[$__range])", "{{scope}}"),
        kind="stat",
    ),
    panel(
        "Calls of unknown price",
        "none",
        ("increase(devtools_llm_unpriced_calls_total[$__range])", "{{model}}"),
        kind="stat",
    ),
]


def dashboards() -> dict[str, dict[str, Any]]:
    """File name -> dashboard."""
    return {
        "services.json": dashboard("devtools-services", "Dev-Tools: services", SERVICES),
        "agents.json": dashboard("devtools-agents", "Dev-Tools: tasks and agents", AGENTS),
        "spend.json": dashboard("devtools-spend", "Dev-Tools: spend", SPEND),
    }


def render(board: dict[str, Any]) -> str:
    return json.dumps(board, indent=1, ensure_ascii=False) + "\n"


if __name__ == "__main__":
    for name, board in dashboards().items():
        (HERE / name).write_text(render(board))
