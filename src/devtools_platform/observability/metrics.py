"""Metrics that are no part's own: budgets, the sinks of spans. Names are stable: alerts stand on them."""

from prometheus_client import Counter, Gauge

EXPORT_FAILURES = Counter("devtools_trace_export_failures_total", "Attempts to send spans that failed", ["sink"])
SPANS_LOST = Counter("devtools_trace_spans_lost_total", "Spans a sink will never get", ["sink"])
SPANS_SENT = Counter("devtools_trace_spans_sent_total", "Spans a sink has taken", ["sink"])
SPANS_PENDING = Gauge("devtools_trace_spans_pending", "Spans that wait to be sent", ["sink"])
BUDGET_BLOCKED = Counter("devtools_budget_blocked_total", "Model calls that a budget stopped", ["scope"])
